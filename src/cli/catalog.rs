//! The catalogue file, from where the command line says.

use std::{io::Read, path::Path};

use super::exit::Exit;
use crate::catalog::{Catalog, parse};

/// Reads and checks a file; `-` is standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<Catalog> {
    let mut text = String::new();
    let (name, got) = if path == Path::new("-") {
        ("standard input".to_owned(), std::io::stdin().read_to_string(&mut text).map(drop))
    } else {
        (path.display().to_string(), std::fs::read_to_string(path).map(|t| text = t))
    };
    got.map_err(|e| Exit::Usage(format!("{name}: {e}")))?;
    parse(&text).map_err(|e| Exit::Refused(format!("{name}: {e}")).into())
}

/// A number with its noun.
pub(super) fn count(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// A word about the part of a file that a command does not load; none if there is no such part.
pub(super) fn left_out(n: usize, word: &str, command: &str, file: &Path) -> String {
    if n == 0 {
        return String::new();
    }
    let (verb, file) = (if n == 1 { "is" } else { "are" }, file.display());
    format!("; {} {verb} left out, load with: rowlock {command} apply -f {file}", count(n, word))
}
