//! A job's files: its payload, its result, its progress.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::OFlags;
use serde_json::value::RawValue;

use crate::{
    Failure, Reason,
    worker::{launcher::RESULT_BYTES, progress::Progress},
};

/// How often a running job's progress file is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of the progress file, what is read in one look: the last line counts.
const LOOK_BYTES: usize = 16 * 1024;

/// The files that a job reads and may write. Jobs' files never share a name, so that a straggler of one job cannot
/// write into the next; and a file that is emptied to be written anew would be put on the disk by some file systems at
/// once.
#[derive(Debug)]
pub(super) struct Files {
    /// The directory of this run alone, so that a job that removes the directory takes nothing of another's.
    dir: Option<PathBuf>,
    pub payload: Option<PathBuf>,
    pub result: PathBuf,
    pub progress: PathBuf,
    /// Whether the last two may be there, and have to be removed.
    leave: [bool; 2],
}

impl Files {
    pub(super) fn new(dir: &Path, name: &str) -> Files {
        let dir = dir.join(name);
        let [payload, result, progress] = ["payload", "result", "progress"].map(|kind| dir.join(kind));
        Files { dir: Some(dir), payload: Some(payload), result, progress, leave: [true; 2] }
    }

    /// Those of a job whose payload is not ours to make.
    pub(super) fn at(result: PathBuf, progress: PathBuf) -> Files {
        Files { dir: None, payload: None, result, progress, leave: [true; 2] }
    }

    /// Writes the payload and opens it to be read as stdin: no pipe to fill, so no job can hold the worker up by not
    /// reading.
    pub(super) fn stdin(&self, payload: &RawValue) -> std::io::Result<File> {
        if let Some(dir) = &self.dir {
            make_private(dir)?;
        }
        let path = self.payload.as_deref().unwrap_or(Path::new(""));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(payload.get().as_bytes())?;
        File::open(path)
    }

    /// The result, if the command wrote one.
    pub(super) fn result(&mut self) -> Result<Option<Box<RawValue>>, Failure> {
        let file = match open(&self.result) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.leave[0] = false;
                return Ok(None);
            }
            Err(e) => {
                return Err(Failure::of(Reason::InvalidResult, true, format!("result file: cannot be read: {e}")));
            }
        };
        let mut bytes = Vec::new();
        let read = file.take(RESULT_BYTES as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| Failure::of(Reason::InvalidResult, true, format!("result file: cannot be read: {e}")))?;
        parse("result file", bytes)
    }

    /// Follows the progress file, as long as it is polled.
    pub(super) async fn follow(&self, seen: &mut u64, progress: &Progress) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(seen, progress);
        }
    }

    /// Takes the last whole line of all, when the job has ended.
    pub(super) fn last_look(&mut self, seen: &mut u64, progress: &Progress) {
        if std::fs::symlink_metadata(&self.progress).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            self.leave[1] = false;
        } else {
            self.look(seen, progress);
        }
    }

    /// Takes the last whole line written since `seen`.
    pub(super) fn look(&self, seen: &mut u64, progress: &Progress) {
        let Ok(file) = open(&self.progress) else { return };
        let Ok(len) = file.metadata().map(|m| m.len()) else { return };
        // One that was written anew, not appended to, starts over.
        if len < *seen {
            *seen = 0;
        }
        let from = (*seen).max(len.saturating_sub(LOOK_BYTES as u64));
        let mut bytes = vec![0; LOOK_BYTES.min(usize::try_from(len - from).unwrap_or(LOOK_BYTES))];
        let Ok(read) = file.read_at(&mut bytes, from) else { return };
        let Some(end) = bytes[..read].iter().rposition(|b| *b == b'\n') else { return };
        *seen = from + end as u64 + 1;
        let start = bytes[..end].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        progress.line(&String::from_utf8_lossy(&bytes[start..end]));
    }
}

/// Makes a run's directory, and the worker's again if somebody removed it, as cleaners of temporary files do.
fn make_private(dir: &Path) -> std::io::Result<()> {
    match (private(dir), dir.parent()) {
        (Err(e), Some(parent)) if e.kind() == ErrorKind::NotFound => private(parent).and_then(|()| private(dir)),
        (made, _) => made,
    }
}

