//! Calls to the database that are repeated while the database is away, until the lease ends.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    ClaimedJob, Error, Session,
    session::{
        heartbeat::{Beat, lease_ended},
        report::Report,
    },
};

/// Between two tries: at first, and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Calls the database until the lease ends.
pub(super) struct UntilLeaseEnds {
    pub session: Arc<Session>,
    pub beats: watch::Receiver<Beat>,
}

impl UntilLeaseEnds {
    /// Tells the database every end and claims up to `free` jobs: see [`Report::flush_and_claim`].
    pub(super) async fn flush_and_claim(&self, report: &mut Report, free: usize) -> Result<Vec<ClaimedJob>, Error> {
        let mut pause = Pause(RETRY_PAUSE.0);
        let repeat = async {
            loop {
                match report.flush_and_claim(&self.session, free).await {
                    Err(error) if error.may_pass() => pause.after(&error).await,
                    other => return other,
                }
            }
        };
        self.unless_lease_ends(repeat).await
    }

    /// Repeats a call while the database is away.
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
        self.unless_lease_ends(repeat).await
    }

    /// A query may hang as long as its connection does, so the lease's end is heard beside it.
    async fn unless_lease_ends<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = call => done,
            () = lease_ended(self.beats.clone()) => Err(lease_lost()),
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

pub(super) fn lease_lost() -> Error {
    Error::LeaseLost("the worker could not extend its lease in time; its jobs were stopped".into())
}
