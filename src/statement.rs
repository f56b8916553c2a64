//! One statement with an end on both sides: the server cancels it after a time, and the client waits no longer. A
//! caller that only gives up leaves its statement running on the server, and the next one beside it.

use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};
use futures_util::future::join3;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::Error;

pub(crate) type Args<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// The server's own answer, that it has cancelled the statement, gets this much time to arrive.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Runs one statement in a transaction of its own, which the server ends after `timeout`.
///
/// # Errors
/// [`Error::Pool`] without an answer in time, [`Error::Database`] with SQLSTATE 57014 if the server has cancelled the
/// statement, and the statement's own.
pub(crate) async fn query(pool: &Pool, timeout: Duration, sql: &str, args: &Args<'_>) -> Result<Vec<Row>, Error> {
    let late = |_| Error::Pool(format!("no answer from the database within {} s", timeout.as_secs_f64()));
    let started = Instant::now();
    let client = tokio::time::timeout(timeout, pool.get()).await.map_err(late)??;
    let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let mut lent = Lent(Some(client));
    let rows = tokio::time::timeout(left + ANSWER_GRACE, lent.query(left, sql, args)).await.map_err(late)?;
    // The transaction is over, with or without an error: the connection is as before.
    drop(lent.0.take());
    rows
}

/// A connection that goes back to its pool only when its transaction is over. A dropped future leaves one open.
struct Lent(Option<Object>);

impl Lent {
    /// Sends three messages at once, so that the transaction costs no time on the way. The limit holds for it alone:
    /// behind a pooler the next transaction on this connection is somebody else's.
    async fn query(&mut self, limit: Duration, sql: &str, args: &Args<'_>) -> Result<Vec<Row>, Error> {
        let Some(client) = &self.0 else { return Err(Error::Pool("the connection is gone".into())) };
        let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", limit.as_millis().max(1));
        let (begun, rows, ended) =
            join3(client.batch_execute(&begin), client.query_typed(sql, args), client.batch_execute("COMMIT")).await;
        begun?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}
