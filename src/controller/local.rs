//! Local processes as replicas: each is `rowlock worker`, started from this program's own file.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    limits::Limits,
    target::{Look, Replica, Scaled, Target},
};

/// One that lived for so long was well.
const WELL: Duration = Duration::from_secs(10);
/// After one that was not, the next is not started for twice as long as the time before, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After one that was killed its guardian needs a moment to end the jobs' processes: until then they are not put back.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Beyond the worker's own grace, in which it ends by itself.
const STOP: Duration = Duration::from_secs(35);

/// How to start one.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// What the replicas are called together.
    pub name: String,
    /// The program `rowlock`.
    pub program: PathBuf,
    /// Told in the environment, never in an argument.
    pub database_url: String,
    /// Which queues, and how many.
    pub limits: Limits,
    /// Jobs at once in each.
    pub concurrency: u16,
}

/// The processes.
#[derive(Debug)]
pub struct LocalProcesses {
    options: LocalOptions,
    running: Vec<Running>,
    /// Keys of those that have ended, and when their jobs may be put back.
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
    /// The worker ends when this is closed, also if we are killed. Apart from the child, which closes its own when
    /// it is waited for.
    _leash: Option<ChildStdin>,
    stopping: bool,
}

impl LocalProcesses {
    /// None yet.
    ///
    /// # Errors
    /// If the system does not tell when children end.
    pub fn new(options: LocalOptions) -> anyhow::Result<LocalProcesses> {
        let children = signal(SignalKind::child()).context("cannot listen for the end of processes")?;
        Ok(LocalProcesses {
            options,
            running: Vec::new(),
            ended: Vec::new(),
            children,
            pause: Duration::ZERO,
            not_before: Instant::now(),
        })
    }

    fn start(&self) -> anyhow::Result<Running> {
        let numbers: Vec<u32> = self.running.iter().map(|r| r.number).collect();
        let number = (1..).find(|n| !numbers.contains(n)).unwrap_or(u32::MAX);
        let key = Uuid::now_v7().to_string();
        let mut command = Command::new(&self.options.program);
        // Nothing that steers this program steers its workers.
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
            // Its figures are those of whoever started it, which has the usual port.
            .arg("--http=127.0.0.1:0")
            .env("DATABASE_URL", &self.options.database_url)
            // As a Pod would be told: they are the worker's name and what tells its lives apart.
            .env("POD_NAME", format!("{}-{number}", self.options.name))
            .env("POD_UID", &key)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Out of the terminal's group: Ctrl-C is for us, and we tell them.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.options.program.display()))?;
        let leash = child.stdin.take();
        Ok(Running { number, replica: Replica { key, ordered }, child, _leash: leash, stopping: false })
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        let mut kept = Vec::new();
        for mut r in std::mem::take(&mut self.running) {
            match r.child.try_wait().context("waiting for a worker")? {
                None => kept.push(r),
                Some(status) => {
                    if !status.success() && !r.stopping {
                        tracing::warn!(worker = r.number, %status, "a worker ended");
                        let well = r.replica.ordered.elapsed() > WELL;
                        self.pause =
                            if well { Duration::ZERO } else { (self.pause * 2).max(WELL / 50).min(LONGEST_PAUSE) };
                        self.not_before = Instant::now() + self.pause;
                    }
                    let after = if status.success() { Duration::ZERO } else { AFTERMATH };
                    self.ended.push((Instant::now() + after, r.replica.key));
                }
            }
        }
        self.running = kept;
        Ok(())
    }

    /// Stops all of them: within their grace, or sooner with `hurry`. None is left when it returns.
    pub async fn end(mut self, hurry: CancellationToken) {
        self.running.iter().for_each(tell);
        let mut hurried = false;
        let deadline = Instant::now() + STOP;
        while self.reap().is_err() || !self.running.is_empty() {
            tokio::select! {
                _ = self.children.recv() => {}
                // A signal may have come just before.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = hurry.cancelled(), if !hurried => {
                    self.running.iter().for_each(tell);
                    hurried = true;
                }
            }
            if Instant::now() > deadline {
                tracing::error!("workers did not end in time: killed");
                for r in &mut self.running {
                    // It may have ended meanwhile.
                    let _ = r.child.kill().await;
                }
            }
        }
    }
}

/// SIGTERM: it drains; the second: it hurries.
fn tell(r: &Running) {
    let pid = r.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // None: it has ended, and its number may be another's.
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::debug!(%error, "a worker had ended before it was told to");
    }
}

impl Target for LocalProcesses {
    async fn look(&mut self) -> anyhow::Result<Look> {
        self.reap()?;
        let now = Instant::now();
        let gone = self.ended.extract_if(.., |(at, _)| *at <= now).map(|(_, key)| key).collect();
        let scaled = Scaled {
            name: self.options.name.clone(),
            limits: Ok(self.options.limits.clone()),
            replicas: self.running.iter().filter(|r| !r.stopping).map(|r| r.replica.clone()).collect(),
            unschedulable: 0,
        };
        Ok(Look { deployments: vec![scaled], gone, ..Look::default() })
    }

    async fn grow(&mut self, _: &str, to: u32) -> anyhow::Result<bool> {
        while self.running.iter().filter(|r| !r.stopping).count() < to as usize && Instant::now() >= self.not_before {
            let started = self.start()?;
            self.running.push(started);
        }
        Ok(true)
    }

    async fn stop(&mut self, _: &str, replicas: &[String]) -> anyhow::Result<bool> {
        for r in self.running.iter_mut().filter(|r| replicas.contains(&r.replica.key)) {
            r.stopping = true;
            tell(r);
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
