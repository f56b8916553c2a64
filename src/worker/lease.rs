//! The lease: how it starts, the heartbeat that keeps it, and what its silence means.
//!
//! Time is measured by the monotonic clock from before each question was sent, so the worker's deadline is
//! never later than the database's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    WorkerOptions,
    launch::{
        home::Home,
        orders::{Order, Why},
    },
};
use crate::{Error, JobQueue, Session, SessionOptions, metrics::Facts};

/// How long a registration may take; a connection of before may be dead.
const ANSWER: Duration = Duration::from_secs(10);

/// The state of the lease, as the loop sees it.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    pub deadline: Instant,
    /// Marked by the controller, and since when.
    pub draining: Option<Instant>,
    pub cancelled: Vec<Uuid>,
    pub lost: bool,
}

/// How long before the deadline jobs are asked to end, and how long before it they are killed. The guardian
/// kills at the deadline itself.
fn margins(lease: Duration) -> (Duration, Duration) {
    let ask = (lease / 6).clamp(Duration::from_millis(30), Duration::from_secs(5));
    (ask, ask / 5)
}

/// Starts a lease, as another worker than any before.
pub(super) async fn register(queue: &JobQueue, options: &WorkerOptions) -> Result<Session, Error> {
    let defaults = SessionOptions::default();
    let session = queue.session(SessionOptions {
        name: options.name.clone().unwrap_or(defaults.name),
        queues: options.queues.clone(),
        slots: i32::try_from(options.concurrency).unwrap_or(i32::MAX),
        lease: options.lease,
        identity: defaults.identity,
    });
    timeout(ANSWER, session).await.map_err(|_| Error::Pool(format!("no answer within {ANSWER:?}")))?
}

/// Extends the lease three times in its life or more, also while draining: a worker that drains is alive.
/// `asked` is when the worker asked to be registered.
pub(super) fn heartbeat(
    session: Arc<Session>,
    asked: Instant,
    home: Arc<Home>,
    facts: Facts,
    drain: CancellationToken,
    end: CancellationToken,
) -> (watch::Receiver<Beat>, JoinHandle<()>) {
    let lease = session.options().lease;
    let deadline = asked + lease;
    home.set_deadline(deadline);
    facts.tick(asked);
    let (beat, beats) = watch::channel(Beat { deadline, draining: None, cancelled: Vec::new(), lost: false });
    let task = tokio::spawn(async move {
        // Cancellations are heard of here, so the beat is quicker than the lease alone asks for.
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
                    facts.tick(Instant::now());
                    home.set_deadline(h.deadline);
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

/// Orders all jobs to end when the lease can no longer be proven. It waits for nothing but the clock and the
/// heartbeat, so that a hanging query of the loop's cannot keep jobs alive.
pub(super) fn guard(mut beats: watch::Receiver<Beat>, lease: Duration) -> watch::Receiver<Option<Order>> {
    let (orders, told) = watch::channel(None);
    tokio::spawn(async move {
        let (ask, kill) = margins(lease);
        loop {
            let (deadline, lost) = {
                let beat = beats.borrow_and_update();
                (beat.deadline, beat.lost)
            };
            if lost {
                orders.send_replace(Some(Order { why: Why::Lease, kill_at: Instant::now() }));
                return;
            }
            // An order to the jobs of before; those that start from now on are safe.
            orders.send_if_modified(|order| order.take().is_some());
            tokio::select! {
                beat = beats.changed() => match beat {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until((deadline - ask).into()) => {}
            }
            tracing::warn!("the lease could not be extended in time: its jobs are stopped");
            orders.send_replace(Some(Order { why: Why::Lease, kill_at: deadline - kill }));
            if beats.changed().await.is_err() {
                return;
            }
        }
    });
    told
}

/// Returns when the lease is lost or its deadline has passed.
pub(super) async fn ended(mut beats: watch::Receiver<Beat>) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn beat(deadline: Instant) -> Beat {
        Beat { deadline, draining: None, cancelled: Vec::new(), lost: false }
    }

    #[test]
    fn jobs_are_asked_before_they_are_killed_and_killed_before_the_deadline() {
        for lease in [100, 3_000, 30_000, 86_400_000].map(Duration::from_millis) {
            let (ask, kill) = margins(lease);
            assert!(lease / 2 > ask && ask > kill && !kill.is_zero(), "{lease:?}: {ask:?}, {kill:?}");
        }
    }

    #[tokio::test]
    async fn without_a_beat_an_order_comes_before_the_deadline_and_ends_with_the_next_beat() {
        let lease = Duration::from_millis(300);
        let start = Instant::now();
        let (beats, heard) = watch::channel(beat(start + lease));
        let mut orders = guard(heard, lease);
        let order = orders.wait_for(Option::is_some).await.unwrap().unwrap();
        assert_eq!(order.why, Why::Lease);
        assert!(order.kill_at < start + lease && order.kill_at > start + lease / 2);
        beats.send_replace(beat(Instant::now() + Duration::from_secs(60)));
        orders.wait_for(Option::is_none).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_lease_kills_at_once() {
        let (beats, heard) = watch::channel(beat(Instant::now() + Duration::from_secs(60)));
        let mut orders = guard(heard, Duration::from_secs(60));
        beats.send_modify(|b| b.lost = true);
        orders.wait_for(Option::is_some).await.unwrap();
        assert!(orders.borrow().unwrap().kill_at <= Instant::now());
    }
}
