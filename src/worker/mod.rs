//! A worker: claims jobs up to its free places, has them run, reports how they ended, and keeps its lease meanwhile.
//!
//! - `registration`: a lease, and the tasks beside the loop. `engine`: the loop. `until_lease_ends`: how the loop calls
//!   the database.
//! - `stop`: how a job is stopped before its end. `drain`: how a worker spends its grace. `suspects`: who runs alone.
//! - `launcher`: the seam to what runs the jobs; `progress`: what a running job tells meanwhile.
//! - [`Worker`], by its `builder`: `handlers` in Rust, among them [`TypedJob`]s, each with its `context`, run in this
//!   process. `rowlock worker` runs commands instead, on the same engine.
//!
//! A worker that loses its lease stops its jobs and registers anew, as another worker.

mod builder;
mod context;
mod drain;
mod engine;
mod handlers;
pub(crate) mod launcher;
mod options;
pub(crate) mod progress;
mod registration;
pub(crate) mod stop;
mod suspects;
mod typed;
mod until_lease_ends;

use std::{sync::Arc, time::Duration};

use self::launcher::Launcher;
pub use self::{
    builder::{Worker, WorkerBuilder},
    context::JobContext,
    handlers::Handler,
    options::{Shutdown, WorkerOptions, WorkerSummary},
    stop::StopReason,
    typed::TypedJob,
};
use crate::{Error, JobQueue};

/// Between two attempts to register, while the database is away: at first, and at most.
const REGISTER_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Works until it is told to drain (then ends within the grace), or until nothing is due if asked so. A
/// worker that loses its lease stops its jobs and goes on as another one.
///
/// # Errors
/// The database's, when the worker is refused for a reason that time does not mend (once it has worked, the worker
/// also waits for an operator to mend a certificate, a password or a right); [`Error::LeaseLost`] when its lease ended
/// while it drained.
pub(crate) async fn run<L: Launcher>(
    queue: &JobQueue,
    options: &WorkerOptions,
    launcher: L,
    shutdown: &Shutdown,
) -> Result<WorkerSummary, Error> {
    let (launcher, options) = (Arc::new(launcher), &options.bounded());
    let mut summary = WorkerSummary::default();
    let mut has_worked = false;
    let mut wait = REGISTER_RETRY.0;
    loop {
        match registration::run_registered(queue, options, &launcher, shutdown, &mut summary).await {
            Ok(()) => return Ok(summary),
            Err(error) if shutdown.drain.is_cancelled() => return Err(error),
            Err(error @ Error::LeaseLost(_)) => {
                (has_worked, wait) = (true, REGISTER_RETRY.0);
                tracing::warn!(%error, "registering anew");
            }
            // A database that is away is waited for, also at the start. Who has worked waits for an operator, too.
            Err(error) if error.is_transient() || (has_worked && error.may_pass()) => {
                tracing::warn!(%error, "the database is away, trying to register again");
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = (2 * wait).min(REGISTER_RETRY.1),
                    () = shutdown.drain.cancelled() => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}
