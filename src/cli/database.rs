//! Which database: the connection string, the file that holds it, or libpq's variables.

use std::{env, path::PathBuf};

use super::args::Listen;
use crate::{Error, Target};

/// Any of these says that libpq's variables are meant to be enough.
const LIBPQ: [&str; 4] = ["PGSERVICE", "PGHOST", "PGHOSTADDR", "PGDATABASE"];

/// The advice for that case.
pub(super) const NONE: &str = "no database: give --database-url, or set DATABASE_URL or ROWLOCK_DATABASE_URL; a \
 file that \
                               holds it goes into DATABASE_URL_FILE, and libpq's PGHOST or PGSERVICE are enough, too";

/// None if nothing names a database. Rowlock's own variables go before those that other programs read, too.
pub(super) fn target(url: Option<String>, file: Option<PathBuf>) -> Option<Result<Target, Error>> {
    let file_elsewhere = || variable("DATABASE_URL_FILE").filter(|text| given(text)).map(Target::from_file);
    let url_elsewhere = || variable("DATABASE_URL").filter(|text| given(text)).map(|url| Target::parse(&url));
    let libpq = || LIBPQ.into_iter().any(|name| variable(name).is_some_and(|value| given(&value)));
    named(url, file, "ROWLOCK_DATABASE_URL")
        .or_else(file_elsewhere)
        .or_else(url_elsewhere)
        .or_else(|| libpq().then(|| Target::parse("")))
}

/// Where LISTEN connects, if it is told.
///
/// # Errors
/// As [`Target::parse`] and [`Target::from_file`].
pub(super) fn listen(args: Listen) -> Result<Option<Target>, Error> {
    named(args.listen_url, args.listen_url_file, "ROWLOCK_LISTEN_URL").transpose()
}

/// A flag goes before variables. Of two variables the file holds: its content can change while this process runs.
fn named(url: Option<String>, file: Option<PathBuf>, url_variable: &str) -> Option<Result<Target, Error>> {
    let file = file.filter(|file| !file.as_os_str().is_empty());
    let url = url.filter(|text| given(text));
    let is_flag = url.is_some() && url != variable(url_variable);
    match file.filter(|_| !is_flag) {
        Some(file) => Some(Target::from_file(file)),
        None => url.map(|url| Target::parse(&url)),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn given(text: &str) -> bool {
    !text.trim().is_empty()
}
