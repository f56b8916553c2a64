//! Stopping a job before its end: who asks for it, what is done next, and when.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::session::heartbeat::Beat;

/// Why a job is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The job ran longer than its timeout.
    Timeout,
    /// Somebody cancelled the job.
    Cancelled,
    /// The worker shuts down; the job goes back and no attempt is consumed.
    Draining,
    /// The worker cannot prove that its lease holds: soon another worker may start the job.
    LeaseLost,
}

/// A job has to stop, and is killed at `kill_at` at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopRequest {
    pub reason: StopReason,
    pub kill_at: Instant,
}

impl StopRequest {
    /// The first reason stays; a later request can only make the kill come earlier.
    fn merge(self, later: StopRequest) -> StopRequest {
        StopRequest { reason: self.reason, kill_at: self.kill_at.min(later.kill_at) }
    }
}

/// The next thing to do to a job that has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell it; only a handler that reads messages can be told.
    Notify,
    Terminate,
    Kill,
}

/// How far the stopping of a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Notified { terminate_at: Instant },
    Terminated,
    Killed,
}

/// The step to take now, or the time until which to wait. A notice gets half of the time that is left, a signal the
/// rest.
fn next(stage: Stage, request: StopRequest, notify: bool, now: Instant) -> (Stage, Result<Step, Option<Instant>>) {
    match stage {
        Stage::Killed => (stage, Err(None)),
        _ if now >= request.kill_at => (Stage::Killed, Ok(Step::Kill)),
        Stage::Running if notify => {
            (Stage::Notified { terminate_at: now + (request.kill_at - now) / 2 }, Ok(Step::Notify))
        }
        Stage::Running => (Stage::Terminated, Ok(Step::Terminate)),
        Stage::Notified { terminate_at } if now >= terminate_at => (Stage::Terminated, Ok(Step::Terminate)),
        Stage::Notified { terminate_at } => (stage, Err(Some(terminate_at.min(request.kill_at)))),
        Stage::Terminated => (stage, Err(Some(request.kill_at))),
    }
}

/// Asks a job to stop; a later request can only make the kill come earlier.
pub(crate) fn request_stop(job: &watch::Sender<Option<StopRequest>>, request: StopRequest) {
    job.send_if_modified(|current| {
        let merged = current.map_or(request, |c| c.merge(request));
        current.replace(merged) != Some(merged)
    });
}

/// All stop requests to one job: its own, those to every job of the lease, and its timeout.
#[derive(Debug)]
pub(crate) struct Stops {
    own: watch::Receiver<Option<StopRequest>>,
    lease: watch::Receiver<Option<StopRequest>>,
    granted: watch::Receiver<Option<StopRequest>>,
    timeout: Option<Duration>,
    timeout_at: Option<Instant>,
    grace: Duration,
    in_force: Option<StopRequest>,
    stage: Stage,
}

impl Stops {
    pub(crate) fn new(own: watch::Receiver<Option<StopRequest>>, lease: LeaseStops, grace: Duration) -> Stops {
        let LeaseStops { ours: lease, granted } = lease;
        Stops { own, lease, granted, timeout: None, timeout_at: None, grace, in_force: None, stage: Stage::Running }
    }

    /// The job ends with the lease that the database has granted, also while the database is away for everybody.
    pub(crate) fn stop_with_the_lease(&mut self) {
        self.lease = self.granted.clone();
    }

