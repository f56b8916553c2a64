//! The last of a worker: how its grace is spent.

use std::time::{Duration, Instant};

use super::launch::orders::{Order, Why};

/// What a job has to end in when a second signal came.
const HURRY: Duration = Duration::from_secs(1);

/// A worker that is marked and then not told to end was forgotten: it ends by itself, and begins anew where its
/// container does. In a Pod it must not do so sooner: the next one would claim jobs while the Pod is taken away.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Whether a worker without a job ends: it was told to, or it was marked and nobody came.
pub(super) fn leaves(told: Option<Instant>, marked: Option<Instant>, now: Instant) -> bool {
    told.is_some() || marked.is_some_and(|since| now.saturating_duration_since(since) >= FORGOTTEN)
}

/// What is ordered to the jobs that still run, or how long to wait with it.
pub(super) fn order(since: Instant, grace: Duration, hurried: bool, now: Instant) -> Result<Order, Duration> {
    let (stop_at, kill_at) = last_calls(since, grace);
    if hurried {
        Ok(Order { why: Why::Draining, kill_at: kill_at.min(now + HURRY) })
    } else if now >= stop_at {
        Ok(Order { why: Why::Draining, kill_at })
    } else {
        Err(stop_at - now)
    }
}

/// What handlers without a job may take to end: half of what is left, the worker has to end as well. Without a
/// grace that runs, what they like.
pub(super) fn farewell(since: Option<Instant>, grace: Duration, now: Instant) -> Duration {
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
        assert!(leaves(Some(now), None, now));
        assert!(!leaves(None, Some(now), now + FORGOTTEN / 2));
        assert!(leaves(None, Some(now), now + FORGOTTEN));
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
        assert_eq!(farewell(Some(since), grace, since + Duration::from_millis(1800)), Duration::from_millis(100));
        assert_eq!(farewell(Some(since), grace, since + Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn a_second_signal_hurries_but_never_beyond_the_grace() {
        let (since, grace) = (Instant::now(), Duration::from_secs(30));
        assert_eq!(order(since, grace, false, since), Err(Duration::from_secs(23)));
        assert_eq!(order(since, grace, true, since).map(|o| o.kill_at), Ok(since + HURRY));
        let late = since + Duration::from_secs(29);
        assert_eq!(order(since, grace, true, late).map(|o| o.kill_at), Ok(since + Duration::from_secs(28)));
    }
}
