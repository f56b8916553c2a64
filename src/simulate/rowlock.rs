//! The controller's `decide` as a scaler of the simulation, and a fixed number of replicas beside it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    observation::Observation,
    options::Options,
    scaler::{Habits, Scaler},
};
use crate::controller::{History, Limits, Rule, decide};

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
    fn habits(&self) -> Habits {
        Habits::NOTIFIED
    }

    fn decide(&mut self, seen: &Observation, now: f64, _: bool) -> u32 {
        let decision = decide(Some(&seen.demand), &self.limits, &seen.current, &self.history, time(now));
        let keep =
            TimeDelta::from_std(self.limits.scale_down_delay).unwrap_or(TimeDelta::MAX).max(TimeDelta::seconds(60));
        self.history.remember(&decision, keep);
        decision.wanted
    }
}

/// A fixed number of replicas.
pub(super) struct Fixed(pub u32);

impl Scaler for Fixed {
    fn habits(&self) -> Habits {
        Habits::POLLS
    }

    fn decide(&mut self, _: &Observation, _: f64, _: bool) -> u32 {
        self.0
    }
}