    /// The timeout runs from now on.
    pub(crate) fn start_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
        self.timeout_at = timeout.and_then(|t| Instant::now().checked_add(t));
    }

    /// The timeout that runs, for the text of a failure.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// When the timeout is over.
    pub(crate) fn timeout_at(&self) -> Option<Instant> {
        self.timeout_at
    }

    /// Why the job has to stop, if it has to.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.in_force.map(|request| request.reason)
    }

    /// Whether it is time for a signal, or was.
    pub(crate) fn signalled(&self) -> bool {
        matches!(self.stage, Stage::Terminated | Stage::Killed)
    }

    /// Waits for what is to be done next; may be dropped and called again. `notify`: the job can be told first.
    pub(crate) async fn step(&mut self, notify: bool) -> Step {
        loop {
            let now = Instant::now();
            self.poll(now);
            let until = match self.in_force {
                None => self.timeout_at,
                Some(request) => {
                    let (stage, what) = next(self.stage, request, notify, now);
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

    fn poll(&mut self, now: Instant) {
        let timeout = self
            .timeout_at
            .filter(|at| now >= *at)
            .map(|at| StopRequest { reason: StopReason::Timeout, kill_at: at + self.grace });
        let requests = [*self.lease.borrow_and_update(), *self.own.borrow_and_update(), timeout];
        for request in requests.into_iter().flatten() {
            self.in_force = Some(self.in_force.map_or(request, |r| r.merge(request)));
        }
    }
}

/// How long before the deadline jobs are asked to stop, and how long before it they are killed. The guardian
/// kills at the deadline itself.
fn margins(lease: Duration) -> (Duration, Duration) {
    let ask = (lease / 6).clamp(Duration::from_millis(30), Duration::from_secs(5));
    (ask, ask / 5)
}

/// The stop requests of a lease, to all jobs.
#[derive(Debug, Clone)]
pub(crate) struct LeaseStops {
    /// When another worker may begin them.
    pub ours: watch::Receiver<Option<StopRequest>>,
    /// When the deadline comes that the database has granted, whether it is there or not.
    pub granted: watch::Receiver<Option<StopRequest>>,
}

impl LeaseStops {
    pub(crate) fn of(beats: &watch::Receiver<Beat>, lease: Duration) -> LeaseStops {
        LeaseStops {
            ours: guard(beats.clone(), lease, |beat| beat.deadline, true),
            granted: guard(beats.clone(), lease, |beat| beat.granted, false),
        }
    }
}

/// Asks all jobs to stop when the lease can no longer be proven. It waits for nothing but the clock and the
/// heartbeat, so that a hanging query of the engine's cannot keep jobs alive.
fn guard(
    mut beats: watch::Receiver<Beat>,
    lease: Duration,
    end: impl Fn(&Beat) -> Instant + Send + 'static,
    for_all: bool,
) -> watch::Receiver<Option<StopRequest>> {
    let (requests, heard) = watch::channel(None);
    tokio::spawn(async move {
        let (ask, kill) = margins(lease);
        let lease_lost = |kill_at| Some(StopRequest { reason: StopReason::LeaseLost, kill_at });
        loop {
            let (deadline, lost) = {
                let beat = beats.borrow_and_update();
                (end(&beat), beat.lost)
            };
            if lost {
                requests.send_replace(lease_lost(Instant::now()));
                return;
            }
            // The lease was extended again: withdraw the request. Jobs that have heard it stop all the same.
            requests.send_if_modified(|request| request.take().is_some());
            tokio::select! {
                beat = beats.changed() => match beat {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until((deadline - ask).into()) => {}
            }
            if for_all {
                tracing::warn!("the lease could not be extended in time: its jobs are stopped");
            }
            requests.send_replace(lease_lost(deadline - kill));
            if beats.changed().await.is_err() {
                return;
            }
        }
    });
    heard
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_reason_stays_and_the_earlier_kill_wins() {
        let now = Instant::now();
        let cancel = StopRequest { reason: StopReason::Cancelled, kill_at: now + 9 * SECOND };
        let lease = StopRequest { reason: StopReason::LeaseLost, kill_at: now + SECOND };
        assert_eq!(cancel.merge(lease), StopRequest { reason: StopReason::Cancelled, kill_at: now + SECOND });
        assert_eq!(lease.merge(cancel), lease);
    }

    #[test]
    fn a_process_is_asked_at_once_and_killed_at_the_time_of_the_request() {
        let now = Instant::now();
        let request = StopRequest { reason: StopReason::Timeout, kill_at: now + 4 * SECOND };
        assert_eq!(next(Stage::Running, request, false, now), (Stage::Terminated, Ok(Step::Terminate)));
        assert_eq!(
            next(Stage::Terminated, request, false, now + SECOND),
            (Stage::Terminated, Err(Some(request.kill_at)))
        );
        assert_eq!(next(Stage::Terminated, request, false, request.kill_at), (Stage::Killed, Ok(Step::Kill)));
        assert_eq!(next(Stage::Killed, request, false, request.kill_at + SECOND).1, Err(None));
    }

    #[test]
    fn a_handler_is_notified_first_and_asked_at_half_time() {
        let now = Instant::now();
        let request = StopRequest { reason: StopReason::Cancelled, kill_at: now + 4 * SECOND };
        let notified = Stage::Notified { terminate_at: now + 2 * SECOND };
        assert_eq!(next(Stage::Running, request, true, now), (notified, Ok(Step::Notify)));
        assert_eq!(next(notified, request, true, now + SECOND), (notified, Err(Some(now + 2 * SECOND))));
        assert_eq!(next(notified, request, true, now + 2 * SECOND), (Stage::Terminated, Ok(Step::Terminate)));
    }

    #[test]
    fn a_request_whose_time_is_over_kills_at_once() {
        let now = Instant::now();
        let request = StopRequest { reason: StopReason::LeaseLost, kill_at: now };
        assert_eq!(next(Stage::Running, request, true, now), (Stage::Killed, Ok(Step::Kill)));
    }

    #[tokio::test]
    async fn a_request_reaches_a_job_that_is_ending_already_and_hurries_it() {
        let (own, own_rx) = watch::channel(None);
        let (lease, lease_rx) = watch::channel(None);
        let lease_rx = LeaseStops { granted: lease_rx.clone(), ours: lease_rx };
        let mut stops = Stops::new(own_rx, lease_rx, 60 * SECOND);
        own.send_replace(Some(StopRequest { reason: StopReason::Cancelled, kill_at: Instant::now() + 3600 * SECOND }));
        assert_eq!(stops.step(false).await, Step::Terminate);
        lease.send_replace(Some(StopRequest { reason: StopReason::LeaseLost, kill_at: Instant::now() }));
        assert_eq!(stops.step(false).await, Step::Kill);
        assert_eq!(stops.reason(), Some(StopReason::Cancelled));
    }

    fn beat(deadline: Instant) -> Beat {
        Beat::until(deadline)
    }

    #[test]
    fn jobs_are_asked_before_they_are_killed_and_killed_before_the_deadline() {
        for lease in [100, 3_000, 30_000, 86_400_000].map(Duration::from_millis) {
            let (ask, kill) = margins(lease);
            assert!(lease / 2 > ask && ask > kill && !kill.is_zero(), "{lease:?}: {ask:?}, {kill:?}");
        }
    }

    #[tokio::test]
    async fn without_a_beat_a_request_comes_before_the_deadline_and_ends_with_the_next_beat() {
        let lease = Duration::from_millis(300);
        let start = Instant::now();
        let (beats, heard) = watch::channel(beat(start + lease));
        let mut requests = LeaseStops::of(&heard, lease).ours;
        let request = requests.wait_for(Option::is_some).await.unwrap().unwrap();
        assert_eq!(request.reason, StopReason::LeaseLost);
        assert!(request.kill_at < start + lease && request.kill_at > start + lease / 2);
        beats.send_replace(beat(Instant::now() + Duration::from_secs(60)));
        requests.wait_for(Option::is_none).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_lease_kills_at_once() {
        let (beats, heard) = watch::channel(beat(Instant::now() + Duration::from_secs(60)));
        let mut requests = LeaseStops::of(&heard, Duration::from_secs(60)).ours;
        beats.send_modify(|b| b.lost = true);
        requests.wait_for(Option::is_some).await.unwrap();
        assert!(requests.borrow().unwrap().kill_at <= Instant::now());
    }
}
