//! The schema in the database: the numbered files of `migrations/`, applied once each, and the files of `schema/`,
//! applied again whenever their text has changed. All are embedded and checksummed.
//! Its rooms: `files`, the embedded texts; `status`, which of them are applied.

mod files;
mod status;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use tokio_postgres::{Client, IsolationLevel, Transaction, types::Type};

use self::files::{checksum, release, text_name};
pub use self::{
    files::{MIGRATIONS, Migration, TEXTS, Text, release_number, text_digest},
    status::{MigrationStatus, status},
};
use crate::Error;

/// Roles and grants are brought about by every migration: a restored dump may lack them.
const GRANTS: &str = "90_grants";

/// The files that `up` applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Numbers of migrations.
    pub migrations: Vec<i32>,
    /// Names of texts whose checksum was another.
    pub texts: Vec<&'static str>,
}

impl Applied {
    /// Whether there was nothing to do.
    ///
    /// ```
    /// assert!(rowlock::migrate::Applied::default().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.texts.is_empty()
    }
}

const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// No setting of the user's or the database's changes what a file means or how long it may take. Who waits for a
/// lock makes everybody behind it wait, so no wait is long: the whole transaction is tried again.
const SETTINGS: &str = "SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SET LOCAL standard_conforming_strings = on;
SET LOCAL array_nulls = on;
SET LOCAL intervalstyle = postgres;
SET LOCAL check_function_bodies = on;
SET LOCAL default_tablespace = '';
SET LOCAL default_table_access_method = heap;
SELECT set_config(s.name, '0', true) FROM pg_settings s WHERE s.name = 'transaction_timeout';
";

