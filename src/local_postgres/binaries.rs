//! Which of the installed Postgres servers is taken: PATH first, then pg_config's, then Debian's, newest first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::bail;

const OLDEST: u32 = 15;

/// The directory of the first that is new enough.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    installed.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    candidates.extend(installed.into_iter().map(|(_, dir)| dir));

    let mut too_old = Vec::new();
    for dir in candidates.iter().filter(|d| d.join("postgres").is_file() && d.join("initdb").is_file()) {
        match version(&dir.join("postgres")) {
            Some(v) if v >= OLDEST => return Ok(dir.clone()),
            Some(v) => too_old.push(format!("{} is version {v}", dir.display())),
            None => too_old.push(format!("{} does not say its version", dir.display())),
        }
    }
    let seen = if too_old.is_empty() { String::new() } else { format!(" ({})", too_old.join(", ")) };
    bail!(
        "no Postgres server {OLDEST} or later found on PATH, by pg_config or in /usr/lib/postgresql{seen}. \
         Install one: \
         `apt-get install postgresql` on Debian and Ubuntu, `dnf install postgresql-server` on Fedora, `brew \
          install postgresql` on macOS"
    )
}

fn version(postgres: &Path) -> Option<u32> {
    parse_version(&said(&Command::new(postgres).arg("--version").output().ok()?))
}

/// From `postgres (PostgreSQL) 15.18 (Debian …)` or `… 18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The output of a program that succeeded, or its complaint.
pub(super) fn said(output: &Output) -> String {
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_postgres_says() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_version("nonsense"), None);
    }
}
