//! One statement with an end on both sides: the server cancels it after a time, and the client waits no longer. A
//! caller that only gives up leaves its statement running on the server, and the next one beside it.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use futures_util::future::join3;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{Error, connect::lent::Lent};

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
    let client = tokio::time::timeout(timeout, Lent::from(pool)).await.map_err(late)??;
    let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let answer = tokio::time::timeout(left + ANSWER_GRACE, in_transaction(&client, left, sql, args));
    let rows = answer.await.map_err(late)?;
    // The transaction is over, with or without an error.
    client.give_back();
    rows
}

/// Sends three messages at once, so that the transaction costs no time on the way. The limit holds for the transaction
/// alone: behind a pooler the next one on this connection is somebody else's.
async fn in_transaction(client: &Lent, limit: Duration, sql: &str, args: &Args<'_>) -> Result<Vec<Row>, Error> {
    let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", limit.as_millis().max(1));
    let (begun, rows, ended) =
        join3(client.batch_execute(&begin), client.query_typed(sql, args), client.batch_execute("COMMIT")).await;
    begun?;
    let rows = rows?;
    ended?;
    Ok(rows)
}
