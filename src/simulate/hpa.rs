//! Kubernetes' Horizontal Pod Autoscaler, from its documentation:
//! <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/>.

use std::collections::VecDeque;

#[derive(Debug, Clone, Copy)]
pub(super) enum Policy {
    /// A number of replicas may come or go in a number of seconds.
    Pods(u32, f64),
    /// A share of the replicas, in percent, may come or go in a number of seconds.
    Percent(u32, f64),
}

/// `behavior.scaleUp` or `behavior.scaleDown`, with `selectPolicy: Max`.
#[derive(Debug, Clone)]
pub(super) struct Behavior {
    pub stabilization: f64,
    pub policies: Vec<Policy>,
}

pub(super) struct Hpa {
    pub up: Behavior,
    pub down: Behavior,
    /// Times, and the recommended replicas.
    recommendations: VecDeque<(f64, u32)>,
    /// Times, and the number of replicas that came or went.
    changes: VecDeque<(f64, i64)>,
}

/// Within a tenth of the target the size stays.
pub(super) const TOLERANCE: f64 = 0.1;

/// `desiredReplicas = ceil(currentReplicas × currentMetricValue ÷ desiredMetricValue)`.
#[cfg(test)]
pub(super) fn by_value(replicas: u32, value: f64, target: f64) -> u32 {
    if (value / target - 1.0).abs() <= TOLERANCE {
        replicas
    } else {
        (f64::from(replicas) * value / target).ceil() as u32
    }
}

/// The same for an external metric with an `AverageValue` target: the whole is divided by the replicas first.
pub(super) fn by_average(replicas: u32, total: f64, target: f64) -> u32 {
    let ratio = total / (target * f64::from(replicas));
    if replicas > 0 && (ratio - 1.0).abs() <= TOLERANCE { replicas } else { (total / target).ceil() as u32 }
}

impl Hpa {
    pub(super) fn new(up: Behavior, down: Behavior) -> Hpa {
        Hpa { up, down, recommendations: VecDeque::new(), changes: VecDeque::new() }
    }

    /// The defaults of `behavior`.
    pub(super) fn documented() -> Hpa {
        Hpa::new(
            Behavior { stabilization: 0.0, policies: vec![Policy::Percent(100, 15.0), Policy::Pods(4, 15.0)] },
            Behavior { stabilization: 300.0, policies: vec![Policy::Percent(100, 15.0)] },
        )
    }

    /// Sets the size that the metric asks for: first it is stabilised, then the policies limit it.
    pub(super) fn set(&mut self, replicas: u32, desired: u32, bounds: (u32, u32), now: f64) -> u32 {
        self.recommendations.push_back((now, desired));
        let longest = self.up.stabilization.max(self.down.stabilization);
        while self.recommendations.front().is_some_and(|r| r.0 <= now - longest) && self.recommendations.len() > 1 {
            self.recommendations.pop_front();
        }
        let within =
            |window: f64| self.recommendations.iter().filter(move |r| r.0 > now - window).map(|r| r.1).chain([desired]);
        let least = within(self.up.stabilization).min().unwrap_or(desired);
        let most = within(self.down.stabilization).max().unwrap_or(desired);
        let stable = replicas.max(least).min(most).clamp(bounds.0, bounds.1);
        let set = self.limited(replicas, stable, now);
        if set != replicas {
            self.changes.push_back((now, i64::from(set) - i64::from(replicas)));
        }
        set
    }

    fn limited(&self, replicas: u32, desired: u32, now: f64) -> u32 {
        // The size at the beginning of the period of the policy: every change since then counts against it.
        let before = |period: f64| {
            let since: i64 = self.changes.iter().filter(|c| c.0 > now - period).map(|c| c.1).sum();
            (i64::from(replicas) - since) as f64
        };
        if desired > replicas {
            let most = self.up.policies.iter().map(|p| match *p {
                Policy::Pods(n, period) => before(period) + f64::from(n),
                Policy::Percent(n, period) => (before(period) * (1.0 + f64::from(n) / 100.0)).ceil(),
            });
            desired.min(most.fold(f64::from(replicas), f64::max) as u32)
        } else if desired < replicas {
            let least = self.down.policies.iter().map(|p| match *p {
                Policy::Pods(n, period) => before(period) - f64::from(n),
                Policy::Percent(n, period) => (before(period) * (1.0 - f64::from(n) / 100.0)).floor(),
            });
            desired.max(least.fold(f64::from(replicas), f64::min).max(0.0) as u32)
        } else {
            replicas
        }
    }
}

