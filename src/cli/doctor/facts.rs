//! The facts that the database is asked for. Everybody may read the catalogues, so that a user without a right is
//! answered, too.

use std::time::Duration;

use tokio_postgres::{Row, types::Type};

use crate::{Error, JobQueue, migrate};

/// The answers, for the checks to judge.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub user: String,
    pub database: String,
    pub superuser: bool,
    pub version: String,
    pub version_number: i32,
    pub encoding: String,
    pub standby: bool,
    pub read_only: bool,
    pub autovacuum: bool,
    pub synchronous_commit: String,
    pub connections: (i64, i64),
    /// In seconds; none if the sessions of others are hidden from this user.
    pub oldest_transaction: Option<f64>,
    /// Who owns the schema, if there is one.
    pub owner: Option<String>,
    pub is_owner: bool,
    /// Whether the schema's owner may make roles.
    pub owner_makes_roles: bool,
    /// A superuser as whom functions run.
    pub superuser_owner: Option<String>,
    /// Of the four roles, those that there are, and those whose rights this user has.
    pub roles: Vec<String>,
    pub member_of: Vec<String>,
    /// Whether this user may call anything of the schema at all.
    pub has_rights: bool,
    pub schema: Schema,
    pub grants: Vec<Grant>,
    /// By name, and whether it leads; none if this user may not see them.
    pub controllers: Option<Vec<(String, bool)>>,
    /// None if this user may not ask.
    pub failures: Option<Vec<PartFailure>>,
    pub pooler: Pooler,
}

/// A part of a round of maintenance that has gone wrong.
#[derive(Debug, Clone)]
pub(super) struct PartFailure {
    pub part: String,
    pub times: f64,
    pub seconds_ago: f64,
    pub error: String,
}

#[derive(Debug, Clone)]
pub(super) enum Schema {
    /// By file: what is not applied, and why.
    Files(Vec<(String, String)>),
    /// Only the schema's owner may read which files are applied.
    Hidden,
}

/// A right that the schema's own table of grants gives.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub role: String,
    /// A function or a view.
    pub object: String,
    pub exists: bool,
    pub granted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pooler {
    /// Two connections have a session each.
    NotSeen,
    /// Two connections share a session of the server.
    Transaction,
    /// There was no second connection; the text says why.
    OnlyOne(String),
}

/// How long a second connection may take.
const SECOND_CONNECTION: Duration = Duration::from_secs(3);

impl Facts {
    pub(super) async fn ask(queue: &JobQueue) -> Result<Facts, Error> {
        let row = &super::super::query::rows(queue, SERVER, &[]).await?[0];
        let roles = &super::super::query::rows(queue, ROLES, &[]).await?[0];
        Ok(Facts {
            user: row.get(0),
            database: row.get(1),
            superuser: row.get(2),
            version: row.get(3),
            version_number: row.get(4),
            encoding: row.get(5),
            standby: row.get(6),
            read_only: row.get(7),
            autovacuum: row.get(8),
            synchronous_commit: row.get(9),
            connections: (row.get(10), row.get(11)),
            oldest_transaction: row.get(12),
            owner: roles.get(0),
            is_owner: roles.get(1),
            superuser_owner: roles.get(2),
            roles: roles.get(3),
            member_of: roles.get(4),
            has_rights: roles.get(5),
            owner_makes_roles: roles.get(6),
            schema: schema(queue).await?,
            grants: granted(queue).await?,
            controllers: controllers(queue).await?,
            failures: failures(queue).await?,
            pooler: pooler(queue).await,
        })
    }
}

const SERVER: &str = "
SELECT current_user::text, current_database()::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       current_setting('server_version'), current_setting('server_version_num')::int4,
       current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only')::bool,
       current_setting('autovacuum')::bool, current_setting('synchronous_commit'),
       (SELECT sum(numbackends) FROM pg_stat_database)::int8, current_setting('max_connections')::int8,
       CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN
         coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
                    WHERE backend_type = 'client backend'), 0)::float8
       END";

/// By joins, not by names: a name in a schema that one may not use is an error.
const ROLES: &str = "
SELECT pg_get_userbyid(n.nspowner)::text, coalesce(pg_has_role(n.nspowner, 'USAGE'), false),
       (SELECT string_agg(DISTINCT r.rolname, ', ') FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
         WHERE p.pronamespace = n.oid AND p.prosecdef AND r.rolsuper),
       coalesce(r.names, '{}'), coalesce(r.held, '{}'),
       EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND has_schema_privilege(n.oid, 'USAGE')
                  AND has_function_privilege(p.oid, 'EXECUTE')),
       EXISTS (SELECT FROM pg_roles o WHERE o.oid = n.nspowner AND (o.rolsuper OR o.rolcreaterole))
  FROM (SELECT array_agg(rolname::text ORDER BY rolname) AS names,
               array_agg(rolname::text ORDER BY rolname) FILTER (WHERE pg_has_role(oid, 'USAGE')) AS held
          FROM pg_roles
         WHERE rolname IN ('rowlock_enqueuer', 'rowlock_worker', 'rowlock_reader', 'rowlock_admin')) r
  LEFT JOIN pg_namespace n ON n.nspname = 'rowlock'";

