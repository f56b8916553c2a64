//! Which files of the schema are applied, and which do not fit.

use serde::Serialize;
use tokio_postgres::{GenericClient, Row, types::Type};

use super::files::{MIGRATIONS, TEXTS, checksum, release, text_name};
use crate::Error;

/// One line of `rowlock migrate status`.
#[derive(Debug, Clone, Serialize)]
pub struct MigrationStatus {
    /// The migration's number, null for a text.
    pub version: Option<i32>,
    /// The file's name; a text's begins with `schema/`.
    pub name: String,
    /// When the file was applied last.
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
    /// `applied`, `pending`, or a sentence that says what is wrong.
    pub state: String,
}

/// Says of each file whether it is applied, and what does not fit.
///
/// # Errors
/// [`Error::Database`].
///
/// ```no_run
/// # async fn f(client: &tokio_postgres::Client) -> Result<(), rowlock::Error> {
/// for m in rowlock::migrate::status(client).await? {
///     println!("{} {}", m.name, m.state);
/// }
/// # Ok(()) }
/// ```
pub async fn status(client: &impl GenericClient) -> Result<Vec<MigrationStatus>, Error> {
    let sql = "SELECT version, name, checksum, applied_at FROM rowlock.migration ORDER BY version";
    let migrations = rows_of(client, "rowlock.migration", sql).await?;
    let sql = "SELECT file, checksum, release, applied_at FROM rowlock.schema_text ORDER BY file COLLATE \"C\"";
    let texts = rows_of(client, "rowlock.schema_text", sql).await?;
    let mut all = Vec::new();
    for row in &migrations {
        let (version, checksum): (i32, &str) = (row.get(0), row.get(2));
        let state = migration_state(version, checksum);
        all.push(MigrationStatus { version: Some(version), name: row.get(1), applied_at: Some(row.get(3)), state });
    }
    for m in MIGRATIONS.iter().filter(|m| migrations.iter().all(|row| row.get::<_, i32>(0) != m.version)) {
        all.push(pending(Some(m.version), m.name.to_owned()));
    }
    for row in &texts {
        let (file, checksum, by): (&str, &str, Vec<i32>) = (row.get(0), row.get(1), row.get(2));
        // One that an earlier release had and this one has not is no longer of interest.
        let Some(state) = text_state(file, checksum, &by) else { continue };
        all.push(MigrationStatus { version: None, name: text_name(file), applied_at: Some(row.get(3)), state });
    }
    for t in TEXTS.iter().filter(|t| texts.iter().all(|row| row.get::<_, &str>(0) != t.file)) {
        all.push(pending(None, text_name(t.file)));
    }
    Ok(all)
}

/// None if the table is not there yet.
async fn rows_of(client: &impl GenericClient, table: &str, sql: &str) -> Result<Vec<Row>, Error> {
    let is_there = client.query_typed("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)]).await?;
    if !is_there[0].get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    Ok(client.query_typed(sql, &[]).await?)
}

fn pending(version: Option<i32>, name: String) -> MigrationStatus {
    MigrationStatus { version, name, applied_at: None, state: "pending".into() }
}

fn migration_state(version: i32, applied: &str) -> String {
    match MIGRATIONS.iter().find(|m| m.version == version) {
        Some(m) if checksum(m.sql) == applied => "applied".into(),
        Some(_) => "was changed after it was applied; restore the file, and put the change in a new one".into(),
        None => format!("is newer than this program, which knows {} migrations: use a newer rowlock", MIGRATIONS.len()),
    }
}

fn text_state(file: &str, applied: &str, by: &[i32]) -> Option<String> {
    let known = TEXTS.iter().find(|t| t.file == file);
    if known.is_some_and(|t| checksum(t.sql) == applied) {
        return Some("applied".into());
    }
    if by > release().as_slice() {
        let by: Vec<String> = by.iter().map(ToString::to_string).collect();
        let mine = env!("CARGO_PKG_VERSION");
        return Some(format!("was written by release {}, this program is {mine}: use a newer rowlock", by.join(".")));
    }
    known.map(|_| "pending".into())
}
