//! The heartbeat: extends a session's lease, and tells what it learned by the way.
//!
//! Time is measured by the monotonic clock from before each question was sent, so the deadline here is never later
//! than the database's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Session};

/// The state of a lease after the last heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    /// The lease holds until then.
    pub deadline: Instant,
    /// Since when the controller wants this worker to drain.
    pub draining: Option<Instant>,
    pub cancelled: Vec<Uuid>,
    pub lost: bool,
}

/// Extends the lease three times in its length or more often, until `end` or until the lease is lost; with `drain`
/// the database learns that the session claims no more. `asked` is the time before the session was registered.
///
/// `lease_until` hears of each new deadline before anybody else does: whoever enforces the deadline must never be
/// behind those who trust in it.
pub(crate) fn heartbeat(
    session: Arc<Session>,
    asked: Instant,
    drain: CancellationToken,
    end: CancellationToken,
    lease_until: impl Fn(Instant) + Send + 'static,
) -> (watch::Receiver<Beat>, JoinHandle<()>) {
    let lease = session.options().lease;
    let deadline = asked + lease;
    lease_until(deadline);
    let (beat, beats) = watch::channel(Beat { deadline, draining: None, cancelled: Vec::new(), lost: false });
    let task = tokio::spawn(async move {
        // Cancellations arrive with the heartbeat, so it is more frequent than the lease alone asks for.
        let usual = (lease / 3).min(Duration::from_secs(1));
        let mut next = usual;
        loop {
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = end.cancelled() => return,
            }
            match timeout(lease / 3, session.extend(drain.is_cancelled())).await {
                Ok(Ok(h)) => {
                    next = usual;
                    lease_until(h.deadline);
                    beat.send_modify(|b| {
                        b.deadline = h.deadline;
                        b.draining = h.draining.then(|| b.draining.unwrap_or_else(Instant::now));
                        b.cancelled = h.cancelled;
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
        }
    });
    (beats, task)
}

/// Returns when the lease is lost or its deadline has passed.
pub(crate) async fn lease_ended(mut beats: watch::Receiver<Beat>) {
    loop {
        let (deadline, lost) = {
            let beat = beats.borrow_and_update();
            (beat.deadline, beat.lost)
        };
        if lost {
            return;
        }
        tokio::select! {
            Ok(()) = beats.changed() => {}
            () = tokio::time::sleep_until(deadline.into()) => {
                if Instant::now() >= beats.borrow().deadline {
                    return;
                }
            }
        }
    }
}
