//! `rowlock install`: this program, copied. An init container gives it to images that know nothing of it.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
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
    let copied = fs::copy(std::env::current_exe()?, &part)
        .and_then(|_| fs::set_permissions(&part, Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&part, to));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied
}
