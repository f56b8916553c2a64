//! The questions to the database about Pods: whose they are, and which of their jobs are active.

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::{Error, JobQueue};

/// The id of the database, which all Pods of its jobs have as a label.
pub(crate) async fn id(queue: &JobQueue) -> Result<Uuid, Error> {
    let client = queue.pool().get().await?;
    let rows = client.query_typed("SELECT rowlock.database_v1()", &[]).await?;
    Ok(rows[0].try_get(0)?)
}

/// Of these jobs, those that run or are due.
pub(super) async fn active_jobs(queue: &JobQueue, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let client = queue.pool().get().await?;
    let sql = "SELECT id FROM rowlock.active_jobs_v1($1)";
    let rows = client.query_typed(sql, &[(&ids, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}
