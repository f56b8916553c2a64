//! Rounds of maintenance, in which every worker and controller takes part: due jobs become ready, those of lost workers
//! are rescued, totals are folded. The controller does, too: with no worker, somebody must find that jobs for
//! later are due, or none would ever be started for them.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Error, session::Maintained};

/// How often a place that another holds is asked for. A dead keeper holds it for a second (see `maintain_v1`), so that
/// the jobs of the lost wait for their lease and a second and a half at most, even where keepers are lost in a row.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Does the rounds while the holder is the keeper, and asks now and then while it is not, until `end`. A keeper that
/// has given its place back is heard of by `keeper_ended`: due jobs must not wait for the next question.
pub(crate) async fn maintain<F>(round: impl Fn() -> F, keeper_ended: Arc<Notify>, end: CancellationToken)
where
    F: Future<Output = Result<Maintained, Error>>,
{
    loop {
        let wait = match round().await {
            // As many as one round promotes: there are more.
            Ok(Maintained { keeper: true, promoted: 2000.., .. }) => Duration::ZERO,
            Ok(Maintained { keeper: true, rescued, .. }) => {
                if rescued > 0 {
                    tracing::info!(rescued, "put back the jobs of lost workers");
                }
                // Due jobs are to be claimable within 100 ms of their time.
                Duration::from_millis(80)
            }
            Ok(Maintained { keeper: false, .. }) => ASK_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "maintenance failed");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = keeper_ended.notified() => {}
            () = end.cancelled() => return,
        }
    }
}
