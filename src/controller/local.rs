//! Local processes as replicas: each one is `rowlock worker`, started from this program's own file.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    limits::Limits,
    target::{Replica, Scaled, Snapshot, Target, TargetError},
};

/// A worker that lived this long was healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// After a worker that was not, the next start waits twice as long as the one before, up to this time.
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(10);
/// The guardian of a killed worker needs this time to end the jobs' processes; the jobs go back after it.
const GUARDIAN_TIME: Duration = Duration::from_secs(1);
/// Workers are killed after this time. It is longer than their own grace.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);

/// The settings of the processes.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The name of all replicas together, as that of a Deployment.
    pub name: String,
    /// The program `rowlock`.
    pub program: PathBuf,
    /// The database. The workers get it by their environment, never by an argument.
    pub database_url: String,
    /// The queues, and the bounds of the number.
    pub limits: Limits,
    /// The number of jobs that each runs at once.
    pub concurrency: u16,
}

/// Workers on this machine, as the target of a controller.
#[derive(Debug)]
pub struct LocalProcesses {
    options: LocalOptions,
    running: Vec<Running>,
    /// Keys of replicas that have ended, and the time from which their jobs may be put back.
    ended: Vec<(Instant, String)>,
    children: Signals,
    pause: Duration,
    not_before: Instant,
}

#[derive(Debug)]
struct Running {
    number: u32,
    replica: Replica,
    child: Child,
    /// The worker ends when this pipe is closed, also if this process is killed. The child would close it when it is
    /// waited for, so the pipe is held apart from it.
    _parent_link: Option<ChildStdin>,
    stopping: bool,
}

impl LocalProcesses {
    /// Makes a target without a process.
    ///
    /// # Errors
    /// If the system does not tell when children end.
    pub fn new(options: LocalOptions) -> Result<LocalProcesses, TargetError> {
        let children = signal(SignalKind::child()).map_err(failed("cannot listen for the end of processes"))?;
        Ok(LocalProcesses {
            options,
            running: Vec::new(),
            ended: Vec::new(),
            children,
            pause: Duration::ZERO,
            not_before: Instant::now(),
        })
    }

    fn start(&self) -> Result<Running, TargetError> {
        let numbers: Vec<u32> = self.running.iter().map(|r| r.number).collect();
        let number = (1..).find(|n| !numbers.contains(n)).unwrap_or(u32::MAX);
        let key = Uuid::now_v7().to_string();
        let mut command = Command::new(&self.options.program);
        // The variables that steer this program do not steer its workers.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("ROWLOCK_")) {
            command.env_remove(name);
        }
        command.args(["worker", "--leash", "--concurrency", &self.options.concurrency.to_string()]);
        for queue in &self.options.limits.queues {
            command.arg(format!("--queue={queue}"));
        }
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "rowlock=warn");
        }
        let ordered = Instant::now();
        let mut child = command
            // The program that started it exports the figures, and has the usual port.
            .arg("--http=127.0.0.1:0")
            .env("DATABASE_URL", &self.options.database_url)
            // A Pod gets the same variables: they become the worker's name and its identity.
            .env("POD_NAME", format!("{}-{number}", self.options.name))
            .env("POD_UID", &key)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Out of the terminal's group: Ctrl-C reaches this program, which then tells the workers.
            .process_group(0)
            .spawn()
            .map_err(failed(&format!("cannot start {}", self.options.program.display())))?;
        let parent_link = child.stdin.take();
        Ok(Running {
            number,
            replica: Replica { key, group: "local".into(), ordered, up: true },
            child,
            _parent_link: parent_link,
            stopping: false,
        })
    }

    fn reap(&mut self) -> Result<(), TargetError> {
        let mut alive = Vec::new();
        for mut r in std::mem::take(&mut self.running) {
            match r.child.try_wait().map_err(failed("cannot wait for a worker"))? {
                None => alive.push(r),
                Some(status) => {
                    if !status.success() && !r.stopping {
                        tracing::warn!(worker = r.number, %status, "a worker ended");
                        let healthy = r.replica.ordered.elapsed() > HEALTHY_AFTER;
                        let longer = (self.pause * 2).max(HEALTHY_AFTER / 50).min(MAX_RESTART_PAUSE);
                        self.pause = if healthy { Duration::ZERO } else { longer };
                        self.not_before = Instant::now() + self.pause;
                    }
                    let after = if status.success() { Duration::ZERO } else { GUARDIAN_TIME };
                    self.ended.push((Instant::now() + after, r.replica.key));
                }
            }
        }
        self.running = alive;
        Ok(())
    }

    /// Stops all processes: within their grace, or sooner with `hurry`. No process is left when it returns.
    pub async fn end(mut self, hurry: CancellationToken) {
        self.running.iter().for_each(terminate);
        let mut hurried = false;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.reap().is_err() || !self.running.is_empty() {
            tokio::select! {
                _ = self.children.recv() => {}
                // The signal may have come just before.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = hurry.cancelled(), if !hurried => {
                    self.running.iter().for_each(terminate);
                    hurried = true;
                }
            }
            if Instant::now() > deadline {
                tracing::error!("workers did not end in time: killed");
                for r in &mut self.running {
                    // The process may have ended meanwhile.
                    let _ = r.child.kill().await;
                }
            }
        }
    }
}

/// An error of the system, with the act that failed.
fn failed(act: &str) -> impl FnOnce(std::io::Error) -> TargetError {
    let act = act.to_owned();
    move |source| TargetError::Process { act, source }
}

/// Sends SIGTERM: at the first the worker drains, at the second it hurries.
fn terminate(r: &Running) {
    let pid = r.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // A process that has ended has no id here, and its number may be another's.
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::debug!(%error, "a worker had ended before it was told to");
    }
}

impl Target for LocalProcesses {
    async fn observe(&mut self) -> Result<Snapshot, TargetError> {
        self.reap()?;
        let now = Instant::now();
        let terminated = self.ended.extract_if(.., |(at, _)| *at <= now).map(|(_, key)| key).collect();
        let scaled = Scaled {
            name: self.options.name.clone(),
            limits: Ok(self.options.limits.clone()),
            replicas: self.running.iter().filter(|r| !r.stopping).map(|r| r.replica.clone()).collect(),
            unschedulable: 0,
            hold: None,
        };
        Ok(Snapshot { deployments: vec![scaled], terminated, ..Snapshot::default() })
    }

    async fn grow(&mut self, _: &str, to: u32) -> Result<bool, TargetError> {
        while self.running.iter().filter(|r| !r.stopping).count() < to as usize && Instant::now() >= self.not_before {
            let started = self.start()?;
            self.running.push(started);
        }
        Ok(true)
    }

    async fn stop(&mut self, _: &str, replicas: &[String], _: u32) -> Result<bool, TargetError> {
        for r in self.running.iter_mut().filter(|r| replicas.contains(&r.replica.key)) {
            r.stopping = true;
            terminate(r);
        }
        Ok(true)
    }

    async fn changed(&mut self) {
        let next = self.ended.iter().map(|(at, _)| *at).min();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.children.recv() => if ended.is_none() { std::future::pending().await },
            () = due => {}
        }
    }
}
