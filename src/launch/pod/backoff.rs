//! The types whose Pods cannot run now: their jobs go back at once, so that the places are there for the others; pure.
//!
//! Nothing is known of a type until one of its Pods is refused, or waits for too long. Then the type backs off: its
//! jobs go back until a pause is over, and after the pause one Pod tries. The first Pod that starts ends this. A Pod
//! that waits is needed, because a cluster that grows looks at what waits. So some may wait: half of the places.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::status::Wait;
use crate::Reason;

/// A Pod that waits for a node, an image or a Secret does not run soon if it has waited this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The types of one worker that cannot run now.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    types: HashMap<String, Type>,
    /// The jobs whose Pods wait for longer than they should, with their types.
    waiting: HashMap<Uuid, String>,
}

#[derive(Debug)]
struct Type {
    /// The type as it was then: once it is changed, nothing of this holds.
    spec: String,
    refusals: u32,
    until: Instant,
    why: (Reason, String),
    /// The jobs that have a Pod which has not started yet.
    trying: HashSet<Uuid>,
}

/// The answer to a job whose type backs off: when to come again, and why.
#[derive(Debug, PartialEq)]
pub(super) struct NotNow {
    pub after: Duration,
    pub reason: Reason,
    pub text: String,
}

impl Backoff {
    /// Whether a Pod of this type may be made now. If so, the job counts as trying until [`Backoff::left`].
    pub(super) fn enter(&mut self, name: &str, spec: &str, job: Uuid, now: Instant) -> Result<(), NotNow> {
        if self.types.get(name).is_some_and(|of| of.spec != spec) {
            self.types.remove(name);
        }
        let Some(of) = self.types.get_mut(name) else { return Ok(()) };
        let left = of.until.saturating_duration_since(now);
        let tries = !of.trying.is_empty() || self.waiting.values().any(|waits| waits == name);
        if left.is_zero() && !tries {
            of.trying.insert(job);
            return Ok(());
        }
        let pause = if left.is_zero() { pause(of.why.0, 1) } else { left };
        Err(NotNow { after: spread(pause, job), reason: of.why.0, text: of.why.1.clone() })
    }

    /// A Pod of the type was refused, or has waited in vain. Answers the pause until another may be made.
    pub(super) fn refused(&mut self, name: &str, spec: &str, job: Uuid, why: (Reason, &str), now: Instant) -> Duration {
        let of = self.types.entry(name.to_owned()).or_insert_with(|| Type {
            spec: spec.to_owned(),
            refusals: 0,
            until: now,
            why: (why.0, String::new()),
            trying: HashSet::new(),
        });
        of.trying.remove(&job);
        // The jobs of one batch meet the same refusal.
        if of.until <= now {
            of.refusals += 1;
            of.until = now + pause(why.0, of.refusals);
        }
        of.why = (why.0, why.1.to_owned());
        spread(of.until - now, job)
    }

    /// A Pod of the type has started: all may.
    pub(super) fn started(&mut self, name: &str) {
        self.types.remove(name);
    }

    /// Whether a Pod that has waited for [`PATIENCE`] may wait on, of so many places.
    pub(super) fn may_wait(&mut self, name: &str, job: Uuid, places: usize) -> bool {
        if self.waiting.len() < (places / 2).max(1) {
            self.waiting.insert(job, name.to_owned());
        }
        self.waiting.contains_key(&job)
    }

    /// The job's Pod waits no more: it has started or has ended, or the worker has let go of it.
    pub(super) fn left(&mut self, name: &str, job: Uuid) {
        self.waiting.remove(&job);
        if let Some(of) = self.types.get_mut(name) {
            of.trying.remove(&job);
        }
    }
}

/// Whether a Pod that waits so cannot run, and is not merely about to.
pub(super) fn is_stuck(wait: Wait, waited: Duration) -> bool {
    !matches!(wait, Wait::Start) && waited >= PATIENCE
}

/// Whether others of the type would wait in vain, too.
pub(super) fn is_of_type(reason: Reason) -> bool {
    matches!(reason, Reason::Unschedulable | Reason::NotStarted | Reason::ImagePull | Reason::ContainerConfig)
}

