//! A worker: claims jobs up to its free slots, runs them, ends them, and keeps its lease meanwhile.
//!
//! - `life`: the loop of one registered worker; `admit` and `catalog`: what it may run; `ends`: what it reports;
//!   `drain`: how it spends its grace.
//! - `lease`: the heartbeat beside the loop.
//! - `launch`: how jobs are run. `guardian`: what ends them when the worker cannot.
//!
//! A worker that loses its lease ends its jobs' processes and registers anew, as another worker.

mod admit;
mod catalog;
mod drain;
mod ends;
pub(crate) mod guardian;
mod launch;
mod lease;
mod leaving;
mod life;

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

pub(crate) use self::launch::pod;
pub use self::launch::{Kind, pod::PodOptions};
use crate::{Error, JobQueue, cluster::Cluster, metrics::Facts};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The queues served; the first goes first at equal priority, in turn.
    pub queues: Vec<String>,
    /// Jobs at once.
    pub concurrency: usize,
    /// The kinds of launch accepted. Jobs of another fail their attempt here.
    pub launch: Vec<Kind>,
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
    pub listen_url: Option<String>,
    /// The program `rowlock`, to be started as the guardian of this worker's processes. Without one they
    /// outlive a worker that is killed.
    pub guardian: Option<PathBuf>,
    /// Where Pods are made; needed to accept [`Kind::Pod`].
    pub cluster: Option<Cluster>,
    /// How they are.
    pub pods: PodOptions,
    /// Where it leaves what it knows of itself, for [`crate::http`].
    pub facts: Facts,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            queues: vec!["default".into()],
            concurrency: 10,
            launch: vec![Kind::Process, Kind::Resident],
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            stop_when_empty: false,
            name: None,
            listen_url: None,
            guardian: None,
            cluster: None,
            pods: PodOptions::default(),
            facts: Facts::new("worker"),
        }
    }
}

impl WorkerOptions {
    /// Whether what is accepted can be launched here; [`run`] asks first of all.
    ///
    /// # Errors
    /// [`Error::Config`], which says what to give.
    ///
    /// ```
    /// use rowlock::worker::{Kind, WorkerOptions};
    /// assert!(WorkerOptions::default().check().is_ok());
    /// assert!(WorkerOptions { launch: vec![Kind::Pod], ..WorkerOptions::default() }.check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        let lacks = |what: &str| Err(Error::Config(format!("launch pod needs {what}")));
        if !self.launch.contains(&Kind::Pod) {
            Ok(())
        } else if self.pods.image.is_empty() {
            lacks("the image of this program: give --pod-image, or set ROWLOCK_POD_IMAGE")
        } else if self.cluster.is_none() {
            lacks("a cluster: run in one, or give --kubeconfig or KUBECONFIG")
        } else {
            Ok(())
        }
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

/// What a worker did in its life.
#[derive(Debug, Default, Clone, Copy, serde::Serialize)]
#[allow(missing_docs)]
pub struct WorkerSummary {
    pub completed: u64,
    pub failed: u64,
    pub retried: u64,
    pub released: u64,
}

/// Between two attempts to register, while the database is away: at first, and at most.
const ANEW: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Works until it is told to drain (then ends within the grace), or until nothing is due if asked so. A
/// worker that loses its lease stops its jobs and goes on as another one.
///
/// # Errors
/// The database's, when the worker cannot start or is refused (once it has worked, it keeps trying while the database
/// is away or shows a certificate that is not believed); [`Error::LeaseLost`] when its lease ended
/// while it drained.
///
/// ```no_run
/// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
/// use rowlock::worker::{WorkerOptions, run};
/// let options = WorkerOptions { queues: vec!["mail".into()], stop_when_empty: true, ..Default::default() };
/// let summary = run(queue, options, tokio_util::sync::CancellationToken::new()).await?;
/// println!("{} completed", summary.completed);
/// # Ok(()) }
/// ```
pub async fn run(
    queue: JobQueue,
    options: WorkerOptions,
    shutdown: impl Into<Shutdown>,
) -> Result<WorkerSummary, Error> {
    let shutdown = shutdown.into();
    let mut summary = WorkerSummary::default();
    let mut lived = false;
    let mut wait = ANEW.0;
    loop {
        match life::live(&queue, &options, &shutdown, &mut summary).await {
            Ok(()) => return Ok(summary),
            Err(error) if shutdown.drain.is_cancelled() => return Err(error),
            Err(error @ Error::LeaseLost(_)) => {
                (lived, wait) = (true, ANEW.0);
                tracing::warn!(%error, "registering anew");
            }
            // A lease may well be lost because the database is away.
            Err(error) if lived && error.may_pass() => {
                tracing::warn!(%error, "the database is away, trying to register again");
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = (2 * wait).min(ANEW.1),
                    () = shutdown.drain.cancelled() => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn io(what: &str, error: &std::io::Error) -> Error {
    Error::Config(format!("the worker cannot start: {what}: {error}; set TMPDIR to a directory it can write"))
}
