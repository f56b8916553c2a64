//! What scales in the simulation, and this crate's `decide` as one of it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{run::Options, seen::Seen};
use crate::controller::{History, Limits, Rule, decide};

pub(super) trait Scaler {
    /// Whether a job that finds no free slot makes it look before its time.
    fn wakes(&self, _: &Seen) -> bool {
        false
    }
    /// Seconds from being woken to a decision.
    fn debounce(&self) -> f64 {
        0.0
    }
    /// Whether replicas stop claiming first and go when they are idle. If not, those told to stop may be busy.
    fn drains(&self) -> bool {
        false
    }
    /// A look, at every tick of a second and when woken: how many replicas there should be.
    fn look(&mut self, seen: &Seen, now: f64, woken: bool) -> u32;
}

/// `decide`, as the controller calls it.
pub(super) struct Rowlock {
    limits: Limits,
    history: History,
}

impl Rowlock {
    pub(super) fn new(options: &Options, scale_down_delay: Duration) -> Rowlock {
        let limits = Limits {
            max_replicas: options.max_replicas,
            slots: Some(options.slots),
            rule: Rule::TargetWait(options.target_wait),
            scale_down_delay,
            ..Limits::new(vec!["default".into()])
        };
        Rowlock { limits, history: History::default() }
    }
}

fn time(seconds: f64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::from_std(Duration::from_secs_f64(seconds)).unwrap_or_default()
}

impl Scaler for Rowlock {
    fn wakes(&self, _: &Seen) -> bool {
        true
    }

    fn debounce(&self) -> f64 {
        0.1
    }

    fn drains(&self) -> bool {
        true
    }

    fn look(&mut self, seen: &Seen, now: f64, _: bool) -> u32 {
        let decision = decide(Some(&seen.demand), &self.limits, &seen.current, &self.history, time(now));
        let keep =
            TimeDelta::from_std(self.limits.scale_down_delay).unwrap_or(TimeDelta::MAX).max(TimeDelta::seconds(60));
        self.history.remember(&decision, keep);
        decision.wanted
    }
}

/// Always so many.
pub(super) struct Fixed(pub u32);

impl Scaler for Fixed {
    fn look(&mut self, _: &Seen, _: f64, _: bool) -> u32 {
        self.0
    }
}