/// The pause after so many refusals in a row: a refusal costs one call, a Pod that waits in vain costs a place.
fn pause(reason: Reason, refusals: u32) -> Duration {
    let (first, most) = match reason {
        Reason::QuotaExceeded => (5, 60),
        Reason::AdmissionRefused | Reason::LimitRange | Reason::PodRefused => (5, 120),
        _ => (15, 300),
    };
    Duration::from_secs((first << refusals.saturating_sub(1).min(10)).min(most))
}

/// Not all at the same moment: up to a quarter later, by the job.
fn spread(pause: Duration, job: Uuid) -> Duration {
    pause + pause.mul_f64(f64::from(job.as_bytes()[15]) / 1024.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn job(n: u128) -> Uuid {
        // The last byte spreads.
        Uuid::from_u128(n << 8)
    }

    #[test]
    fn a_type_that_was_refused_backs_off_and_others_do_not() {
        let (mut all, now) = (Backoff::default(), Instant::now());
        assert!(all.enter("huge", "a", job(1), now).is_ok() && all.enter("huge", "a", job(2), now).is_ok());
        let first = all.refused("huge", "a", job(1), (Reason::Unschedulable, "0/1 nodes"), now);
        assert_eq!(first, 15 * SECOND);
        let again = all.refused("huge", "a", job(2), (Reason::Unschedulable, "0/1 nodes"), now + SECOND);
        assert_eq!(again, 14 * SECOND, "a batch is one refusal");
        let not_now = all.enter("huge", "a", job(3), now + 5 * SECOND).unwrap_err();
        assert_eq!((not_now.after, not_now.reason), (10 * SECOND, Reason::Unschedulable));
        assert_eq!(not_now.text, "0/1 nodes");
        assert!(all.enter("small", "b", job(4), now).is_ok());
        assert!(all.enter("huge", "changed", job(3), now).is_ok(), "a type that was changed begins anew");
    }

    #[test]
    fn after_the_pause_one_tries_and_what_starts_lets_all_in() {
        let (mut all, now) = (Backoff::default(), Instant::now());
        all.refused("a", "s", job(1), (Reason::ImagePull, "no such image"), now);
        let later = now + 16 * SECOND;
        assert!(all.enter("a", "s", job(2), later).is_ok());
        assert!(all.enter("a", "s", job(3), later).is_err(), "one tries, not all");
        assert_eq!(all.refused("a", "s", job(2), (Reason::ImagePull, "no"), later), 30 * SECOND, "it grows");
        let later = later + 31 * SECOND;
        assert!(all.enter("a", "s", job(2), later).is_ok());
        all.left("a", job(2));
        assert!(all.enter("a", "s", job(3), later).is_ok(), "the place of one that was let go is free");
        all.started("a");
        assert!(all.enter("a", "s", job(4), later).is_ok() && all.enter("a", "s", job(5), later).is_ok());
    }

    #[test]
    fn what_waits_takes_half_of_the_places_at_most() {
        let mut all = Backoff::default();
        let may = |all: &mut Backoff, places| (1..=6).filter(|n| all.may_wait("a", job(*n), places)).count();
        assert_eq!(may(&mut all, 6), 3);
        assert!(all.may_wait("a", job(1), 6), "it was told so before");
        all.left("a", job(1));
        assert!(all.may_wait("b", job(6), 6) && !all.may_wait("a", job(5), 6));
        let now = Instant::now();
        all.refused("a", "s", job(5), (Reason::Unschedulable, "no node"), now);
        assert!(all.enter("a", "s", job(7), now + 60 * SECOND).is_err(), "those that wait try for the others");
        assert_eq!(may(&mut Backoff::default(), 1), 1);
        assert!(is_stuck(Wait::Node, PATIENCE) && !is_stuck(Wait::Start, 100 * PATIENCE), "a large image comes slowly");
    }

    #[test]
    fn a_pause_grows_to_its_bound_and_jobs_come_back_one_after_the_other() {
        assert_eq!([1, 2, 5, 99].map(|n| pause(Reason::QuotaExceeded, n).as_secs()), [5, 10, 60, 60]);
        assert_eq!([1, 2, 5, 99].map(|n| pause(Reason::Unschedulable, n).as_secs()), [15, 30, 240, 300]);
        assert!(spread(4 * SECOND, Uuid::from_u128(255)) > 4 * SECOND);
        assert!(spread(4 * SECOND, Uuid::from_u128(255)) < 5 * SECOND);
    }
}
