//! The schema in the database: numbered SQL files, embedded, checksummed, applied once each.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use crate::Error;

/// A numbered file of `migrations/`.
#[derive(Debug)]
pub struct Migration {
    /// Its number; they are applied in this order.
    pub version: i32,
    /// Its file's name without the ending.
    pub name: &'static str,
    /// What it does.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $file:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $file, sql: include_str!(concat!("../migrations/", $file, ".sql")) }),*]
    };
}

/// All migrations this program knows.
pub const MIGRATIONS: &[Migration] = migrations![
    1 "0001_tables",
    2 "0002_enqueue",
    3 "0003_work",
    4 "0004_look",
    5 "0005_keep",
    6 "0006_roles",
    7 "0007_control",
    8 "0008_metrics",
    9 "0009_cluster",
    10 "0010_pods",
];

/// One line of `rowlock migrate status`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct MigrationStatus {
    pub version: i32,
    pub name: String,
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
    /// `applied`, `pending`, or what is wrong.
    pub state: String,
}

// Any number will do as long as no other program uses it: the first bytes of "rowlock".
const LOCK: i64 = 0x0072_6f77_6c6f_636b;
const WAIT: Duration = Duration::from_secs(60);

/// Applies what is missing, all in one transaction, and returns the numbers it applied. Safe to call from
/// many programs at once: one works, the others wait up to a minute and then find it done.
///
/// # Errors
/// [`Error::Schema`] if the database's schema is newer than this program, or an applied file was changed.
///
/// ```no_run
/// # async fn f() -> Result<(), rowlock::Error> {
/// let queue = rowlock::JobQueue::connect("postgres://localhost/app").await?;
/// let applied = queue.migrate().await?;
/// # Ok(()) }
/// ```
pub async fn up(client: &mut Client) -> Result<Vec<i32>, Error> {
    let started = Instant::now();
    loop {
        let tx = client.transaction().await?;
        // Bound to the transaction, so that it also works through PgBouncer; polled, so that no session
        // waits inside the server.
        let locked: bool = tx
            .query_typed("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, tokio_postgres::types::Type::INT8)])
            .await?[0]
            .get(0);
        if locked {
            let applied = apply_missing(&tx).await?;
            tx.commit().await?;
            return Ok(applied);
        }
        tx.rollback().await?;
        if started.elapsed() > WAIT {
            return Err(Error::Schema(
                "another migration has held the lock for a minute; look for it in pg_stat_activity".into(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn apply_missing(tx: &tokio_postgres::Transaction<'_>) -> Result<Vec<i32>, Error> {
    let status = read_status(tx).await?;
    if let Some(bad) = status.iter().find(|s| s.state != "applied" && s.state != "pending") {
        return Err(Error::Schema(format!("migration {} ({}): {}", bad.version, bad.name, bad.state)));
    }
    let mut applied = Vec::new();
    for m in MIGRATIONS.iter().filter(|m| status.iter().any(|s| s.version == m.version && s.state == "pending")) {
        tx.batch_execute(m.sql).await?;
        if m.version == 1 {
            tx.batch_execute(
                "CREATE TABLE rowlock.migration (version int4 PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                   applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
            )
            .await?;
        }
        tx.query_typed(
            "INSERT INTO rowlock.migration (version, name, checksum) VALUES ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'))",
            &[
                (&m.version, tokio_postgres::types::Type::INT4),
                (&m.name, tokio_postgres::types::Type::TEXT),
                (&m.sql, tokio_postgres::types::Type::TEXT),
            ],
        )
        .await?;
        applied.push(m.version);
    }
    Ok(applied)
}

/// What is applied, what is missing, what does not fit.
///
/// # Errors
/// [`Error::Database`].
///
/// ```no_run
/// # async fn f(client: &tokio_postgres::Client) -> Result<(), rowlock::Error> {
/// for m in rowlock::migrate::status(client).await? {
///     println!("{} {}", m.version, m.state);
/// }
/// # Ok(()) }
/// ```
pub async fn status(client: &impl tokio_postgres::GenericClient) -> Result<Vec<MigrationStatus>, Error> {
    read_status(client).await
}

async fn read_status(client: &impl tokio_postgres::GenericClient) -> Result<Vec<MigrationStatus>, Error> {
    let exists: bool = client.query_typed("SELECT to_regclass('rowlock.migration') IS NOT NULL", &[]).await?[0].get(0);
    let rows = if exists {
        let texts: Vec<&str> = MIGRATIONS.iter().map(|m| m.sql).collect();
        client
            .query_typed(
                "SELECT m.version, m.name, m.applied_at,
                        m.checksum = encode(sha256(convert_to(($1::text[])[m.version], 'UTF8')), 'hex') AS same
                   FROM rowlock.migration m ORDER BY 1",
                &[(&texts, tokio_postgres::types::Type::TEXT_ARRAY)],
            )
            .await?
    } else {
        Vec::new()
    };
    let mut all: Vec<MigrationStatus> = rows
        .iter()
        .map(|r| MigrationStatus {
            version: r.get(0),
            name: r.get(1),
            applied_at: Some(r.get(2)),
            state: match r.get::<_, Option<bool>>(3) {
                Some(true) => "applied".into(),
                Some(false) => {
                    "was changed after it was applied; restore the file, and put the change in a new one".into()
                }
                None => format!(
                    "is newer than this program, which knows {} migrations: use a newer rowlock",
                    MIGRATIONS.len()
                ),
            },
        })
        .collect();
    for m in MIGRATIONS {
        if !all.iter().any(|s| s.version == m.version) {
            all.push(MigrationStatus {
                version: m.version,
                name: m.name.into(),
                applied_at: None,
                state: "pending".into(),
            });
        }
    }
    all.sort_by_key(|s| s.version);
    Ok(all)
}
