//! Ending a job before its end: who ordered it, what is done next, and when.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;

/// Why a job is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Why {
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// The worker shuts down.
    Draining,
    /// The lease cannot be proven: soon another worker may start it.
    Lease,
}

/// End, and be killed at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Order {
    pub why: Why,
    pub kill_at: Instant,
}

impl Order {
    /// The first reason stays; a later order can only hurry.
    pub(in super::super) fn and(self, later: Order) -> Order {
        Order { why: self.why, kill_at: self.kill_at.min(later.kill_at) }
    }
}

/// What is done to the process next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A word, for a handler that can hear it.
    Tell,
    Term,
    Kill,
}

impl Step {
    /// For a process that hears no word.
    pub(super) fn signal(self) -> Signal {
        match self {
            Step::Tell | Step::Term => Signal::TERM,
            Step::Kill => Signal::KILL,
        }
    }
}

/// What was done to it so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Told { term_at: Instant },
    Termed,
    Killed,
}

/// What to do now, or until when to wait. A word gets half of the time there is, a signal the rest.
fn next(stage: Stage, order: Order, polite: bool, now: Instant) -> (Stage, Result<Step, Option<Instant>>) {
    match stage {
        Stage::Killed => (stage, Err(None)),
        _ if now >= order.kill_at => (Stage::Killed, Ok(Step::Kill)),
        Stage::Running if polite => (Stage::Told { term_at: now + (order.kill_at - now) / 2 }, Ok(Step::Tell)),
        Stage::Running => (Stage::Termed, Ok(Step::Term)),
        Stage::Told { term_at } if now >= term_at => (Stage::Termed, Ok(Step::Term)),
        Stage::Told { term_at } => (stage, Err(Some(term_at.min(order.kill_at)))),
        Stage::Termed => (stage, Err(Some(order.kill_at))),
    }
}

/// Orders a job to end; a later order can only hurry.
pub(in super::super) fn give(job: &watch::Sender<Option<Order>>, what: Order) {
    job.send_if_modified(|order| {
        let merged = order.map_or(what, |o| o.and(what));
        order.replace(merged) != Some(merged)
    });
}

/// The orders to one job, from everywhere.
#[derive(Debug)]
pub(in super::super) struct Orders {
    own: watch::Receiver<Option<Order>>,
    lease: watch::Receiver<Option<Order>>,
    timeout_at: Option<Instant>,
    grace: Duration,
    in_force: Option<Order>,
    stage: Stage,
}

impl Orders {
    pub(in super::super) fn new(
        own: watch::Receiver<Option<Order>>,
        lease: watch::Receiver<Option<Order>>,
        grace: Duration,
    ) -> Orders {
        Orders { own, lease, timeout_at: None, grace, in_force: None, stage: Stage::Running }
    }

    pub(super) fn start_clock(&mut self, timeout: Option<Duration>) {
        self.timeout_at = timeout.and_then(|t| Instant::now().checked_add(t));
    }

    /// Why the job is to end, if it is.
    pub(super) fn why(&self) -> Option<Why> {
        self.in_force.map(|order| order.why)
    }

    /// Whether it was sent a signal.
    pub(super) fn signalled(&self) -> bool {
        matches!(self.stage, Stage::Termed | Stage::Killed)
    }

    /// Waits for what is to be done next; may be dropped and called again.
    pub(super) async fn step(&mut self, polite: bool) -> Step {
        loop {
            let now = Instant::now();
            self.hear(now);
            let until = match self.in_force {
                None => self.timeout_at,
                Some(order) => {
                    let (stage, what) = next(self.stage, order, polite, now);
                    self.stage = stage;
                    match what {
                        Ok(step) => return step,
                        Err(until) => until,
                    }
                }
            };
            let wait = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.own.changed() => {}
                Ok(()) = self.lease.changed() => {}
                () = wait => {}
            }
        }
    }

    fn hear(&mut self, now: Instant) {
        let timeout =
            self.timeout_at.filter(|at| now >= *at).map(|at| Order { why: Why::Timeout, kill_at: at + self.grace });
        let news = [*self.lease.borrow_and_update(), *self.own.borrow_and_update(), timeout];
        for order in news.into_iter().flatten() {
            self.in_force = Some(self.in_force.map_or(order, |o| o.and(order)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_reason_stays_and_the_earlier_kill_wins() {
        let now = Instant::now();
        let cancel = Order { why: Why::Cancelled, kill_at: now + 9 * SECOND };
        let lease = Order { why: Why::Lease, kill_at: now + SECOND };
        assert_eq!(cancel.and(lease), Order { why: Why::Cancelled, kill_at: now + SECOND });
        assert_eq!(lease.and(cancel), lease);
    }

    #[test]
    fn a_process_is_asked_at_once_and_killed_at_the_time_of_the_order() {
        let now = Instant::now();
        let order = Order { why: Why::Timeout, kill_at: now + 4 * SECOND };
        assert_eq!(next(Stage::Running, order, false, now), (Stage::Termed, Ok(Step::Term)));
        assert_eq!(next(Stage::Termed, order, false, now + SECOND), (Stage::Termed, Err(Some(order.kill_at))));
        assert_eq!(next(Stage::Termed, order, false, order.kill_at), (Stage::Killed, Ok(Step::Kill)));
        assert_eq!(next(Stage::Killed, order, false, order.kill_at + SECOND).1, Err(None));
    }

    #[test]
    fn a_handler_is_told_first_and_asked_at_half_time() {
        let now = Instant::now();
        let order = Order { why: Why::Cancelled, kill_at: now + 4 * SECOND };
        let told = Stage::Told { term_at: now + 2 * SECOND };
        assert_eq!(next(Stage::Running, order, true, now), (told, Ok(Step::Tell)));
        assert_eq!(next(told, order, true, now + SECOND), (told, Err(Some(now + 2 * SECOND))));
        assert_eq!(next(told, order, true, now + 2 * SECOND), (Stage::Termed, Ok(Step::Term)));
    }

    #[test]
    fn an_order_whose_time_is_over_kills_at_once() {
        let now = Instant::now();
        let order = Order { why: Why::Lease, kill_at: now };
        assert_eq!(next(Stage::Running, order, true, now), (Stage::Killed, Ok(Step::Kill)));
    }

    #[tokio::test]
    async fn an_order_reaches_a_job_that_is_ending_already_and_hurries_it() {
        let (own, own_rx) = watch::channel(None);
        let (lease, lease_rx) = watch::channel(None);
        let mut orders = Orders::new(own_rx, lease_rx, 60 * SECOND);
        own.send_replace(Some(Order { why: Why::Cancelled, kill_at: Instant::now() + 3600 * SECOND }));
        assert_eq!(orders.step(false).await, Step::Term);
        lease.send_replace(Some(Order { why: Why::Lease, kill_at: Instant::now() }));
        assert_eq!(orders.step(false).await, Step::Kill);
        assert_eq!(orders.why(), Some(Why::Cancelled));
    }
}
