//! One statement of a command.

use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use crate::{Error, JobQueue, statement};

/// The server cancels a statement of a command after this time: whoever waits for the command may have gone.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

type Arg<'a> = (&'a (dyn ToSql + Sync), Type);

/// The rows of one statement. The name and the state of an error stay: the error is the library's.
pub(super) async fn rows(queue: &JobQueue, sql: &str, args: &[Arg<'_>]) -> Result<Vec<tokio_postgres::Row>, Error> {
    statement::query(queue.pool(), STATEMENT_TIMEOUT, sql, args).await
}
