//! The seam between the engine and what runs jobs, and the ways in which a run can end.
//!
//! `Launcher` knows no queue. The engine knows no process, no Pod and no handler: it counts places, hands out jobs
//! and stop requests, and reports outcomes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::{
    progress::Progress,
    stop::{StopReason, Stops},
};
pub(crate) use crate::session::outcome::Outcome;
use crate::{ClaimedJob, Error, Failure, Reason, Session};

/// The most bytes of a result.
pub(crate) const RESULT_BYTES: usize = 1024 * 1024;

/// Runs the jobs of a worker.
pub(crate) trait Launcher: Send + Sync + 'static {
    /// A worker is registered and will run up to `places` jobs at once. Called again for each new registration, after
    /// [`Launcher::close`] of the one before.
    fn start(&self, session: &Arc<Session>, places: usize) -> impl Future<Output = Result<(), Error>> + Send;

    /// Runs one job until it has ended or `stops` wants it to end. The engine owns the job, so that nothing else can
    /// end it meanwhile.
    fn run(&self, job: &ClaimedJob, stops: Stops, progress: &Arc<Progress>) -> impl Future<Output = Ended> + Send;

    /// The lease holds until then. Called before the engine learns of it: see [`super::heartbeat`].
    fn lease_until(&self, _deadline: Instant) {}

    /// Whether somebody else has killed what ran here since the last start: then a failure is not the job's own.
    fn was_killed(&self) -> bool {
        false
    }

    /// The launcher wants no more jobs before that time: this machine cannot run them. None if it wants them.
    fn paused_until(&self) -> Option<Instant> {
        None
    }

    /// Whether the job runs where it can take this worker with it when it dies.
    fn runs_beside_the_worker(&self, _job: &ClaimedJob) -> bool {
        true
    }

    /// No more jobs will come for this registration: ends what waits warm, within this time.
    fn close(&self, _within: Duration) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The end of a run.
pub(crate) struct Ended {
    pub outcome: Outcome,
    /// Runs once the database knows the outcome; the job's place is taken until it has ended.
    pub afterwards: Option<BoxFuture<'static, ()>>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Ended {
        Ended { outcome, afterwards: None }
    }
}

impl Outcome {
    /// The outcome of a job that did what it was asked: it stopped.
    pub(crate) fn of_stop(reason: StopReason, timeout: Option<Duration>) -> Outcome {
        match reason {
            StopReason::Timeout => {
                let after = timeout.unwrap_or_default();
                Outcome::Failed(Failure::of(Reason::Timeout, true, format!("timed out after {after:?}")))
            }
            StopReason::Cancelled => Outcome::Failed(Failure::of(Reason::Cancelled, false, "cancelled while it ran")),
            StopReason::Draining | StopReason::LeaseLost => Outcome::Released,
        }
    }
}
