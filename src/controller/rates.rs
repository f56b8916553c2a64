//! From counters and samples to rates and times, by queue and type. Pure.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

/// The mean of fewer jobs is chance.
const MIN_SAMPLES: f64 = 5.0;
/// The mean is over so many jobs; older ones fade.
const SAMPLES_REMEMBERED: f64 = 1000.0;
/// A type that was not seen for this time is forgotten.
const FORGET_AFTER: TimeDelta = TimeDelta::hours(1);

/// The counts of all types so far.
#[derive(Debug, Default)]
pub(super) struct Rates {
    types: HashMap<(String, String), Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// A time, and the jobs that had become due and had ended until then.
    counts: VecDeque<(DateTime<Utc>, i64, i64)>,
    jobs: f64,
    mean: f64,
}

/// Jobs a second, and seconds a job.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    pub due_10s: f64,
    pub due_60s: f64,
    pub ended_10s: f64,
    pub service: Option<f64>,
}

impl Rates {
    /// Totals of jobs that ever became due and that ever ended.
    pub(super) fn count(&mut self, queue: &str, job_type: &str, now: DateTime<Utc>, due: i64, ended: i64) {
        let counts = &mut self.types.entry((queue.to_owned(), job_type.to_owned())).or_default().counts;
        counts.push_back((now, due, ended));
        // A count that is older than the window stays: it is the beginning of the window.
        while counts.get(1).is_some_and(|second| second.0 <= now - TimeDelta::seconds(60)) {
            counts.pop_front();
        }
    }

    /// Jobs that ended, and the seconds they took together.
    pub(super) fn ended(&mut self, queue: &str, job_type: &str, jobs: f64, seconds: f64) {
        let seen = self.types.entry((queue.to_owned(), job_type.to_owned())).or_default();
        seen.jobs = (seen.jobs + jobs).min(SAMPLES_REMEMBERED.max(jobs));
        if jobs > 0.0 && seconds >= 0.0 {
            seen.mean += (seconds / jobs - seen.mean) * jobs / seen.jobs;
        }
    }

    pub(super) fn of(&self, queue: &str, job_type: &str, now: DateTime<Utc>) -> Rate {
        let Some(seen) = self.types.get(&(queue.to_owned(), job_type.to_owned())) else { return Rate::default() };
        let (due_10s, ended_10s) = seen.rate(10, now);
        let (due_60s, _) = seen.rate(60, now);
        Rate { due_10s, due_60s, ended_10s, service: (seen.jobs >= MIN_SAMPLES).then_some(seen.mean) }
    }

    pub(super) fn forget(&mut self, now: DateTime<Utc>) {
        self.types.retain(|_, seen| seen.counts.back().is_some_and(|last| now - last.0 < FORGET_AFTER));
    }
}

impl Seen {
    /// The rate over the whole window, also if a part of it was not seen: unknown jobs do not count.
    fn rate(&self, seconds: i32, now: DateTime<Utc>) -> (f64, f64) {
        let since = now - TimeDelta::seconds(seconds.into());
        let after = self.counts.partition_point(|c| c.0 <= since);
        let (Some(first), Some(last)) = (self.counts.get(after.saturating_sub(1)), self.counts.back()) else {
            return (0.0, 0.0);
        };
        let per_second = |n: i64| n.max(0) as f64 / f64::from(seconds);
        (per_second(last.1 - first.1), per_second(last.2 - first.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
    }

    #[test]
    fn rates_are_those_of_the_last_ten_and_sixty_seconds() {
        let mut rates = Rates::default();
        for s in 0..=100 {
            // Ten a second, and from the 95th on a hundred.
            let due = s * 10 + (s - 95).max(0) * 90;
            rates.count("q", "t", at(s), due, s * 2);
        }
        let rate = rates.of("q", "t", at(100));
        assert_eq!((rate.due_10s, rate.due_60s, rate.ended_10s), (55.0, 17.5, 2.0));
        assert_eq!(rates.of("q", "other", at(100)), Rate::default());
    }

    #[test]
    fn what_was_before_the_first_look_is_not_an_arrival_and_a_counter_that_goes_back_is_none() {
        let mut rates = Rates::default();
        rates.count("q", "t", at(0), 1_000_000, 0);
        assert_eq!(rates.of("q", "t", at(0)).due_10s, 0.0);
        rates.count("q", "t", at(1), 1_000_020, 0);
        assert_eq!(rates.of("q", "t", at(1)).due_10s, 2.0);
        rates.count("q", "t", at(2), 10, 0);
        assert_eq!(rates.of("q", "t", at(2)).due_10s, 0.0);
    }

    #[test]
    fn a_time_is_known_after_five_jobs_and_follows_a_change() {
        let mut rates = Rates::default();
        rates.ended("q", "t", 4.0, 4.0);
        assert_eq!(rates.of("q", "t", at(0)).service, None);
        rates.ended("q", "t", 1.0, 1.0);
        assert_eq!(rates.of("q", "t", at(0)).service, Some(1.0));
        for _ in 0..20 {
            rates.ended("q", "t", 500.0, 1000.0);
        }
        assert!((rates.of("q", "t", at(0)).service.unwrap_or_default() - 2.0).abs() < 0.01);
    }
}
