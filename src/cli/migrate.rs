//! `rowlock migrate up` and `status`.

use super::output::{self, Output, Table};
use crate::JobQueue;

pub(super) async fn up(queue: &JobQueue) -> anyhow::Result<()> {
    let applied = queue.migrate().await?;
    output::message(&if applied.is_empty() {
        "the schema is up to date".to_owned()
    } else {
        format!("applied {} migrations and {} files of the schema", applied.migrations.len(), applied.texts.len())
    });
    Ok(())
}

pub(super) async fn status(queue: &JobQueue, out: &Output) -> anyhow::Result<()> {
    let status = queue.migration_status().await?;
    let mut table = Table::new(&["version", "name", "state", "applied_at"]);
    for s in &status {
        let version = s.version.map_or_else(String::new, |v| v.to_string());
        table.row([version, s.name.clone(), s.state.clone(), output::time(s.applied_at)]);
    }
    out.list(&status, table, |s| s.name.clone())
}
