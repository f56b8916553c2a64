//! Jobs as commands: what `rowlock worker` runs. See `docs/launch-contract.md` for what a job sees.
//!
//! - `commands`: the launcher that plugs into the engine of [`crate::worker`]. `options`, `job_pods`: what it accepts
//!   and needs.
//! - `job_types`, `admit`: from a job to the `spec` of its command, or to why there is none.
//! - `process`, `resident`, `pod`: the three ways to run a command; `run` is one run, `slot` its place.
//! - `process_group`, `guardian`: what is known of the processes, and who ends them when the worker cannot.
//!   `environment`: the variables that they do not get. `host`: what this machine lacks.

mod admit;
mod commands;
mod environment;
mod exit;
mod files;
pub(crate) mod guardian;
mod host;
mod job_pods;
mod job_types;
mod lines;
mod options;
pub(crate) mod pod;
mod process;
mod process_group;
mod resident;
mod run;
mod runner;
mod slot;
mod spec;
mod tail;

use self::commands::Commands;
pub use self::{
    job_pods::JobPods,
    options::{LaunchOptions, PodOptions},
    spec::Kind,
};
use crate::{
    Error, JobQueue, Target,
    worker::{self, Shutdown, WorkerOptions, WorkerSummary},
};

/// Works as `rowlock worker` does: until it is told to drain (then ends within the grace), or until nothing is due if
/// asked so. A worker that loses its lease stops its jobs and goes on as another one.
///
/// # Errors
/// [`Error::Config`] for options that do not fit together; the database's, when the worker cannot start or is refused
/// (once it has worked, it keeps trying while the database is away or shows a certificate that is not believed);
/// [`Error::LeaseLost`] when its lease ended while it drained.
///
/// ```no_run
/// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
/// use rowlock::{launch::{self, LaunchOptions}, worker::WorkerOptions};
/// let options = WorkerOptions { queues: vec!["mail".into()], stop_when_empty: true, ..Default::default() };
/// let shutdown = tokio_util::sync::CancellationToken::new();
/// let summary = launch::run(queue, options, LaunchOptions::default(), shutdown).await?;
/// println!("{} completed", summary.completed);
/// # Ok(()) }
/// ```
pub async fn run(
    queue: JobQueue,
    options: WorkerOptions,
    launch: LaunchOptions,
    shutdown: impl Into<Shutdown>,
) -> Result<WorkerSummary, Error> {
    let databases: Vec<Target> = std::iter::once(queue.target().clone()).chain(options.listen.clone()).collect();
    environment::report_exposed(&databases);
    let commands = Commands::new(queue.clone(), launch, environment::withheld(&databases))?;
    worker::run(&queue, &options, commands, &shutdown.into()).await
}
