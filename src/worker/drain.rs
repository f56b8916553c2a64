//! How a worker spends its grace; pure.

use std::time::{Duration, Instant};

use super::stop::{StopReason, StopRequest};

/// After a second signal, running jobs get this long before they are killed.
const HURRY: Duration = Duration::from_secs(1);

/// A worker that is marked as draining and then not told to end was forgotten: it ends by itself, and begins anew where
/// its container does. In a Pod it must not do so sooner: the next one would claim jobs while the Pod is taken away.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Whether a worker without a job ends: it was told to, or it was marked as draining and nobody came.
pub(super) fn should_exit(told: Option<Instant>, marked: Option<Instant>, now: Instant) -> bool {
    told.is_some() || marked.is_some_and(|since| now.saturating_duration_since(since) >= FORGOTTEN)
}

/// The stop request that is due to the jobs that still run, or how long to wait before there is one.
pub(super) fn stop_request(
    since: Instant,
    grace: Duration,
    hurried: bool,
    now: Instant,
) -> Result<StopRequest, Duration> {
    let (stop_at, kill_at) = last_calls(since, grace);
    let request = |kill_at| StopRequest { reason: StopReason::Draining, kill_at };
    if hurried {
        Ok(request(kill_at.min(now + HURRY)))
    } else if now >= stop_at {
        Ok(request(kill_at))
    } else {
        Err(stop_at - now)
    }
}

/// How long the launcher may take to close: half of the grace that is left, because the worker has to end as well.
/// Before the grace runs there is no bound.
pub(super) fn close_timeout(since: Option<Instant>, grace: Duration, now: Instant) -> Duration {
    since.map_or(Duration::MAX, |since| (since + grace).saturating_duration_since(now) / 2)
}

/// When jobs that still run are asked to end, and when they are killed, so that the rest of the grace is
/// enough to hand them back.
fn last_calls(since: Instant, grace: Duration) -> (Instant, Instant) {
    let reserve = (grace / 5).min(Duration::from_secs(2));
    let kill_at = since + (grace - reserve);
    (kill_at - (grace / 5).min(Duration::from_secs(5)), kill_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_worker_waits_to_be_told_but_not_for_ever() {
        let now = Instant::now();
        assert!(should_exit(Some(now), None, now));
        assert!(!should_exit(None, Some(now), now + FORGOTTEN / 2));
        assert!(should_exit(None, Some(now), now + FORGOTTEN));
    }

    #[test]
    fn within_the_grace_jobs_may_end_then_are_asked_then_killed_then_handed_back() {
        let since = Instant::now();
        let (stop_at, kill_at) = last_calls(since, Duration::from_secs(30));
        assert_eq!((stop_at - since, kill_at - since), (Duration::from_secs(23), Duration::from_secs(28)));
        for grace in [0, 1, 300, 86_400_000].map(Duration::from_millis) {
            let (stop_at, kill_at) = last_calls(since, grace);
            assert!(since <= stop_at && stop_at <= kill_at && kill_at <= since + grace);
        }
    }

    #[test]
    fn handlers_without_a_job_do_not_outlast_the_grace() {
        let (since, grace) = (Instant::now(), Duration::from_secs(2));
        assert_eq!(close_timeout(Some(since), grace, since + Duration::from_millis(1800)), Duration::from_millis(100));
        assert_eq!(close_timeout(Some(since), grace, since + Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn a_second_signal_hurries_but_never_beyond_the_grace() {
        let (since, grace) = (Instant::now(), Duration::from_secs(30));
        assert_eq!(stop_request(since, grace, false, since), Err(Duration::from_secs(23)));
        assert_eq!(stop_request(since, grace, true, since).map(|r| r.kill_at), Ok(since + HURRY));
        let late = since + Duration::from_secs(29);
        assert_eq!(stop_request(since, grace, true, late).map(|r| r.kill_at), Ok(since + Duration::from_secs(28)));
    }
}
