//! KEDA's PostgreSQL scaler: it alone goes from zero to one and back, the HPA it makes does the rest.
//! <https://keda.sh/docs/latest/concepts/scaling-deployments/>, <https://keda.sh/docs/latest/scalers/postgresql/>.

use super::{
    hpa::{Behavior, Hpa, Policy, by_average},
    observation::Observation,
    random::Random,
    scaler::{Habits, Scaler},
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Jobs queued and running that a replica should have: `targetQueryValue`.
    pub target: f64,
    /// `pollingInterval`.
    pub polling: f64,
    /// `cooldownPeriod`.
    pub cooldown: f64,
    /// The period of Kubernetes' HPA controller.
    pub sync: f64,
    /// `stabilizationWindowSeconds` of scale-down.
    pub down_window: f64,
    /// Growth without a limit, instead of 4 or a doubling every 15 s.
    pub fast_up: bool,
}

impl Settings {
    /// The documented defaults.
    pub(super) fn documented(slots: u32) -> Settings {
        Settings {
            target: f64::from(slots),
            polling: 30.0,
            cooldown: 300.0,
            sync: 15.0,
            down_window: 300.0,
            fast_up: false,
        }
    }
}

pub(super) struct Keda {
    settings: Settings,
    max: u32,
    hpa: Hpa,
    next_poll: f64,
    next_sync: f64,
    last_active: f64,
    wanted: u32,
}

/// The activation phase: one replica if the value is above the threshold, none if it is not.
fn active(value: f64, activation: f64) -> bool {
    value > activation
}

impl Keda {
    pub(super) fn new(settings: Settings, max: u32, seed: u64) -> Keda {
        // Neither loop knows of the jobs: they begin anywhere in their periods.
        let mut random = Random::new(seed ^ 0x6b65_6461);
        let Hpa { mut up, mut down, .. } = Hpa::documented();
        down.stabilization = settings.down_window;
        if settings.fast_up {
            up = Behavior { stabilization: 0.0, policies: vec![Policy::Percent(100_000, 15.0)] };
        }
        let hpa = Hpa::new(up, down);
        let (next_poll, next_sync) = (random.between(0.0, settings.polling), random.between(0.0, settings.sync));
        Keda { settings, max, hpa, next_poll, next_sync, last_active: f64::NEG_INFINITY, wanted: 0 }
    }
}

impl Scaler for Keda {
    fn habits(&self) -> Habits {
        Habits::POLLS
    }

    fn decide(&mut self, seen: &Observation, now: f64, _: bool) -> u32 {
        let value = (seen.demand.pending() + seen.demand.running()) as f64;
        if now >= self.next_poll {
            self.next_poll += self.settings.polling;
            if active(value, 0.0) {
                self.last_active = now;
                self.wanted = self.wanted.max(1);
            } else if now - self.last_active >= self.settings.cooldown {
                self.wanted = 0;
            }
        }
        // An HPA does nothing while the target is at zero.
        if now >= self.next_sync {
            self.next_sync += self.settings.sync;
            if self.wanted > 0 {
                let desired = by_average(self.wanted, value, self.settings.target);
                self.wanted = self.hpa.set(self.wanted, desired, (1, self.max), now);
            }
        }
        self.wanted
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::controller::{Current, Demand, TypeDemand};

    fn seen(pending: u64) -> Observation {
        let demand = Demand { types: vec![TypeDemand { pending, ..Default::default() }], ..Default::default() };
        Observation { demand, current: Current::default() }
    }

    /// <https://keda.sh/docs/2.15/concepts/scaling-deployments/#activating-and-scaling-thresholds>: above zero
    /// is active from 1 on; with a threshold of 10 and an activation of 50, 40 messages are not active although
    /// the HPA would have 4.
    #[test]
    fn activation_is_strict_and_outranks_the_target() {
        assert!(!active(0.0, 0.0) && active(1.0, 0.0));
        assert!(!active(40.0, 50.0));
        assert_eq!(by_average(1, 40.0, 10.0), 4);
    }

    /// <https://keda.sh/docs/2.15/reference/scaledobject-spec/#fallback>: a metric of target × 6 gives 6 replicas.
    #[test]
    fn an_average_value_divides_the_whole() {
        assert_eq!(by_average(2, 10.0 * 6.0, 10.0), 6);
    }

    /// The same page, "cooldownPeriod": back to zero five minutes after the last poll that found anything.
    #[test]
    fn zero_comes_a_cooldown_after_the_last_active_poll() {
        let mut keda = Keda::new(Settings::documented(10), 50, 1);
        for second in 0..=60 {
            keda.decide(&seen(5), f64::from(second), false);
        }
        let mut zero = (61..600).filter(|t| keda.decide(&seen(0), f64::from(*t), false) == 0);
        let first = zero.next().unwrap();
        assert!((330..=390).contains(&first), "at {first} s");
    }

    /// The same page, "pollingInterval": nothing happens from zero before the next poll.
    #[test]
    fn from_zero_it_waits_for_the_poll() {
        let mut keda = Keda::new(Settings::documented(10), 50, 1);
        let first = (0..60).find(|t| keda.decide(&seen(100), f64::from(*t), false) > 0).unwrap();
        assert!(first > 0 && first <= 30, "at {first} s");
    }
}
