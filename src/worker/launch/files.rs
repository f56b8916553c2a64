//! A job's files: its payload, its result, its progress.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::OFlags;
use serde_json::value::RawValue;

use super::{RESULT_BYTES, failure, progress::Progress};
use crate::Failure;

/// How often a running job's progress file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of the progress file, what is read in one look: the last line counts.
const LOOK_BYTES: usize = 16 * 1024;

/// A slot's payload file: written anew for each job, which costs less than a file of its own.
#[derive(Debug)]
pub(super) struct PayloadFile {
    path: PathBuf,
    file: File,
    inode: u64,
}

impl PayloadFile {
    pub(super) fn create(path: PathBuf) -> std::io::Result<PayloadFile> {
        let _ = std::fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let inode = file.metadata()?.ino();
        Ok(PayloadFile { path, file, inode })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves nothing of a payload between jobs.
    pub(super) fn clear(&self) -> std::io::Result<()> {
        self.file.set_len(0)
    }

    /// Writes a payload into the empty file and opens it to be read as stdin: no pipe to fill, so no job can hold the worker up by
    /// not reading. None if an earlier job has put something else in its place.
    fn write(&self, payload: &RawValue) -> std::io::Result<Option<File>> {
        self.file.write_all_at(payload.get().as_bytes(), 0)?;
        match File::open(&self.path) {
            Ok(stdin) if stdin.metadata()?.ino() == self.inode => Ok(Some(stdin)),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Puts a payload into the slot's file, which is made if it is not there (any more).
pub(super) fn stdin(slot: &mut Option<PayloadFile>, path: &Path, payload: &RawValue) -> std::io::Result<File> {
    if let Some(stdin) = slot.as_ref().map(|file| file.write(payload)).transpose()?.flatten() {
        return Ok(stdin);
    }
    let file = slot.insert(PayloadFile::create(path.to_owned())?);
    file.write(payload)?.ok_or_else(|| std::io::Error::other("the payload file was replaced as it was written"))
}

/// What a job may write. Jobs' files never share a name, so that a straggler of one job cannot write into the
/// next.
#[derive(Debug)]
pub(in super::super) struct Files {
    pub result: PathBuf,
    pub progress: PathBuf,
    /// Whether they may be there, and have to be removed.
    leave: [bool; 2],
}

impl Files {
    pub(super) fn new(dir: &Path, name: &str) -> Files {
        let path = |kind: &str| dir.join(format!("{name}.{kind}"));
        Files::at(path("result"), path("progress"))
    }

    pub(super) fn at(result: PathBuf, progress: PathBuf) -> Files {
        Files { result, progress, leave: [true; 2] }
    }

    /// The result, if the command wrote one.
    pub(super) fn result(&mut self) -> Result<Option<Box<RawValue>>, Failure> {
        let file = match open(&self.result) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.leave[0] = false;
                return Ok(None);
            }
            Err(e) => return Err(failure("invalid_result", true, format!("result file: cannot be read: {e}"))),
        };
        let mut bytes = Vec::new();
        let read = file.take(RESULT_BYTES as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| failure("invalid_result", true, format!("result file: cannot be read: {e}")))?;
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

/// Opens what a job wrote. It may have made a pipe or a link of it: neither may hold the worker up or lead
/// it elsewhere.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("expected a regular file")) }
}

/// A result from its bytes; nothing but white space is none.
pub(super) fn parse(what: &str, bytes: Vec<u8>) -> Result<Option<Box<RawValue>>, Failure> {
    if bytes.len() > RESULT_BYTES {
        return Err(failure("output_too_large", true, format!("{what}: expected at most {RESULT_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        failure("invalid_utf8", true, format!("{what}: expected UTF-8, got another byte at {at}"))
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text.trim()) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(failure("invalid_result", true, format!("{what}: expected JSON: {e}"))),
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for (path, leave) in [&self.result, &self.progress].into_iter().zip(self.leave) {
            if leave {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use std::io::Write;

    fn files(dir: &Path) -> Files {
        Files::new(dir, "0.1")
    }

    #[test]
    fn each_job_reads_its_own_payload_whatever_the_one_before_did_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("payload"), dir.path().join("other"));
        let mut slot = None;
        let mut read = |text: &str, before: &dyn Fn(&Path)| {
            let payload = RawValue::from_string(text.into()).unwrap();
            let mut got = String::new();
            stdin(&mut slot, &path, &payload).unwrap().read_to_string(&mut got).unwrap();
            assert_eq!(got, text);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            before(&path);
            slot.as_ref().unwrap().clear().unwrap();
        };
        read("[1, 2, 3]", &|_| {});
        read("[]", &|path| std::fs::remove_file(path).unwrap());
        read("[4]", &|path| {
            std::fs::write(&other, "[\"mine\"]").unwrap();
            std::fs::rename(&other, path).unwrap();
        });
        read("[5]", &|path| std::fs::write(path, "[\"longer than the next\"]").unwrap());
        read("[6]", &|_| {});
    }

    #[test]
    fn a_result_that_is_a_pipe_or_a_link_is_refused_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path());
        std::os::unix::fs::symlink("/etc/hostname", &files.result).unwrap();
        assert_eq!(files.result().unwrap_err().reason, "invalid_result");
        std::fs::remove_file(&files.result).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &files.result, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(files.result().unwrap_err().reason, "invalid_result");
    }

    #[test]
    fn each_bad_result_has_its_reason() {
        for (bytes, reason) in [
            (b"nonsense".to_vec(), "invalid_result"),
            (vec![0xff], "invalid_utf8"),
            (vec![b' '; RESULT_BYTES + 1], "output_too_large"),
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
        drop(files);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
