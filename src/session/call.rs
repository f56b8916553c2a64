//! One call of the worker's SQL on one connection.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::timeout;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{Error, connect::lent::Lent};

/// An argument and its type, as PgBouncer in transaction mode needs them: no statement is prepared by name.
pub(super) type Arg<'a> = (&'a (dyn ToSql + Sync), Type);

/// Asks once, and waits at most `within` for the answer.
pub(super) async fn call(pool: &Pool, within: Duration, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>, Error> {
    let connection = Lent::from(pool).await?;
    let rows = timeout(within, connection.query_typed(sql, args)).await.map_err(|_| {
        Error::Pool(format!("no answer within {within:?}; the connection was closed, the next call opens another"))
    })?;
    let rows = rows.map_err(Error::from);
    if rows.as_ref().err().is_none_or(|error| !error.wants_new_connection()) {
        connection.give_back();
    }
    rows
}
