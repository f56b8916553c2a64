//! The guardian: a second process that outlives the worker for a moment and ends every process the worker started.
//!
//! It knows that the worker is gone when its pipe closes, and when the lease ends from the register. What
//! started too late to be in the register has the worker's id in its environment. It holds no connection and
//! no secret.

use std::{
    io::{self, PipeWriter},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::process_group::{self, MARK, ProcessGroups};

/// The name of the hidden command that is the guardian.
pub(crate) const COMMAND: &str = "guardian";
/// Between two searches for what is left, and how many of them in a row find nothing before it rests. A
/// process that is just becoming its command has no environment for a moment.
const SEARCH_EVERY: Duration = Duration::from_millis(10);
const CALM: u32 = 3;
/// It searches no longer: what resists SIGKILL for so long is the kernel's.
const SEARCH_FOR: Duration = Duration::from_secs(10);

/// The worker's side: keeps a guardian alive while it is.
pub(super) struct Guardian {
    _keeping: AbortOnDropHandle<()>,
}

impl Guardian {
    /// Starts one; `program` is this program.
    pub(super) fn start(program: PathBuf, worker: Uuid, groups: Arc<ProcessGroups>) -> io::Result<Guardian> {
        let mut running = spawn(&program, worker, &groups)?;
        let keeping = tokio::spawn(async move {
            loop {
                let ended = running.0.wait().await;
                tracing::warn!(?ended, "the guardian ended; starting another");
                tokio::time::sleep(Duration::from_millis(100)).await;
                match spawn(&program, worker, &groups) {
                    Ok(next) => running = next,
                    Err(error) => tracing::error!(%error, "no guardian: processes may outlive this worker"),
                }
            }
        });
        Ok(Guardian { _keeping: AbortOnDropHandle::new(keeping) })
    }
}

/// The pipe's end is closed with the worker, and only then.
fn spawn(program: &Path, worker: Uuid, groups: &ProcessGroups) -> io::Result<(Child, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args([COMMAND, &worker.to_string()])
        .arg(groups.dir())
        .env_clear()
        .stdin(reader)
        .stdout(Stdio::from(groups.register().try_clone()?))
        // Out of the terminal's group: Ctrl-C is for the worker.
        .process_group(0)
        .spawn()?;
    Ok((child, writer))
}

/// The guardian itself: its stdin is the worker's pipe, its stdout the register.
///
/// # Errors
/// If it is not started by a worker.
pub(crate) async fn stand(worker: Uuid, dir: &Path) -> io::Result<()> {
    let register = io::stdout().as_fd().try_clone_to_owned()?;
    let mut worker_lives = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    // A signal to all of a container's processes must not end it before the worker.
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let mark = format!("{MARK}={worker}");
    let mut killed_for = 0;
    loop {
        let (deadline, groups) = process_group::read(register.as_fd())?;
        let left = deadline.saturating_sub(process_group::monotonic());
        if left == 0 && deadline != killed_for {
            // The worker should have done it: it is frozen, or starved, perhaps between a start and the register.
            process_group::mark_killed(register.as_fd())?;
            kill_groups(&groups);
            end_marked(&mark).await;
            killed_for = deadline;
        }
        // Without a new deadline there is nothing to do again, but a new one may come at any time.
        let wait = Duration::from_nanos(left).max(Duration::from_millis(50));
        let mut byte = [0];
        match tokio::time::timeout(wait, worker_lives.read(&mut byte)).await {
            Err(_) | Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => break,
        }
    }
    kill_groups(&process_group::read(register.as_fd())?.1);
    end_marked(&mark).await;
    let _ = std::fs::remove_dir_all(dir);
    Ok(())
}

fn kill_groups(groups: &[Pid]) {
    for group in groups {
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

/// Kills what carries the mark, until there is no more.
async fn end_marked(mark: &str) {
    let started = Instant::now();
    let mut calm = 0;
    while calm < CALM && started.elapsed() < SEARCH_FOR {
        let found = marked(mark);
        calm = if found.is_empty() { calm + 1 } else { 0 };
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(SEARCH_EVERY).await;
    }
}

/// The processes with this entry in their environment. A zombie has none.
fn marked(mark: &str) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
    })
    .filter_map(Pid::from_raw)
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_carries_the_mark_is_found_and_ended_whatever_group_it_is_in() {
        let mark = format!("{MARK}={}", Uuid::now_v7());
        let (key, value) = mark.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("60").env(key, value).process_group(0).spawn().unwrap();
        assert_eq!(marked(&mark).len(), 1);
        end_marked(&mark).await;
        assert!(!child.wait().await.unwrap().success());
        assert!(marked(&mark).is_empty());
    }
}
