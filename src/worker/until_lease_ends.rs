//! Calls to the database that are repeated while the database is away, until the lease ends or the worker has to.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::options::Shutdown;
use crate::{
    ClaimedJob, Error, Session,
    session::{
        Wanted,
        heartbeat::{Beat, lease_ended},
        report::Report,
    },
};

/// Between two tries: at first, and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A worker that has to hurry, or whose grace is over, waits this long for a call that is under way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Calls the database until the lease ends.
pub(super) struct UntilLeaseEnds {
    pub session: Arc<Session>,
    pub beats: watch::Receiver<Beat>,
    shutdown: Shutdown,
    grace: Duration,
    draining_since: OnceLock<Instant>,
}

impl UntilLeaseEnds {
    pub(super) fn new(
        session: Arc<Session>,
        beats: watch::Receiver<Beat>,
        shutdown: Shutdown,
        grace: Duration,
    ) -> UntilLeaseEnds {
        UntilLeaseEnds { session, beats, shutdown, grace, draining_since: OnceLock::new() }
    }

    /// When the worker first knew that it has to drain, if it has to.
    pub(super) fn draining_since(&self) -> Option<Instant> {
        self.shutdown.drain.is_cancelled().then(|| *self.draining_since.get_or_init(Instant::now))
    }

    /// Tells the database every end and claims: see [`Report::flush_and_claim`].
    pub(super) async fn flush_and_claim(&self, report: &mut Report, wanted: Wanted) -> Result<Vec<ClaimedJob>, Error> {
        let mut pause = Pause(RETRY_PAUSE.0);
        let repeat = async {
            loop {
                match report.flush_and_claim(&self.session, wanted).await {
                    Err(error) if error.may_pass() => pause.after(&error).await,
                    other => return other,
                }
            }
        };
        self.bounded(repeat).await
    }

    /// Repeats a call while the database is away. The loop stands twice: a closure that lends a report to its future
    /// makes a future that no other thread can run.
    pub(super) async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pause = Pause(RETRY_PAUSE.0);
        let repeat = async {
            loop {
                match call().await {
                    Err(error) if error.may_pass() => pause.after(&error).await,
                    other => return other,
                }
            }
        };
        self.bounded(repeat).await
    }

    /// A query may hang as long as its connection does, so the lease's end and the worker's are heard beside it.
    pub(super) async fn bounded<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = call => done,
            () = lease_ended(self.beats.clone()) => Err(lease_lost()),
            () = self.time_is_up() => Err(unanswered()),
        }
    }

    /// Returns when the worker has to end, whether the database answers or not.
    async fn time_is_up(&self) {
        self.shutdown.drain.cancelled().await;
        let grace_over = self.draining_since().unwrap_or_else(Instant::now) + self.grace + LAST_CALL;
        let hurried = async {
            self.shutdown.hurry.cancelled().await;
            tokio::time::sleep(LAST_CALL).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(grace_over.into()) => {}
            () = hurried => {}
        }
    }
}

/// The time until the next try.
struct Pause(Duration);

impl Pause {
    async fn after(&mut self, error: &Error) {
        tracing::warn!(%error, "the database is away, trying again");
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_PAUSE.1);
    }
}

fn unanswered() -> Error {
    Error::Pool("the worker was told to end and the database does not answer; its jobs go back with its lease".into())
}

pub(super) fn lease_lost() -> Error {
    Error::LeaseLost("the worker could not extend its lease in time; its jobs were stopped".into())
}
