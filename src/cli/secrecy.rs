//! The database's URL and password stay in this process: others of the same user, above all its own jobs, cannot take
//! them out of it.
//!
//! The kernel keeps a process's memory, environment, descriptors and core from others of its user once the process says
//! that it is not dumpable. To start anew with an empty environment would hide little more: the first start has the
//! variables in any case, and only root with `CAP_PERFMON` reads the environment of such a process but not its memory.
//! What stays readable is the command line, so that a URL does not stay there.

use std::{ffi::OsString, io, os::unix::process::CommandExt, process::Command};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// A flag that holds a URL, the variable that means the same, and the flag and the variable of a file with the URL. The
/// file comes second to the flag.
struct Url {
    flag: &'static str,
    variable: &'static str,
    file_flag: &'static str,
    file_variable: &'static str,
}

const URLS: [Url; 2] = [
    Url {
        flag: "--database-url",
        variable: "ROWLOCK_DATABASE_URL",
        file_flag: "--database-url-file",
        file_variable: "ROWLOCK_DATABASE_URL_FILE",
    },
    Url {
        flag: "--listen-url",
        variable: "ROWLOCK_LISTEN_URL",
        file_flag: "--listen-url-file",
        file_variable: "ROWLOCK_LISTEN_URL_FILE",
    },
];
/// Standard input, output and error come before it.
const FIRST_OTHER_DESCRIPTOR: i32 = 3;

/// To be called before anything else.
pub(super) fn protect() {
    // A kernel that cannot do it is none that Rowlock runs on, and nothing was read yet.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// No job gets a descriptor that this process was given, such as one of the file that holds the URL. After
/// [`hide_urls`], which keeps them.
pub(super) fn keep_descriptors() {
    close_fds::set_fds_cloexec(FIRST_OTHER_DESCRIPTOR, &[]);
}

/// Starts this program anew, as the same process, if its command line shows a URL: the URL moves into a variable.
///
/// # Errors
/// If it cannot be started. Otherwise it returns only where there was nothing to hide.
pub(super) fn hide_urls() -> io::Result<()> {
    let Some(Moved { args, variables, without }) = moved(std::env::args_os()) else { return Ok(()) };
    let mut again = Command::new(super::install::this_program()?);
    if let Some((name, rest)) = args.split_first() {
        again.arg0(name).args(rest);
    }
    without.iter().for_each(|name| {
        again.env_remove(name);
    });
    Err(again.envs(variables).exec())
}

#[derive(Debug, PartialEq)]
struct Moved {
    args: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    /// A URL's variable would not go before this one, as the flag did.
    without: Vec<&'static str>,
}

/// None if there is no URL among the arguments.
fn moved(all: impl Iterator<Item = OsString>) -> Option<Moved> {
    let mut args: Vec<OsString> = all.collect();
    let (mut variables, mut without) = (Vec::new(), Vec::new());
    for url in &URLS {
        let values = taken(&mut args, url.flag);
        if let Some(value) = values.into_iter().next_back() {
            variables.push((url.variable, value));
            // Where a variable holds the URL, a file would go before it.
            without.push(url.file_variable);
            taken(&mut args, url.file_flag);
        }
    }
    (!variables.is_empty()).then_some(Moved { args, variables, without })
}

/// Takes a flag out of the arguments, as often as it is there, and answers its values.
fn taken(args: &mut Vec<OsString>, flag: &str) -> Vec<OsString> {
    let (mut others, mut values) = (Vec::new(), Vec::new());
    let mut all = std::mem::take(args).into_iter();
    while let Some(arg) = all.next() {
        let text = arg.to_string_lossy();
        match text.strip_prefix(flag) {
            Some("") => values.extend(all.next()),
            Some(rest) if rest.starts_with('=') => values.push(OsString::from(&rest[1..])),
            _ => others.push(arg),
        }
    }
    *args = others;
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Option<Moved> {
        moved(args.iter().map(OsString::from))
    }

    #[test]
    fn a_url_leaves_the_command_line_and_means_what_it_meant() {
        let url = OsString::from("postgres://a:b@c/d");
        let args = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
        for written in [
            &["rowlock", "worker", "--database-url", "postgres://a:b@c/d", "--queue", "a"][..],
            &["rowlock", "worker", "--database-url=postgres://a:b@c/d", "--queue", "a"],
            // The flag of a file comes second to it, and so does that of a variable.
            &["rowlock", "worker", "--database-url-file=f", "--database-url=postgres://a:b@c/d", "--queue", "a"],
        ] {
            let moved = of(written).unwrap();
            assert_eq!(moved.args, args(&["rowlock", "worker", "--queue", "a"]), "{written:?}");
            assert_eq!(moved.variables, [("ROWLOCK_DATABASE_URL", url.clone())]);
            assert_eq!(moved.without, ["ROWLOCK_DATABASE_URL_FILE"]);
        }
        let moved =
            of(&["rowlock", "worker", "--listen-url", "postgres://a:b@c/d", "--database-url-file", "f"]).unwrap();
        assert_eq!(moved.args, args(&["rowlock", "worker", "--database-url-file", "f"]));
        assert_eq!(moved.variables, [("ROWLOCK_LISTEN_URL", url)]);
        assert_eq!(moved.without, ["ROWLOCK_LISTEN_URL_FILE"]);
        assert_eq!(of(&["rowlock", "worker", "--database-url-file", "f", "--queue", "--database"]), None);
    }
}
