//! Which database: the connection string, the file that holds it, or libpq's variables.

use std::{env, path::PathBuf};

use crate::{Error, Target};

/// Any of these says that libpq's variables are meant to be enough.
const LIBPQ: [&str; 4] = ["PGSERVICE", "PGHOST", "PGHOSTADDR", "PGDATABASE"];

/// The advice for that case.
pub(super) const NONE: &str = "no database: give --database-url, or set DATABASE_URL or ROWLOCK_DATABASE_URL; a \
 file that \
                               holds it goes into DATABASE_URL_FILE, and libpq's PGHOST or PGSERVICE are enough, too";

/// None if nothing names a database. A flag goes before variables, and Rowlock's own variables before those that other
/// programs read, too. Of two variables the file holds: its content can change while this process runs.
pub(super) fn target(url: Option<String>, file: Option<PathBuf>) -> Option<Result<Target, Error>> {
    let variable = |name| env::var(name).ok();
    let given = |text: &String| !text.trim().is_empty();
    let file = file.filter(|file| !file.as_os_str().is_empty());
    let url = url.filter(given);
    let is_flag = url.is_some() && url != variable("ROWLOCK_DATABASE_URL");
    if let Some(file) = file.filter(|_| !is_flag) {
        Some(Target::from_file(file))
    } else if let Some(url) = url {
        Some(Target::parse(&url))
    } else if let Some(file) = variable("DATABASE_URL_FILE").filter(given) {
        Some(Target::from_file(file))
    } else if let Some(url) = variable("DATABASE_URL").filter(given) {
        Some(Target::parse(&url))
    } else if LIBPQ.into_iter().any(|name| variable(name).is_some_and(|value| given(&value))) {
        Some(Target::parse(""))
    } else {
        None
    }
}
