//! `rowlock install`: this program, copied. An init container gives it to images that know nothing of it.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::output::Output;
use anyhow::Context;

pub(super) fn run(out: &Output, dir: &Path) -> anyhow::Result<()> {
    let to = dir.join("rowlock");
    copy(dir, &to).with_context(|| format!("{}: expected a directory that can be written", dir.display()))?;
    out.text(&to.display().to_string())
}

fn copy(dir: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // Renamed when whole: nobody starts half a program, and a running one may be replaced.
    let part = dir.join(format!(".rowlock.{}", std::process::id()));
    let copied = fs::copy(this_program()?, &part)
        .and_then(|_| fs::set_permissions(&part, Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&part, to));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied
}

/// Where this program is. An empty root has no /proc to ask.
pub(super) fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe().or_else(|e| {
        let called = std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
        called.map_or(Err(e), fs::canonicalize)
    })
}