/// Applies what is missing, all in one transaction, and says what. Many programs may call it at once: one works, the
/// others wait up to a minute and then find nothing to do.
///
/// # Errors
/// [`Error::Schema`] if the database's schema is newer than this program, if an applied migration was changed, or if
/// the database cannot hold the schema; [`Error::Database`].
///
/// ```no_run
/// # async fn f() -> Result<(), rowlock::Error> {
/// let queue = rowlock::JobQueue::connect("postgres://localhost/app").await?;
/// let applied = queue.migrate().await?;
/// # Ok(()) }
/// ```
pub async fn up(client: &mut Client) -> Result<Applied, Error> {
    let started = Instant::now();
    loop {
        let mut at = "rowlock.migration";
        match attempt(client, &mut at).await {
            Err(Error::Database(e)) if is_busy(&e) => {}
            done_or_failed => return done_or_failed,
        }
        if started.elapsed() > LOCK_TIMEOUT {
            return Err(Error::Schema(format!(
                "{at}: another session has held a lock for a minute, a migration or a long query on a view of rowlock; \
                 look for it in pg_stat_activity, then run rowlock migrate up again"
            )));
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

/// Whether another session was in the way. Of two first installations the second finds the schema's name taken.
fn is_busy(e: &tokio_postgres::Error) -> bool {
    let Some(db) = e.as_db_error() else { return false };
    match db.code().code() {
        "55P03" | "40P01" | "40001" | "42P06" => true,
        "23505" => db.constraint() == Some("pg_namespace_nspname_index"),
        _ => false,
    }
}

async fn attempt(client: &mut Client, at: &mut &'static str) -> Result<Applied, Error> {
    let read_committed = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let tx = read_committed.read_only(false).start().await?;
    tx.batch_execute(SETTINGS).await?;
    if is_installed(&tx).await? {
        // A lock that only the schema's owner may take; anybody may take an advisory lock. Bound to the transaction,
        // so that it works through PgBouncer, too. The first installation's lock is the name of the schema.
        tx.batch_execute("LOCK TABLE rowlock.migration IN SHARE UPDATE EXCLUSIVE MODE").await?;
    }
    let status = status(&tx).await?;
    if let Some(bad) = status.iter().find(|s| s.state != "applied" && s.state != "pending") {
        return Err(Error::Schema(format!("{}: {}", bad.name, bad.state)));
    }
    let applied = apply(&tx, &status, at).await?;
    tx.commit().await?;
    Ok(applied)
}

/// Whether the schema is there. Refuses a database that cannot hold it.
async fn is_installed(tx: &Transaction<'_>) -> Result<bool, Error> {
    let sql = "SELECT to_regnamespace('rowlock') IS NOT NULL, to_regclass('rowlock.migration') IS NOT NULL,
                      current_setting('server_version_num')::int4, current_setting('server_version'),
                      current_setting('server_encoding')";
    let rows = tx.query_typed(sql, &[]).await?;
    let row = &rows[0];
    let (schema, ours): (bool, bool) = (row.get(0), row.get(1));
    let (version, encoding): (i32, &str) = (row.get(2), row.get(4));
    if version < 150_000 {
        let version: &str = row.get(3);
        return Err(Error::Schema(format!("server: expected PostgreSQL 15 or later, got {version}")));
    }
    if encoding != "UTF8" {
        return Err(Error::Schema(format!(
            "database: expected the encoding UTF8, got {encoding}; make a database with ENCODING 'UTF8' TEMPLATE \
             template0"
        )));
    }
    if schema && !ours {
        let text = "schema rowlock: there is one that is not Rowlock's; rename it, or use another database";
        return Err(Error::Schema(text.into()));
    }
    Ok(ours)
}

async fn apply(tx: &Transaction<'_>, status: &[MigrationStatus], at: &mut &'static str) -> Result<Applied, Error> {
    let pending = |name: &str| status.iter().any(|s| s.name == name && s.state == "pending");
    let mut applied = Applied::default();
    for m in MIGRATIONS.iter().filter(|m| pending(m.name)) {
        *at = m.name;
        tx.batch_execute(m.sql).await?;
        tx.batch_execute(&record_migration(m)).await?;
        applied.migrations.push(m.version);
    }
    for t in TEXTS {
        let changed = pending(&text_name(t.file));
        if changed || t.file == GRANTS {
            *at = t.file;
            tx.batch_execute(t.sql).await?;
        }
        if changed {
            tx.batch_execute(&record_text(t)).await?;
            applied.texts.push(t.file);
        }
    }
    let files: Vec<&str> = TEXTS.iter().map(|t| t.file).collect();
    let sql = "DELETE FROM rowlock.schema_text WHERE file <> ALL ($1)";
    tx.query_typed(sql, &[(&files, Type::TEXT_ARRAY)]).await?;
    Ok(applied)
}

fn record_migration(m: &Migration) -> String {
    let checksum = checksum(m.sql);
    format!(
        "INSERT INTO rowlock.migration (version, name, checksum) VALUES ({}, '{}', '{checksum}');\n",
        m.version, m.name
    )
}

fn record_text(t: &Text) -> String {
    let (checksum, release) = (checksum(t.sql), release());
    format!(
        "INSERT INTO rowlock.schema_text (file, checksum, release) VALUES ('{}', '{checksum}', ARRAY{release:?})
ON CONFLICT (file) DO UPDATE
   SET checksum = excluded.checksum, release = excluded.release, applied_at = clock_timestamp();\n",
        t.file
    )
}

/// The whole schema as one script for a database that has none, as `rowlock migrate sql` prints it.
///
/// ```
/// assert!(rowlock::migrate::script().contains("CREATE SCHEMA rowlock;"));
/// ```
#[must_use]
pub fn script() -> String {
    let mut script = format!("BEGIN;\n{SETTINGS}");
    for m in MIGRATIONS {
        let _ = write!(script, "\n-- migrations/{}.sql\n\n{}\n{}", m.name, m.sql, record_migration(m));
    }
    for t in TEXTS {
        let _ = write!(script, "\n-- schema/{}.sql\n\n{}\n{}", t.file, t.sql, record_text(t));
    }
    script.push_str("\nCOMMIT;\n");
    script
}
