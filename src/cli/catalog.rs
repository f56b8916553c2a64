//! The catalogue file, from where the command line says.

use std::{io::Read, path::Path};

use super::exit::Exit;
use crate::controller::catalog::{Catalog, parse};

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
