//! Knative's Pod Autoscaler, from its documentation: <https://knative.dev/docs/serving/autoscaling/kpa-specific/>
//! and <https://github.com/knative/serving/blob/main/docs/scaling/SYSTEM.md>. A job that waits counts as a
//! request that the activator buffers.

use std::collections::VecDeque;

use super::{
    observation::Observation,
    scaler::{Habits, Scaler, Wakes},
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// A replica should have so many requests at once: its slots times the target utilization.
    pub target: f64,
    pub stable_window: f64,
    pub panic_window: f64,
    /// The autoscaler panics at so many times the capacity of the replicas.
    pub panic_threshold: f64,
    pub max_scale_up_rate: f64,
    pub max_scale_down_rate: f64,
}

impl Settings {
    /// The documented defaults, for replicas of so many slots: 70 % of them, windows of 60 s and 6 s, panic at
    /// 200 %, rates 1000 and 2.
    pub(super) fn documented(slots: u32) -> Settings {
        Settings {
            target: f64::from(slots) * 0.7,
            stable_window: 60.0,
            panic_window: 6.0,
            panic_threshold: 2.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
        }
    }
}

pub(super) struct Kpa {
    settings: Settings,
    /// A time, and the number of requests at that time.
    samples: VecDeque<(f64, f64)>,
    panicked: Option<f64>,
    most_in_panic: u32,
}

impl Kpa {
    pub(super) fn new(settings: Settings) -> Kpa {
        Kpa { settings, samples: VecDeque::new(), panicked: None, most_in_panic: 0 }
    }

    /// Records one sample. Averages are over the samples within the window.
    pub(super) fn record(&mut self, now: f64, requests: f64) {
        self.samples.push_back((now, requests));
        while self.samples.front().is_some_and(|s| s.0 <= now - self.settings.stable_window) {
            self.samples.pop_front();
        }
    }

    fn average(&self, now: f64, window: f64) -> f64 {
        let within = self.samples.iter().rev().take_while(|s| s.0 > now - window);
        let (n, sum) = within.fold((0, 0.0), |(n, sum), s| (n + 1, sum + s.1));
        if n == 0 { 0.0 } else { sum / f64::from(n) }
    }

    /// Evaluates once, as the autoscaler does every two seconds.
    pub(super) fn evaluate(&mut self, ready: u32, now: f64) -> u32 {
        let s = self.settings;
        let ready = f64::from(ready.max(1));
        let highest = (s.max_scale_up_rate * ready).ceil();
        let lowest = (ready / s.max_scale_down_rate).floor();
        let stable = (self.average(now, s.stable_window) / s.target).ceil();
        let panic = (self.average(now, s.panic_window) / s.target).ceil();
        let over = panic / ready >= s.panic_threshold;
        let within = |wanted: f64| wanted.max(lowest).min(highest) as u32;
        if over {
            self.panicked = Some(now);
        } else if self.panicked.is_some_and(|since| since + s.stable_window < now) {
            self.panicked = None;
            self.most_in_panic = 0;
        }
        if self.panicked.is_none() {
            return within(stable);
        }
        self.most_in_panic = self.most_in_panic.max(within(stable)).max(within(panic));
        self.most_in_panic
    }
}

/// The autoscaler with its activator: it evaluates every two seconds, and at once from zero.
pub(super) struct Knative {
    kpa: Kpa,
    next: f64,
    max: u32,
    wanted: u32,
}

impl Knative {
    pub(super) fn new(settings: Settings, max: u32) -> Knative {
        Knative { kpa: Kpa::new(settings), next: 0.0, max, wanted: 0 }
    }
}

impl Scaler for Knative {
    /// From zero, the activator pokes the autoscaler.
    fn habits(&self) -> Habits {
        Habits { wakes: Wakes::FromZero, ..Habits::POLLS }
    }

    fn decide(&mut self, seen: &Observation, now: f64, woken: bool) -> u32 {
        let requests = (seen.demand.pending() + seen.demand.running()) as f64;
        // At zero replicas nothing is scraped until the activator sees a request.
        if self.wanted > 0 || requests > 0.0 {
            self.kpa.record(now, requests);
        }
        if woken || now >= self.next {
            self.next = now + 2.0;
            self.wanted = self.kpa.evaluate(seen.current.ready, now).min(self.max);
        }
        self.wanted
    }
}