async fn schema(queue: &JobQueue) -> Result<Schema, Error> {
    match queue.migration_status().await {
        Ok(files) => {
            let unfit = files.into_iter().filter(|f| f.state != "applied").map(|f| (f.name, f.state));
            Ok(Schema::Files(unfit.collect()))
        }
        Err(error) if error.code() == Some("42501") => Ok(Schema::Hidden),
        Err(error) => Err(error),
    }
}

async fn controllers(queue: &JobQueue) -> Result<Option<Vec<(String, bool)>>, Error> {
    let sql = "SELECT name, leads FROM rowlock.controllers ORDER BY leads DESC";
    match super::super::query::rows(queue, sql, &[]).await {
        Ok(rows) => Ok(Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect())),
        // A right is missing, or an older schema has no such view.
        Err(Error::Schema(_)) => Ok(None),
        Err(error) if error.code() == Some("42501") => Ok(None),
        Err(error) => Err(error),
    }
}

const GRANTS: &str = "
SELECT g.role, g.object, coalesce(p.oid, c.oid) IS NOT NULL,
       coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE')
                AND CASE WHEN p.oid IS NOT NULL THEN has_function_privilege(r.oid, p.oid, 'EXECUTE')
                         ELSE has_any_column_privilege(r.oid, c.oid, 'SELECT') END, false)
  FROM unnest($1::text[], $2::text[]) g(role, object)
  JOIN pg_namespace n ON n.nspname = 'rowlock'
  LEFT JOIN pg_roles r ON r.rolname = g.role
  LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = g.object
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.object AND p.oid IS NULL";

async fn granted(queue: &JobQueue) -> Result<Vec<Grant>, Error> {
    let (roles, objects): (Vec<String>, Vec<String>) = table_of_grants().into_iter().unzip();
    let rows =
        super::super::query::rows(queue, GRANTS, &[(&roles, Type::TEXT_ARRAY), (&objects, Type::TEXT_ARRAY)]).await?;
    let grant = |row: &Row| Grant { role: row.get(0), object: row.get(1), exists: row.get(2), granted: row.get(3) };
    Ok(rows.iter().map(grant).collect())
}

const FAILURES: &str = "
SELECT f.label, n.value, extract(epoch FROM clock_timestamp())::float8 - f.value, f.type
  FROM rowlock.metrics_v1() f JOIN rowlock.metrics_v1() n ON n.what = 'maintenance_failures' AND n.label = f.label
 WHERE f.what = 'maintenance_failed_at' ORDER BY f.value DESC";

async fn failures(queue: &JobQueue) -> Result<Option<Vec<PartFailure>>, Error> {
    match super::super::query::rows(queue, FAILURES, &[]).await {
        Ok(rows) => {
            let failure = |row: &Row| PartFailure {
                part: row.get(0),
                times: row.get(1),
                seconds_ago: row.get(2),
                error: row.get(3),
            };
            Ok(Some(rows.iter().map(failure).collect()))
        }
        // No right, no function, no schema: other checks say so.
        Err(Error::Schema(_)) => Ok(None),
        Err(error) if matches!(error.code(), Some("42501" | "42883" | "3F000")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The roles and what each may call or read, out of the schema's own text: `('{roles}', '{objects}')`.
fn table_of_grants() -> Vec<(String, String)> {
    let text = migrate::TEXTS.iter().find(|t| t.file.ends_with("grants")).map_or("", |t| t.sql);
    let list = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
    let pairs = text.split("('{").skip(1).filter_map(|pair| {
        let (roles, rest) = pair.split_once("}'")?;
        let objects = rest.trim_start_matches([',', ' ', '\n']).strip_prefix("'{")?.split("}'").next()?;
        Some((list(roles), list(objects)))
    });
    pairs
        .flat_map(|(roles, objects)| {
            roles
                .into_iter()
                .flat_map(move |role| objects.clone().into_iter().map(move |object| (role.clone(), object)))
        })
        .collect()
}

/// Holds two connections and asks each for its session. A transaction pooler gives both the same.
async fn pooler(queue: &JobQueue) -> Pooler {
    let session = "SELECT pg_backend_pid()";
    let ask = async {
        let (one, two) = (queue.pool().get().await?, queue.pool().get().await?);
        let one: i32 = one.query_typed(session, &[]).await?[0].get(0);
        let two: i32 = two.query_typed(session, &[]).await?[0].get(0);
        Ok::<_, Error>(if one == two { Pooler::Transaction } else { Pooler::NotSeen })
    };
    match tokio::time::timeout(SECOND_CONNECTION, ask).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => Pooler::OnlyOne(error.to_string()),
        Err(_) => Pooler::OnlyOne(format!("none within {} s", SECOND_CONNECTION.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_table_of_grants_is_read_out_of_its_text() {
        let grants = table_of_grants();
        let has = |role: &str, object: &str| grants.iter().any(|(r, o)| r == role && o == object);
        assert!(has("rowlock_enqueuer", "enqueue") && has("rowlock_enqueuer", "job_status"));
        assert!(has("rowlock_worker", "claim_v1") && has("rowlock_reader", "queues") && has("rowlock_admin", "jobs"));
        assert!(!has("rowlock_enqueuer", "cancel") && grants.len() > 50);
        let name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        assert!(grants.iter().all(|(role, object)| role.starts_with("rowlock_") && name(object)), "{grants:?}");
    }
}
