//! Deployments that serve the same queue share its work, and all of it is counted once. Pure.
//!
//! Each Deployment takes the demand for which it has room, in the order of their names. First come the replicas that a
//! Deployment has in any case (`min-replicas`), then those that it may have. A Deployment without nodes for its Pods
//! has no more room than its scheduled ones, so the rest goes to the next.

use std::collections::BTreeMap;

use super::limits::Limits;

/// The part of a queue's demand that a Deployment takes, from 0 to 1, by queue.
pub(super) type Shares = BTreeMap<String, f64>;

/// A Deployment that takes part.
pub(super) struct Sharer<'a> {
    pub limits: &'a Limits,
    /// Slots of one replica.
    pub slots: u32,
    /// It can have so many replicas now.
    pub most: u32,
}

/// Answers each Deployment's shares. `need` is the need of a queue, in slots.
pub(super) fn shares(sharers: &[Sharer<'_>], need: impl Fn(&str, &Sharer<'_>) -> f64) -> Vec<Shares> {
    let slots = |s: &Sharer<'_>, replicas: u32| f64::from(replicas) * f64::from(s.slots);
    let mut room: Vec<(f64, f64)> =
        sharers.iter().map(|s| (slots(s, least(s)), slots(s, s.most.max(least(s))))).collect();
    let mut of_queue: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, sharer) in sharers.iter().enumerate() {
        sharer.limits.queues.iter().for_each(|q| of_queue.entry(q).or_default().push(n));
    }
    let mut shares = vec![Shares::new(); sharers.len()];
    // A queue of one Deployment takes its room before the shared ones do.
    let mut queues: Vec<_> = of_queue.into_iter().collect();
    queues.sort_by_key(|(_, by)| by.len() > 1);
    for (queue, by) in queues {
        let Some(first) = by.first().copied() else { continue };
        let need = need(queue, &sharers[first]).max(0.0);
        let taken = fill(need, &by, &mut room);
        for (n, taken) in by.iter().zip(taken) {
            let share = if need > 0.0 { taken / need } else { f64::from(u8::from(*n == first)) };
            shares[*n].insert(queue.to_owned(), share);
        }
    }
    shares
}

/// Fills the rooms with a need, and answers how much of it each takes. What fits nowhere is the first one's.
fn fill(need: f64, by: &[usize], room: &mut [(f64, f64)]) -> Vec<f64> {
    let mut left = need;
    let mut taken = vec![0.0; by.len()];
    for certain in [true, false] {
        for (n, taken) in by.iter().zip(&mut taken) {
            let (least, most) = &mut room[*n];
            let takes = left.min(if certain { *least } else { *most }).max(0.0);
            (*least, *most) = ((*least - takes).max(0.0), *most - takes);
            *taken += takes;
            left -= takes;
        }
    }
    taken[0] += left;
    taken
}

fn least(sharer: &Sharer<'_>) -> u32 {
    sharer.limits.pin_replicas.unwrap_or(sharer.limits.min_replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(queues: &[&str], min: u32, max: u32) -> Limits {
        let queues = queues.iter().map(|q| (*q).to_owned()).collect();
        Limits { min_replicas: min, max_replicas: max, ..Limits::new(queues) }
    }

    fn taken(sharers: &[(&[&str], u32, u32)], needs: &[(&str, f64)]) -> Vec<Vec<f64>> {
        let limits: Vec<Limits> = sharers.iter().map(|(q, min, max)| limits(q, *min, *max)).collect();
        let sharers: Vec<Sharer<'_>> =
            limits.iter().map(|l| Sharer { limits: l, slots: 10, most: l.max_replicas }).collect();
        let need = |queue: &str| needs.iter().find(|(q, _)| *q == queue).map_or(0.0, |(_, n)| *n);
        let shares = shares(&sharers, |queue, _| need(queue));
        shares.iter().map(|s| s.iter().map(|(q, share)| (share * need(q) * 10.0).round() / 10.0).collect()).collect()
    }

    #[test]
    fn the_work_of_a_queue_is_counted_once_whoever_serves_it() {
        let both: &[(&[&str], u32, u32)] = &[(&["a"], 0, 10), (&["a"], 0, 10)];
        assert_eq!(taken(both, &[("a", 80.0)]), [[80.0], [0.0]], "the first has room for all");
        assert_eq!(taken(both, &[("a", 130.0)]), [[100.0], [30.0]], "the second has what the first cannot take");
        assert_eq!(taken(both, &[("a", 250.0)]), [[150.0], [100.0]], "both are at their maximum, and know it");
        assert_eq!(taken(&[(&["a"], 0, 10), (&["a"], 2, 10)], &[("a", 30.0)]), [[10.0], [20.0]], "it is there anyway");
    }

    #[test]
    fn one_alone_takes_all_and_its_own_queues_come_first() {
        assert_eq!(taken(&[(&["a", "b"], 0, 1)], &[("a", 500.0), ("b", 1.0)]), [[500.0, 1.0]]);
        let two: &[(&[&str], u32, u32)] = &[(&["b", "c"], 0, 10), (&["a", "b"], 0, 10)];
        assert_eq!(taken(two, &[("a", 50.0), ("b", 40.0), ("c", 70.0)]), [[30.0, 70.0], [50.0, 10.0]]);
    }

    #[test]
    fn without_demand_the_first_is_asked() {
        let limits = [limits(&["a"], 0, 1), limits(&["a"], 0, 1)];
        let sharers: Vec<Sharer<'_>> = limits.iter().map(|limits| Sharer { limits, slots: 1, most: 1 }).collect();
        let shares: Vec<f64> = shares(&sharers, |_, _| 0.0).iter().map(|s| s["a"]).collect();
        assert_eq!(shares, [1.0, 0.0]);
    }
}
