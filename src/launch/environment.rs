//! The variables of a worker that none of its jobs gets: the one list, for every kind of launch.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
};

use crate::Target;

/// Credentials, and what leads to them. The names are libpq's, and those that people gave a database URL.
const SECRETS: [&str; 9] = [
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGSSLKEY",
    "PGSSLPASSWORD",
];

/// So many processes above this one are looked at, at most.
const GENERATIONS: usize = 64;

/// The names of this process's variables that its jobs must not have: credentials, settings that are the worker's own,
/// and any variable whose value lets a job into one of these databases.
pub(super) fn withheld(databases: &[Target]) -> Vec<OsString> {
    let secrets: Vec<String> = databases.iter().flat_map(Target::secrets).collect();
    let variables = std::env::vars_os();
    variables.filter(|(name, value)| is_withheld(name, value, &secrets)).map(|(name, _)| name).collect()
}

fn is_withheld(name: &OsStr, value: &OsStr, secrets: &[String]) -> bool {
    let name = name.to_string_lossy();
    // The trace is of whoever started the worker, not of the job.
    name.starts_with("ROWLOCK_")
        || name == "TRACEPARENT"
        || SECRETS.contains(&&*name)
        || secrets.iter().any(|secret| value == OsStr::new(secret))
}

/// Says which process above this one gives the secrets of these databases to any job: it is not this program, so that
/// nothing here can keep its environment.
pub(super) fn report_exposed(databases: &[Target]) {
    let secrets: Vec<String> = databases.iter().flat_map(Target::secrets).collect();
    if secrets.is_empty() {
        return;
    }
    let mut process = std::process::id();
    for _ in 0..GENERATIONS {
        let Some(parent) = parent(process) else { return };
        process = parent;
        let place = Path::new("/proc").join(process.to_string());
        let variables = fs::read(place.join("environ")).unwrap_or_default();
        if let Some(variable) = exposing(&variables, &secrets) {
            let program = fs::read_to_string(place.join("comm")).unwrap_or_default();
            tracing::warn!(
                process,
                program = program.trim_end(),
                variable,
                "this process started the worker, and jobs of the same user can read the database's password there: \
                 let it start the worker by exec, or take the variable away from it"
            );
        }
    }
}

/// The process that started this one, or that took it over.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent != 0)
}

/// The name of the first variable whose value is a secret.
fn exposing(variables: &[u8], secrets: &[String]) -> Option<String> {
    variables.split(|byte| *byte == 0).find_map(|variable| {
        let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        secrets.iter().any(|secret| value.trim() == secret).then(|| name.to_owned())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_neither_the_workers_credentials_nor_its_settings() {
        let target = Target::parse("postgres://app:s3cret-word@db.example/app").unwrap();
        let secrets = target.secrets();
        let withheld = |name: &str, value: &str| is_withheld(OsStr::new(name), OsStr::new(value), &secrets);
        for name in SECRETS.iter().chain(&["ROWLOCK_DATABASE_URL", "ROWLOCK_LISTEN_URL", "ROWLOCK_X", "TRACEPARENT"]) {
            assert!(withheld(name, "anything"), "{name}");
        }
        for (name, value) in [
            ("PGURL", "postgres://app:s3cret-word@db.example/app"),
            ("POSTGRES_PASSWORD", "s3cret-word"),
            ("SHOP_DB", "postgres://app:s3cret-word@db.example/app"),
        ] {
            assert!(withheld(name, value), "{name}");
        }
        for (name, value) in
            [("PATH", "/bin"), ("PGHOST", "db.example"), ("PGUSER", "app"), ("SHOP_DB", "postgres://shop:x@db/shop")]
        {
            assert!(!withheld(name, value), "{name}");
        }
    }

    #[test]
    fn a_connection_without_a_password_hides_no_word() {
        assert!(Target::parse("postgres://app@db.example/app").unwrap().secrets().is_empty());
    }

    #[test]
    fn a_variable_with_a_secret_is_found_whatever_its_name() {
        let secrets = ["hunter2".to_owned()];
        assert_eq!(exposing(b"PATH=/bin\0PGURL=hunter2\0", &secrets).as_deref(), Some("PGURL"));
        assert_eq!(exposing(b"PATH=/bin\0PGURL=hunter22\0", &secrets), None);
    }

    #[test]
    fn the_process_above_this_one_is_found() {
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        assert_eq!(parent(1), None);
    }
}
