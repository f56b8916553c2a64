//! The process groups of a worker: their register, and the directory and the environment of their processes.
//!
//! The register is memory shared with the guardian: the lease's deadline, whether the guardian has killed, then a
//! process group per place. It costs one small write per start, and wakes nobody.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::BorrowedFd,
        unix::{
            fs::{DirBuilderExt, FileExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use rustix::{
    fs::MemfdFlags,
    process::{Pid, Signal, kill_process_group},
    time::{ClockId, clock_gettime},
};
use uuid::Uuid;

use super::spec::Spec;
use crate::worker::{launcher::RESULT_BYTES, stop::Step};

/// Marks every process of a worker; its value is the worker's id.
pub(super) const MARK: &str = "ROWLOCK_WORKER_ID";

/// Where the register says that the guardian has killed, behind the deadline; and the bytes before the groups.
const KILLED: u64 = 8;
const HEAD: u64 = 16;

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub(super) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Reads a register: the deadline, and the groups there are.
pub(super) fn read(register: BorrowedFd<'_>) -> io::Result<(u64, Vec<Pid>)> {
    let file = File::from(register.try_clone_to_owned()?);
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    let (head, groups) = bytes.split_at(usize::try_from(HEAD).unwrap_or(0).min(bytes.len()));
    let deadline = head.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
    let groups = groups.chunks_exact(4).filter_map(|b| Pid::from_raw(i32::from_ne_bytes(b.try_into().ok()?))).collect();
    Ok((deadline, groups))
}

/// Says that the guardian kills, before it does: what the worker sees end from then on did not end by itself.
pub(super) fn mark_killed(register: BorrowedFd<'_>) -> io::Result<()> {
    File::from(register.try_clone_to_owned()?).write_all_at(&[1], KILLED)
}

#[derive(Debug)]
pub(super) struct ProcessGroups {
    worker: Uuid,
    dir: PathBuf,
    register: File,
    /// Variables of this process that no job may see: see `environment`.
    withheld: Vec<OsString>,
}

impl ProcessGroups {
    /// Room for `places` process groups.
    pub(super) fn new(worker: Uuid, places: usize, withheld: Vec<OsString>) -> io::Result<ProcessGroups> {
        let register = File::from(rustix::fs::memfd_create("rowlock-groups", MemfdFlags::CLOEXEC)?);
        register.set_len(HEAD + 4 * places as u64)?;
        Ok(ProcessGroups { worker, dir: directory(worker, places)?, register, withheld })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn register(&self) -> &File {
        &self.register
    }

    /// Tells the guardian when to kill what still runs.
    pub(super) fn set_deadline(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let at = monotonic().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
        self.write(at.to_ne_bytes().as_slice(), 0);
    }

    /// Whether the guardian has killed what runs here. Then this life is over, also if the lease was extended in
    /// the same moment: how its jobs end means nothing.
    pub(super) fn is_killed(&self) -> bool {
        let mut mark = [0];
        self.register.read_exact_at(&mut mark, KILLED).is_err() || mark != [0]
    }

    /// Memory that is there already cannot be full, nor can writing to it fail otherwise.
    fn write(&self, bytes: &[u8], at: u64) {
        if let Err(error) = self.register.write_all_at(bytes, at) {
            tracing::error!(%error, "cannot write to the register of process groups");
        }
    }

    pub(super) fn command(&self, spec: &Spec) -> Command {
        let mut command = Command::new(&spec.program);
        self.withheld.iter().for_each(|key| {
            command.env_remove(key);
        });
        command
            .args(&spec.args)
            .envs(spec.env.iter().map(|(k, v)| (k, v)))
            .env(MARK, self.worker.to_string())
            .process_group(0);
        command
    }

    /// Registers a process that leads a group of its own.
    pub(super) fn enter(self: &Arc<ProcessGroups>, place: usize, process: u32) -> io::Result<Group> {
        let pid = number(process)?;
        self.write(&pid.as_raw_nonzero().get().to_ne_bytes(), HEAD + 4 * place as u64);
        Ok(Group { pid, place, groups: self.clone() })
    }
}

/// The signal for a process that cannot be notified otherwise.
pub(super) fn signal_of(step: Step) -> Signal {
    match step {
        Step::Notify | Step::Terminate => Signal::TERM,
        Step::Kill => Signal::KILL,
    }
}

/// The number of a process, for signals.
pub(super) fn number(process: u32) -> io::Result<Pid> {
    Pid::from_raw(process.cast_signed()).ok_or_else(|| io::Error::other("the process has no number"))
}

impl Drop for ProcessGroups {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A directory only this user can read: in memory if every job's payload and result have room there and nobody
/// said otherwise, because to make and remove files costs a disk more. A container may have no /tmp, or one that
/// cannot be written.
fn directory(worker: Uuid, places: usize) -> io::Result<PathBuf> {
    let room = 2 * places as u64 * RESULT_BYTES as u64;
    let shared = PathBuf::from("/dev/shm");
    let parents = match std::env::var_os("TMPDIR") {
        None if is_roomy(&shared, room) => [shared, std::env::temp_dir()],
        _ => [std::env::temp_dir(), shared],
    };
    let mut last = None;
    for parent in parents {
        let dir = parent.join(format!("rowlock-{worker}"));
        let made = std::fs::create_dir_all(&parent).and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(&dir));
        match made {
            Ok(()) => return Ok(dir),
            Err(e) => last = Some(io::Error::new(e.kind(), format!("{}: {e}", parent.display()))),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no directory for temporary files")))
}

fn is_roomy(dir: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= bytes)
}

/// A process group of this worker. What is left of it ends with the value.
///
/// The leader's number stays taken while its group has members; without any, the signal finds nobody.
#[derive(Debug)]
pub(super) struct Group {
    pid: Pid,
    place: usize,
    groups: Arc<ProcessGroups>,
}

impl Group {
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.groups.write(&[0; 4], HEAD + 4 * self.place as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{os::fd::AsFd, time::Duration};

    use super::*;

    #[test]
    fn the_register_has_a_group_from_its_start_to_its_end_and_the_deadline() {
        let groups = Arc::new(ProcessGroups::new(Uuid::now_v7(), 2, Vec::new()).unwrap());
        let spec = Spec { program: "sleep".into(), args: vec!["60".into()], env: Vec::new(), pod: None };
        let mut child = groups.command(&spec).spawn().unwrap();
        let group = groups.enter(1, child.id()).unwrap();
        groups.set_deadline(Instant::now() + Duration::from_secs(5));
        let (deadline, read_groups) = read(groups.register().as_fd()).unwrap();
        assert_eq!(*read_groups, [group.pid]);
        assert!(!groups.is_killed());
        mark_killed(groups.register().as_fd()).unwrap();
        assert!(groups.is_killed());
        assert_eq!(read(groups.register().as_fd()).unwrap(), (deadline, read_groups), "nothing else was written");
        assert!((4_000_000_000..=5_000_000_000).contains(&(deadline - monotonic())));
        drop(group);
        assert!(!child.wait().unwrap().success(), "it was killed");
        assert_eq!(read(groups.register().as_fd()).unwrap().1, []);
    }

    #[test]
    fn memory_is_used_only_where_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_roomy(dir.path(), 1) && !is_roomy(dir.path(), u64::MAX) && !is_roomy(Path::new("/nowhere"), 0));
    }

    #[test]
    fn a_directory_is_gone_with_its_groups() {
        let groups = ProcessGroups::new(Uuid::now_v7(), 1, Vec::new()).unwrap();
        let dir = groups.dir().to_owned();
        assert!(dir.is_dir());
        drop(groups);
        assert!(!dir.exists());
    }
}
