//! The two files of libpq: pg_service.conf and the password file. Their formats are pure.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::text::Pairs;
use crate::Error;

/// The settings of a service, or none if the file does not name the service.
pub(super) fn service(text: &str, name: &str) -> Result<Option<Pairs>, Error> {
    let wrong = |line: usize, what: &str| Error::Config(format!("service file, line {}: {what}", line + 1));
    let mut found: Option<Pairs> = None;
    for (number, line) in text.lines().enumerate().map(|(n, l)| (n, l.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (section.strip_suffix(']') == Some(name)).then(Pairs::new);
        } else if let Some(pairs) = &mut found {
            match line.split_once('=') {
                Some(("service", _)) => return Err(wrong(number, "a service cannot name another service")),
                Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
                None => return Err(wrong(number, "expected key=value, or [service]; LDAP is not supported")),
            }
        }
    }
    Ok(found)
}

/// Finds the settings of a service, and the file that has them. It looks in libpq's order: into a file that was named,
/// the user's, the system's.
pub(super) fn find_service(
    name: &str,
    named: Option<&str>,
    home: Option<&Path>,
    system: Option<&str>,
) -> Result<(PathBuf, Pairs), Error> {
    let user = match named {
        Some(file) => Some(PathBuf::from(file)),
        None => home.map(|home| home.join(".pg_service.conf")),
    };
    // The system's directory is compiled into libpq; these are Debian's, Fedora's and the plain one.
    let system = match system {
        Some(dir) => vec![PathBuf::from(dir)],
        None => ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"].map(PathBuf::from).to_vec(),
    };
    let mut places = Vec::new();
    for (file, must) in user
        .into_iter()
        .map(|file| (file, named.is_some()))
        .chain(system.into_iter().map(|dir| (dir.join("pg_service.conf"), false)))
    {
        match fs::read_to_string(&file) {
            Ok(text) => {
                if let Some(pairs) = service(&text, name)? {
                    return Ok((file, pairs));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must => {}
            Err(e) => return Err(Error::Config(format!("service file {}: {e}", file.display()))),
        }
        places.push(file.display().to_string());
    }
    Err(Error::Config(format!("service: there is no [{name}] in {}", places.join(", "))))
}

/// The first password in a password file that fits.
pub(super) fn password(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.trim_end_matches('\r');
        for wanted in [host, &port, database, user] {
            let (field, after) = field(rest);
            if field != "*" && unescape(field) != wanted {
                return None;
            }
            rest = after?;
        }
        Some(unescape(field(rest).0)).filter(|password| !password.is_empty())
    })
}

/// Up to the next colon that no backslash protects.
fn field(text: &str) -> (&str, Option<&str>) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            ':' if !escaped => return (&text[..at], Some(&text[at + 1..])),
            c => escaped = c == '\\' && !escaped,
        }
    }
    (text, None)
}

fn unescape(field: &str) -> String {
    let mut chars = field.chars();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    text
}

/// The text of a password file. None if there is none. Like libpq, nobody but its owner may have any right to it.
///
/// # Errors
/// A sentence that says why the file is not used.
pub(super) fn read_passfile(file: &Path) -> Result<Option<String>, String> {
    let said = |e: io::Error| format!("passfile {}: {e}", file.display());
    let meta = match fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(said)?,
    };
    if !meta.is_file() {
        return Err(format!("passfile {}: expected a plain file", file.display()));
    }
    if meta.mode() & 0o077 != 0 {
        let (file, mode) = (file.display(), meta.mode() & 0o777);
        return Err(format!("passfile {file} is not used: others have rights to it (mode {mode:o}); chmod 600 {file}"));
    }
    fs::read_to_string(file).map(Some).map_err(said)
}