/// The worked examples of the documentation.
#[cfg(test)]
mod tests {
    use super::*;

    fn with(target: f64) -> Settings {
        Settings { target, ..Settings::documented(0) }
    }

    fn after(kpa: &mut Kpa, from: u32, seconds: u32, requests: f64, ready: u32) -> u32 {
        (from..from + seconds).for_each(|t| kpa.record(f64::from(t), requests));
        kpa.evaluate(ready, f64::from(from + seconds - 1))
    }

    /// <https://knative.dev/docs/serving/autoscaling/autoscale-go/>: "50 concurrent requests / target of 10 = 5
    /// pods".
    #[test]
    fn the_average_by_the_target_gives_the_pods() {
        assert_eq!(after(&mut Kpa::new(with(10.0)), 0, 60, 50.0, 5), 5);
    }

    /// <https://knative.dev/docs/serving/autoscaling/concurrency/#target-utilization>: with 10 at once and 70 %,
    /// a replica is added when the average reaches 7. And, in
    /// <https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/user-guide/enable-automatic-scaling-for-pods-based-on-the-number-of-requests/>
    /// <https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/user-guide/enable-automatic-scaling-for-pods-based-on-the-number-of-requests/>:
    /// 100 / (10 × 0.7) are 15 Pods.
    #[test]
    fn the_target_is_seven_tenths_of_the_slots() {
        assert_eq!(after(&mut Kpa::new(Settings::documented(10)), 0, 60, 100.0, 15), 15);
        assert_eq!(after(&mut Kpa::new(Settings::documented(10)), 0, 60, 7.0, 1), 1);
        assert_eq!(after(&mut Kpa::new(Settings::documented(10)), 0, 60, 7.1, 2), 2);
    }

    /// autoscale-go, "Panic": twice the target over 6 s brings panic, in which the shorter window counts; after
    /// 60 s without, the 60 s window counts again. While it lasts nothing is scaled down.
    #[test]
    fn twice_the_target_brings_panic_for_a_minute() {
        let mut kpa = Kpa::new(with(10.0));
        assert_eq!(after(&mut kpa, 0, 60, 10.0, 1), 1);
        assert_eq!(after(&mut kpa, 60, 6, 19.0, 1), 2); // rounded up it is twice
        let mut kpa = Kpa::new(with(10.0));
        after(&mut kpa, 0, 60, 10.0, 1);
        assert_eq!(after(&mut kpa, 60, 6, 50.0, 1), 5);
        assert_eq!(after(&mut kpa, 66, 60, 10.0, 5), 5);
        assert_eq!(after(&mut kpa, 126, 2, 10.0, 5), 2); // the rate of 2 stops it at half
        assert_eq!(after(&mut kpa, 128, 2, 10.0, 2), 1);
    }

    /// kpa-specific, "Scale rates": with 2.0 it goes only from N to 2 N, or to N/2, in one evaluation. In
    /// <https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler.go>: rate 1.1, 3 requests,
    /// 2 Pods, target 1 are 3 Pods, for one more is always allowed.
    #[test]
    fn rates_limit_one_evaluation() {
        let mut slow = Kpa::new(Settings { max_scale_up_rate: 2.0, ..with(10.0) });
        assert_eq!(after(&mut slow, 0, 60, 1000.0, 3), 6);
        let mut slow = Kpa::new(Settings { max_scale_up_rate: 1.1, ..with(1.0) });
        assert_eq!(after(&mut slow, 0, 60, 3.0, 2), 3);
        assert_eq!(after(&mut Kpa::new(with(10.0)), 0, 60, 1.0, 8), 4);
    }

    /// kpa-specific, "Stable window": the last replica goes after the whole window without traffic.
    #[test]
    fn the_last_goes_after_a_window_without_traffic() {
        let mut kpa = Kpa::new(with(10.0));
        assert_eq!(after(&mut kpa, 0, 1, 1.0, 1), 1);
        assert_eq!(after(&mut kpa, 1, 58, 0.0, 1), 1);
        assert_eq!(after(&mut kpa, 59, 2, 0.0, 1), 0);
    }
}
