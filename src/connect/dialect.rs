//! The connection strings of ORMs and drivers, put into libpq's words. Pure.

use super::text::{Pairs, Split};
use crate::Error;

/// How an option that libpq does not know is taken.
enum Foreign {
    /// libpq has it under this name.
    Named(&'static str),
    /// It is about the other program's own pool, cache or schema. Rowlock names its schema in each statement, and has
    /// no named prepared statements.
    Theirs,
    /// It may not be passed over in silence; the text says what to write instead.
    Refused(&'static str),
}

use Foreign::{Named, Refused, Theirs};

/// Prisma, SQLAlchemy, asyncpg, psycopg, JDBC, Rails, Django, Doctrine, node-postgres, sqlx, pgx.
const FOREIGN: &[(&str, Foreign)] = &[
    ("ApplicationName", Named("application_name")),
    ("connectTimeout", Named("connect_timeout")),
    ("loginTimeout", Named("connect_timeout")),
    ("database", Named("dbname")),
    ("username", Named("user")),
    ("ssl-mode", Named("sslmode")),
    ("ssl_mode", Named("sslmode")),
    ("sslMode", Named("sslmode")),
    ("ssl-root-cert", Named("sslrootcert")),
    ("ssl-ca", Named("sslrootcert")),
    ("ssl-cert", Named("sslcert")),
    ("ssl-key", Named("sslkey")),
    ("schema", Theirs),
    ("currentSchema", Theirs),
    ("schema_search_path", Theirs),
    ("pgbouncer", Theirs),
    ("connection_limit", Theirs),
    ("pool", Theirs),
    ("pool_size", Theirs),
    ("max_overflow", Theirs),
    ("pool_timeout", Theirs),
    ("pool_recycle", Theirs),
    ("pool_pre_ping", Theirs),
    ("pool_max_conns", Theirs),
    ("pool_min_conns", Theirs),
    ("pool_max_conn_lifetime", Theirs),
    ("pool_max_conn_lifetime_jitter", Theirs),
    ("pool_max_conn_idle_time", Theirs),
    ("pool_health_check_period", Theirs),
    ("max_connection_lifetime", Theirs),
    ("max_idle_connection_lifetime", Theirs),
    ("checkout_timeout", Theirs),
    ("reaping_frequency", Theirs),
    ("conn_max_age", Theirs),
    ("conn_health_checks", Theirs),
    ("socket_timeout", Theirs),
    ("socketTimeout", Theirs),
    ("cancelSignalTimeout", Theirs),
    ("command_timeout", Theirs),
    ("async_fallback", Theirs),
    ("statement_cache_size", Theirs),
    ("statement_cache_capacity", Theirs),
    ("statement-cache-capacity", Theirs),
    ("description_cache_capacity", Theirs),
    ("default_query_exec_mode", Theirs),
    ("prepared_statements", Theirs),
    ("prepared_statement_cache_size", Theirs),
    ("prepareThreshold", Theirs),
    ("preparedStatementCacheQueries", Theirs),
    ("preparedStatementCacheSizeMiB", Theirs),
    ("preferQueryMode", Theirs),
    ("binaryTransfer", Theirs),
    ("binary_parameters", Theirs),
    ("reWriteBatchedInserts", Theirs),
    ("defaultRowFetchSize", Theirs),
    ("stringtype", Theirs),
    ("assumeMinServerVersion", Theirs),
    ("serverVersion", Theirs),
    ("uselibpqcompat", Theirs),
    ("charset", Theirs),
    ("encoding", Theirs),
    ("sslidentity", Refused("give the client's certificate as PEM files: sslcert=FILE and sslkey=FILE")),
    ("sslfactory", Refused("write sslmode=verify-full with sslrootcert=FILE, or sslmode=require to check nothing")),
    ("socketFactory", Refused("name the server by host and port, or host=/DIRECTORY for a socket")),
    ("unixSocketPath", Refused("write host=/DIRECTORY, the directory of the socket")),
];

/// Schemes that mean libpq's URI.
const SCHEMES: [&str; 5] = ["postgresql", "postgres", "postgis", "pgsql", "psql"];

/// The pairs of a connection string in libpq's words, as far as there are any: what is left is libpq's or wrong.
pub(super) fn translate(split: Split) -> Result<Pairs, Error> {
    let Split { scheme, pairs } = split;
    let jdbc = scheme == "jdbc:postgresql";
    // SQLAlchemy names its driver: postgresql+asyncpg.
    let base = scheme.split_once('+').map_or(&*scheme, |(base, _)| base);
    if !(scheme.is_empty() || jdbc || SCHEMES.contains(&base)) {
        let scheme = super::text::name_of(&scheme);
        return refuse(&format!("the scheme {scheme}"), "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE");
    }
    if scheme.contains('+') && pairs.iter().filter(|(name, _)| name == "host").count() > 1 {
        return refuse("host", "it is named more than once; write several hosts as host=a,b&port=5432,5433");
    }
    let has_mode = pairs.iter().any(|(name, _)| matches!(&**name, "sslmode" | "sslMode" | "ssl-mode"));
    let mut translated = Pairs::new();
    for (name, value) in pairs {
        match (&*name, &*value) {
            // The finer word holds, wherever it stands.
            ("ssl", _) if has_mode => {}
            ("ssl", value) => translated.push(("sslmode".into(), ssl(value, jdbc)?.into())),
            ("sslmode", "no-verify") => translated.push((name, NO_VERIFY.into())),
            ("sslaccept", "strict") => translated.push(("sslmode".into(), "verify-full".into())),
            ("sslaccept", "accept_invalid_certs") => translated.push(("sslmode".into(), NO_VERIFY.into())),
            ("sslfactory", "org.postgresql.ssl.NonValidatingFactory") => {
                translated.push(("sslmode".into(), NO_VERIFY.into()));
            }
            ("tcpKeepAlive", value) => translated.push(("keepalives".into(), flag("tcpKeepAlive", value)?.into())),
            ("loadBalanceHosts", value) => {
                let random = flag("loadBalanceHosts", value)? == "1";
                translated.push(("load_balance_hosts".into(), if random { "random" } else { "disable" }.into()));
            }
            ("targetServerType", value) => {
                translated.push(("target_session_attrs".into(), server_type(value)?.into()));
            }
            _ => match FOREIGN.iter().find(|(foreign, _)| *foreign == name) {
                Some((_, Named(libpq))) => translated.push(((*libpq).into(), value)),
                Some((_, Theirs)) => {}
                Some((_, Refused(instead))) => return refuse(&name, instead),
                None => translated.push((name, value)),
            },
        }
    }
    Ok(translated)
}

/// TLS without a look at the certificate, even where a root is known. libpq has no word for it.
pub(super) const NO_VERIFY: &str = "no-verify";

fn refuse<T>(part: &str, why: &str) -> Result<T, Error> {
    Err(Error::Config(format!("{part}: {why}")))
}

/// `ssl=true` is `require` to libpq, and to JDBC it is `verify-full`. asyncpg puts the names of sslmode there.
fn ssl(value: &str, jdbc: bool) -> Result<&str, Error> {
    match value {
        "true" | "1" | "on" | "yes" | "" if jdbc => Ok("verify-full"),
        "true" | "1" | "on" | "yes" => Ok("require"),
        "false" | "0" | "off" | "no" if jdbc => Ok("prefer"),
        "false" | "0" | "off" | "no" => Ok("disable"),
        "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full" | NO_VERIFY => Ok(value),
        _ => {
            refuse("ssl", "expected true or false; write sslmode=require, or sslmode=verify-full to check who answers")
        }
    }
}

fn flag(name: &str, value: &str) -> Result<&'static str, Error> {
    match value {
        "true" | "1" => Ok("1"),
        "false" | "0" => Ok("0"),
        _ => refuse(name, "expected true or false"),
    }
}

/// JDBC's words for `target_session_attrs`.
fn server_type(value: &str) -> Result<&'static str, Error> {
    match value {
        "any" => Ok("any"),
        "primary" | "master" => Ok("primary"),
        "secondary" | "slave" => Ok("standby"),
        "preferSecondary" | "preferSlave" => Ok("prefer-standby"),
        _ => refuse("targetServerType", "expected any, primary, secondary or preferSecondary"),
    }
}