/// The worked examples of the documentation.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn follow(hpa: &mut Hpa, mut replicas: u32, desired: &[u32], every: f64) -> Vec<u32> {
        let mut seen = vec![replicas];
        for (i, &wanted) in desired.iter().enumerate() {
            replicas = hpa.set(replicas, wanted, (0, 10_000), (i + 1) as f64 * every);
            seen.push(replicas);
        }
        seen
    }

    fn none() -> Behavior {
        Behavior { stabilization: 0.0, policies: vec![Policy::Percent(100, 15.0)] }
    }

    /// <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details>:
    /// 200m against 100m doubles, 50m halves, within 0.1 nothing happens. And
    /// <https://kubernetes.io/blog/2025/04/28/kubernetes-v1-33-hpa-configurable-tolerance/>: 50 at 90 against 75
    /// become 60.
    #[test]
    fn the_ratio_gives_the_replicas() {
        assert_eq!((by_value(3, 200.0, 100.0), by_value(4, 50.0, 100.0)), (6, 2));
        assert_eq!(by_value(50, 90.0, 75.0), 60);
        assert_eq!((by_value(3, 109.0, 100.0), by_value(3, 91.0, 100.0)), (3, 3));
    }

    /// <https://github.com/gocrane/crane/issues/836>: 22 replicas where 24 are asked for stay, as 24/22 = 1.09.
    #[test]
    fn an_average_is_compared_by_the_same_tolerance() {
        assert_eq!(by_average(22, 24.0, 1.0), 22);
        assert_eq!(by_average(20, 24.0, 1.0), 24);
    }

    /// The same page, "Scaling policies": from 80 to 10 with 4 Pods or 10 % a minute, 8 go in the first step and
    /// 8 (7.2 rounded up) from 72 in the next; below 40, 4 go at a time.
    #[test]
    fn policies_limit_how_many_go() {
        let down = Behavior { stabilization: 0.0, policies: vec![Policy::Pods(4, 60.0), Policy::Percent(10, 60.0)] };
        let seen = follow(&mut Hpa::new(none(), down), 80, &[10; 14], 60.0);
        assert_eq!(seen[..4], [80, 72, 64, 57]);
        let from = seen.iter().position(|n| *n < 40).unwrap();
        assert!(seen[from..].windows(2).all(|w| w[0] - w[1] == 4 || w[1] == 10), "{seen:?}");
    }

    /// The same page, "Default behavior": 4 Pods or a doubling, whichever is more, every 15 seconds.
    #[test]
    fn by_default_four_or_twice_as_many_come() {
        assert_eq!(follow(&mut Hpa::documented(), 1, &[100; 6], 15.0), [1, 5, 10, 20, 40, 80, 100]);
    }

    /// KEP-853, stories 1 and 3:
    /// <https://github.com/kubernetes/enhancements/blob/master/keps/sig-autoscaling/853-configurable-hpa-scale-velocity/README.md
    /// <https://github.com/kubernetes/enhancements/blob/master/keps/sig-autoscaling/853-configurable-hpa-scale-velocity/README.md>
    #[test]
    fn growth_follows_its_policy() {
        let up = |policy| Behavior { stabilization: 0.0, policies: vec![policy] };
        let mut fast = Hpa::new(up(Policy::Percent(900, 60.0)), none());
        assert_eq!(follow(&mut fast, 1, &[1000; 3], 60.0), [1, 10, 100, 1000]);
        let mut slow = Hpa::new(up(Policy::Pods(1, 300.0)), none());
        assert_eq!(follow(&mut slow, 1, &[10; 3], 300.0), [1, 2, 3, 4]);
    }

    /// KEP-853, story 5: the highest recommendation of ten minutes; 10 replicas become 9 in the eleventh.
    #[test]
    fn the_highest_recent_recommendation_holds() {
        let down = Behavior { stabilization: 600.0, policies: vec![Policy::Pods(5, 60.0)] };
        let seen = follow(&mut Hpa::new(none(), down), 10, &[10, 9, 8, 9, 9, 8, 9, 8, 9, 8, 7], 60.0);
        assert_eq!(seen[1..], [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 9]);
    }

    /// KEP-853, story 6: the lowest recommendation of five minutes; 2 replicas become 3 in the seventh.
    #[test]
    fn the_lowest_recent_recommendation_holds_growth() {
        let up = Behavior { stabilization: 360.0, policies: vec![Policy::Pods(20, 60.0)] };
        let seen = follow(&mut Hpa::new(up, none()), 2, &[2, 3, 19, 10, 3, 4, 7], 60.0);
        assert_eq!(seen[1..], [2, 2, 2, 2, 2, 2, 3]);
    }
}