/// Makes a directory that only this user can read. One that is there already must be this user's: another could have
/// made it to see payloads.
fn private(dir: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let there = std::fs::symlink_metadata(dir)?;
            let ours = there.is_dir() && there.uid() == rustix::process::geteuid().as_raw();
            if ours { Ok(()) } else { Err(std::io::Error::other("its directory is not this user's")) }
        }
        made => made,
    }
}

/// Opens a file that a job wrote. It may have made a pipe or a link of it: neither may hold the worker up or lead
/// it elsewhere.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("expected a regular file")) }
}

/// A result from its bytes; nothing but white space is none.
pub(super) fn parse(what: &str, bytes: Vec<u8>) -> Result<Option<Box<RawValue>>, Failure> {
    if bytes.len() > RESULT_BYTES {
        return Err(Failure::of(
            Reason::OutputTooLarge,
            true,
            format!("{what}: expected at most {RESULT_BYTES} bytes"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::of(Reason::InvalidUtf8, true, format!("{what}: expected UTF-8, got another byte at {at}"))
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text.trim()) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(Failure::of(Reason::InvalidResult, true, format!("{what}: expected JSON: {e}"))),
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let written = [&self.result, &self.progress]
            .into_iter()
            .zip(self.leave)
            .filter_map(|(path, leave)| leave.then_some(path));
        for path in written.chain(&self.payload) {
            let _ = std::fs::remove_file(path);
        }
        // Usually it is empty now: the job may have left more.
        if let Some(dir) = &self.dir
            && std::fs::remove_dir(dir).is_err_and(|e| e.kind() != ErrorKind::NotFound)
        {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    fn files(dir: &Path) -> Files {
        make_private(&dir.join("0.1")).unwrap();
        Files::new(dir, "0.1")
    }

    #[test]
    fn a_workers_directory_that_somebody_removed_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let workers = dir.path().join("worker");
        let payload = RawValue::from_string("1".into()).unwrap();
        for name in ["0.1", "0.2"] {
            Files::new(&workers, name).stdin(&payload).unwrap();
            assert_eq!(std::fs::read_dir(&workers).unwrap().count(), 0, "a run's directory is gone with it");
            std::fs::remove_dir_all(&workers).unwrap();
        }
        std::fs::write(&workers, "no directory").unwrap();
        assert!(Files::new(&workers, "0.3").stdin(&payload).is_err());
    }

    #[test]
    fn a_payload_is_read_from_its_beginning_and_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let payload = RawValue::from_string("[1, 2, 3]".into()).unwrap();
        let mut got = String::new();
        files.stdin(&payload).unwrap().read_to_string(&mut got).unwrap();
        assert_eq!(got, "[1, 2, 3]");
        assert_eq!(std::fs::metadata(files.payload.as_ref().unwrap()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(files.stdin(&payload).is_err(), "no file of another is written to");
    }

    #[test]
    fn a_result_that_is_a_pipe_or_a_link_is_refused_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path());
        std::os::unix::fs::symlink("/etc/hostname", &files.result).unwrap();
        assert_eq!(files.result().unwrap_err().reason, Reason::InvalidResult);
        std::fs::remove_file(&files.result).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &files.result, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(files.result().unwrap_err().reason, Reason::InvalidResult);
    }

    #[test]
    fn each_bad_result_has_its_reason() {
        for (bytes, reason) in [
            (b"nonsense".to_vec(), Reason::InvalidResult),
            (vec![0xff], Reason::InvalidUtf8),
            (vec![b' '; RESULT_BYTES + 1], Reason::OutputTooLarge),
        ] {
            assert_eq!(parse("result", bytes).unwrap_err().reason, reason);
        }
        assert!(parse("result", b" \n".to_vec()).unwrap().is_none());
    }

    #[test]
    fn progress_is_the_last_whole_line_and_each_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let mut file = File::create(&files.progress).unwrap();
        let mut seen = 0;
        for (write, want) in [("1\n2\n3", 4), ("3\n", 7), ("", 7)] {
            file.write_all(write.as_bytes()).unwrap();
            files.look(&mut seen, &Progress::default());
            assert_eq!(seen, want, "{write:?}");
        }
    }

    #[test]
    fn files_are_gone_with_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        std::fs::write(&files.result, "1").unwrap();
        files.stdin(&RawValue::from_string("2".into()).unwrap()).unwrap();
        drop(files);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
