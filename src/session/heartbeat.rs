//! The heartbeat of a registered worker: it extends the lease, and tells the others of the process what it heard.
//!
//! Time is the monotonic clock's, read before each question is sent, so a worker's own deadline is never later than the
//! database's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::Session;
use crate::{Error, connect::presence::Presence};

/// The state of a lease after the last heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    /// Until then nobody else can begin the worker's jobs.
    pub deadline: Instant,
    /// The database's own deadline. [`Beat::deadline`] is later while the server is away for everybody: then every
    /// lease begins anew with the server's return.
    pub granted: Instant,
    /// Since when the controller wants this worker to drain.
    pub draining: Option<Instant>,
    /// Running jobs of this worker that somebody cancelled.
    pub cancelled: Vec<Uuid>,
    pub lost: bool,
}

impl Beat {
    pub(crate) fn until(deadline: Instant) -> Beat {
        Beat { deadline, granted: deadline, draining: None, cancelled: Vec::new(), lost: false }
    }
}

/// A heartbeat, which ends with the value.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub beats: watch::Receiver<Beat>,
    _task: AbortOnDropHandle<()>,
}

impl Heartbeat {
    /// Extends the lease three times in its life or more, also while the worker drains: a worker that drains is alive.
    /// `extended` hears each new deadline before anybody else does: whatever kills jobs at the deadline must never be
    /// behind whoever starts them. `presence`: the signs of the server's absence.
    pub(crate) fn start(
        session: Arc<Session>,
        presence: Arc<Presence>,
        drain: CancellationToken,
        extended: impl Fn(Instant) + Send + 'static,
    ) -> Heartbeat {
        let deadline = session.lease_until();
        extended(deadline);
        let (beat, beats) = watch::channel(Beat::until(deadline));
        let task = tokio::spawn(extend(session, presence, drain, extended, beat));
        Heartbeat { beats, _task: AbortOnDropHandle::new(task) }
    }
}

/// Returns when the lease is lost or its deadline has passed.
pub(crate) async fn lease_ended(mut beats: watch::Receiver<Beat>) {
    loop {
        let (deadline, lost) = {
            let beat = beats.borrow_and_update();
            (beat.deadline, beat.lost)
        };
        if lost || Instant::now() >= deadline {
            return;
        }
        tokio::select! {
            // Without a heartbeat nothing changes any more: the deadline comes.
            Ok(()) = beats.changed() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
}

async fn extend(
    session: Arc<Session>,
    presence: Arc<Presence>,
    drain: CancellationToken,
    extended: impl Fn(Instant),
    beat: watch::Sender<Beat>,
) {
    let lease = session.options().lease;
    // The heartbeat also brings cancellations, so it is quicker than the lease alone asks for.
    let usual = (lease / 3).min(Duration::from_secs(1));
    let mut next = usual;
    let mut extended_at = Instant::now();
    loop {
        tokio::time::sleep(next).await;
        // Of a worker without a job nothing can be cancelled.
        if session.is_idle() && extended_at.elapsed() + usual / 2 < lease / 3 {
            continue;
        }
        let asked_at = Instant::now();
        match timeout(lease / 3, session.extend(drain.is_cancelled())).await {
            Ok(Ok(answer)) => {
                presence.met();
                (next, extended_at) = (usual, asked_at);
                extended(answer.deadline);
                beat.send_modify(|b| {
                    (b.deadline, b.granted) = (answer.deadline, answer.deadline);
                    b.draining = answer.draining.then(|| b.draining.unwrap_or_else(Instant::now));
                    b.cancelled = answer.cancelled;
                });
            }
            Ok(Err(Error::LeaseLost(_))) => {
                beat.send_modify(|b| b.lost = true);
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "heartbeat failed");
                next = (lease / 20).max(Duration::from_millis(50));
            }
            Err(_) => tracing::warn!("heartbeat timed out"),
        }
        if let Some(deadline) = presence.away_at().map(|at| at + lease)
            && deadline > beat.borrow().deadline
        {
            tracing::warn!("the server is away for everybody: running jobs go on");
            extended(deadline);
            beat.send_modify(|b| b.deadline = deadline);
        }
    }
}
