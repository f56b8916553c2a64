//! How a worker works, how it is told to end, and what it has done.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Target, session::outcome::Verdict};

/// How a worker works, whatever runs its jobs.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The queues served; the first goes first at equal priority, in turn.
    pub queues: Vec<String>,
    /// Jobs at once.
    pub concurrency: usize,
    /// How long its right to its jobs lasts without a heartbeat.
    pub lease: Duration,
    /// How often it looks for jobs when nothing wakes it.
    pub poll: Duration,
    /// How long it may take to end when it is asked to: until then jobs may end, then they are stopped and
    /// handed back.
    pub grace: Duration,
    /// End when no job is due and none runs.
    pub stop_when_empty: bool,
    /// The name people see; by default the Pod's, or host and process id.
    pub name: Option<String>,
    /// A direct connection for LISTEN, where the usual one goes through a pooler.
    pub listen: Option<Target>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            queues: vec!["default".into()],
            concurrency: 10,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            stop_when_empty: false,
            name: None,
            listen: None,
        }
    }
}

/// No setting of time is taken for longer, so that sums of times and durations cannot overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl WorkerOptions {
    pub(super) fn bounded(&self) -> WorkerOptions {
        let [lease, poll, grace] = [self.lease, self.poll, self.grace].map(|setting| setting.min(LONGEST));
        WorkerOptions { lease, poll, grace, ..self.clone() }
    }
}

/// How a worker is told to end: politely, and then with more haste.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Claim no more; let running jobs end within the grace.
    pub drain: CancellationToken,
    /// Do not wait for the grace: stop the jobs and hand them back now.
    pub hurry: CancellationToken,
}

impl From<CancellationToken> for Shutdown {
    fn from(drain: CancellationToken) -> Self {
        Shutdown { drain, hurry: CancellationToken::new() }
    }
}

/// The jobs that a worker has ended, by how they ended.
#[derive(Debug, Default, Clone, Copy, serde::Serialize)]
#[allow(missing_docs)]
pub struct WorkerSummary {
    pub completed: u64,
    pub failed: u64,
    pub retried: u64,
    pub released: u64,
}

impl WorkerSummary {
    pub(super) fn count(&mut self, verdicts: Vec<(Uuid, Verdict)>) {
        for (_, verdict) in verdicts {
            match verdict {
                Verdict::Completed => self.completed += 1,
                Verdict::Retried | Verdict::FailedUnheard | Verdict::ResultRefused { retried: true } => {
                    self.retried += 1
                }
                Verdict::Failed | Verdict::Cancelled | Verdict::ResultRefused { retried: false } => self.failed += 1,
                Verdict::Released => self.released += 1,
                Verdict::LeaseLost => {}
            }
        }
    }
}
