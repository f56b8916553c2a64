//! `rowlock migrate up` and `status`.

use super::output::{self, Output, Table};
use crate::JobQueue;

pub(super) async fn up(queue: &JobQueue) -> anyhow::Result<()> {
    let applied = queue.migrate().await?;
    output::message(&match applied.len() {
        0 => "the schema is up to date".to_owned(),
        n => format!("applied {n} migrations"),
    });
    Ok(())
}

pub(super) async fn status(queue: &JobQueue, out: &Output) -> anyhow::Result<()> {
    let status = queue.migration_status().await?;
    let mut table = Table::new(&["version", "name", "state", "applied_at"]);
    for s in &status {
        table.row([s.version.to_string(), s.name.clone(), s.state.clone(), output::time(s.applied_at)]);
    }
    out.list(&status, table, |s| s.version.to_string())
}
