//! Waits for the end of a process and reads its stderr meanwhile, on a thread that may wait.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    process::{Child, ChildStderr},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

use super::{
    files::LOOK_EVERY,
    process_group::number,
    tail::{LAST_WORDS, Tail},
};

/// Where the kernel cannot tell when a process ends, how often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Waits for the end of a process, which keeps its number; reads what it says, and calls `look` now and then.
pub(super) fn until_end(
    child: &Child,
    stderr: &mut Option<ChildStderr>,
    tail: &Tail,
    mut look: impl FnMut(),
) -> io::Result<()> {
    let pid = number(child.id())?;
    let end = pidfd_open(pid, PidfdFlags::empty()).ok();
    let mut look_at = Instant::now() + LOOK_EVERY;
    loop {
        let left = look_at.saturating_duration_since(Instant::now());
        let at_most = if end.is_some() { left } else { left.min(ASK_EVERY) };
        let [says, mut ended] = wait(stderr.as_ref(), end.as_ref(), at_most)?;
        if end.is_none() {
            ended = has_ended(pid)?;
        }
        if says {
            read(stderr, tail);
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= look_at {
            look();
            look_at = Instant::now() + LOOK_EVERY;
        }
    }
}

/// Reads what was written, whoever else still holds the stream.
pub(super) fn last_words(stderr: &mut Option<ChildStderr>, tail: &Tail) {
    let until = Instant::now() + LAST_WORDS;
    while stderr.is_some() && Instant::now() < until {
        if matches!(wait(stderr.as_ref(), None, until - Instant::now()), Ok([true, _])) {
            read(stderr, tail);
        }
    }
}

fn has_ended(pid: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// Waits until there is something to read, or the process has ended, or the time is over.
fn wait(stderr: Option<&ChildStderr>, end: Option<&OwnedFd>, at_most: Duration) -> io::Result<[bool; 2]> {
    let fds = [stderr.map(AsFd::as_fd), end.map(AsFd::as_fd)];
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, Timespec::try_from(at_most).ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next() == Some(true)))
}

/// Reads what is there; at its end the stream is gone.
fn read(stderr: &mut Option<ChildStderr>, tail: &Tail) {
    let mut chunk = [0; 4096];
    match stderr.as_mut().map(|s| s.read(&mut chunk)) {
        Some(Ok(n @ 1..)) => tail.push(&chunk[..n]),
        Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
        _ => *stderr = None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_kernel_that_cannot_tell_of_an_end_is_asked() {
        let mut child = Command::new("true").spawn().unwrap();
        let (pid, until) = (number(child.id()).unwrap(), Instant::now() + PATIENCE);
        while !has_ended(pid).unwrap() {
            assert!(Instant::now() < until, "the command ends within {PATIENCE:?}");
            std::thread::yield_now();
        }
        assert!(child.wait().unwrap().success(), "its number was its own until now");
    }
}
