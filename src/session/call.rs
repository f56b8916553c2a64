//! One call of the worker's SQL on one connection.
//!
//! A connection goes back to the pool only after it has answered. A call that was given up (its future was dropped, or
//! its time was over) leaves a connection that may never answer again: half open, or with a statement that hangs. The
//! next call must not wait behind it, so that connection is closed.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::timeout;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::Error;

/// An argument and its type, as PgBouncer in transaction mode needs them: no statement is prepared by name.
pub(super) type Arg<'a> = (&'a (dyn ToSql + Sync), Type);

/// Asks once, and waits at most `within` for the answer.
pub(super) async fn call(pool: &Pool, within: Duration, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>, Error> {
    let connection = Connection(Some(pool.get().await?));
    let client = connection.0.as_ref().expect("it is there until the call has ended");
    let rows = timeout(within, client.query_typed(sql, args)).await.map_err(|_| {
        Error::Pool(format!("no answer within {within:?}; the connection was closed, the next call opens another"))
    })?;
    let rows = rows.map_err(Error::from);
    if rows.as_ref().err().is_none_or(|error| !error.wants_new_connection()) {
        connection.answered();
    }
    rows
}

struct Connection(Option<Object>);

impl Connection {
    fn answered(mut self) {
        self.0.take();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}
