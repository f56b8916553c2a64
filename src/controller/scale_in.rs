//! Scaling in takes replicas away, and none that works: idle workers are marked as draining in Postgres, are checked
//! once more a moment later, and only those that are still idle are stopped.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    observe::Workers,
    reconcile_error::ReconcileError,
    store::Store,
    target::{Replica, Scaled, Target},
};

/// A claim that was under way when its worker was marked has ended after this time.
const CLAIM_IN_FLIGHT: Duration = Duration::from_millis(300);

/// The scale-in of one Deployment.
#[derive(Debug, Default)]
pub(super) struct ScaleIn {
    leaving: Chosen,
    since: Option<Instant>,
}

/// The replicas that are to go.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chosen {
    replicas: Vec<Leaving>,
    /// So many of them go. It is fewer than all where they are of several groups.
    fewer: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Leaving {
    key: String,
    group: String,
    /// Its idle worker. A replica that is not up and has no worker holds no job, and may never start.
    worker: Option<Uuid>,
}

impl Chosen {
    pub(super) fn is_empty(&self) -> bool {
        self.fewer == 0
    }

    fn workers(&self) -> Vec<Uuid> {
        self.replicas.iter().filter_map(|r| r.worker).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.replicas.iter().map(|r| r.key.clone()).collect()
    }

    /// Lowers `fewer` to a number that costs no replica which works, whichever groups lose them.
    ///
    /// Of several ReplicaSets, the Deployment's controller says how many each loses, up to all. So each one that has a
    /// working replica needs as many marked replicas as go altogether.
    fn bound(mut self, scaled: &Scaled) -> Chosen {
        let has_pod = |group: &&str| !group.is_empty();
        let groups: BTreeSet<&str> = scaled.replicas.iter().map(|r| r.group.as_str()).filter(has_pod).collect();
        if groups.len() > 1 {
            self.replicas.retain(|r| !r.group.is_empty());
            for group in groups {
                let marked = self.replicas.iter().filter(|r| r.group == group).count();
                let all = scaled.replicas.iter().filter(|r| r.group == group).count();
                self.fewer = if marked < all { self.fewer.min(marked) } else { self.fewer };
            }
        }
        self.fewer = self.fewer.min(self.replicas.len());
        self
    }
}

/// Chooses the replicas that are too many: first those without a worker, then idle ones, the latest ordered first. Of
/// several groups, as many of each.
pub(super) fn choose(scaled: &Scaled, workers: &Workers<'_>, too_many: u32) -> Chosen {
    let mut replicas: Vec<_> = scaled.replicas.iter().collect();
    replicas.sort_by_key(|r| std::cmp::Reverse(r.ordered));
    let leaving = |r: &Replica, worker| Leaving { key: r.key.clone(), group: r.group.clone(), worker };
    let unstarted = replicas.iter().filter(|r| !r.up && workers.of(&r.key).is_empty()).map(|r| leaving(r, None));
    let idle = replicas.iter().filter_map(|r| match workers.of(&r.key) {
        [w] if w.running == 0 && !w.draining => Some(leaving(r, Some(w.id))),
        _ => None,
    });
    let candidates = Chosen { replicas: unstarted.chain(idle).collect(), fewer: too_many as usize }.bound(scaled);
    let groups: BTreeSet<&str> =
        scaled.replicas.iter().map(|r| r.group.as_str()).filter(|group| !group.is_empty()).collect();
    let several = groups.len() > 1;
    let mut of_group: HashMap<String, usize> = HashMap::new();
    let mut chosen = Chosen { fewer: candidates.fewer, replicas: Vec::new() };
    for replica in candidates.replicas {
        // One group is filled as a whole; where there are several, each is.
        let count = of_group.entry(if several { replica.group.clone() } else { String::new() }).or_default();
        if *count < chosen.fewer {
            *count += 1;
            chosen.replicas.push(replica);
        }
    }
    chosen
}

impl ScaleIn {
    pub(super) fn is_under_way(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Marks the chosen ones; answers how many replicas are on their way out now.
    pub(super) async fn begin(&mut self, store: &Store, epoch: i64, chosen: Chosen) -> Result<usize, ReconcileError> {
        let marked = store.drain(epoch, &chosen.workers()).await?;
        self.leaving = chosen;
        self.leaving.replicas.retain(|r| r.worker.is_none_or(|id| marked.contains(&id)));
        self.since = Some(Instant::now());
        Ok(self.leaving.fewer.min(self.leaving.replicas.len()))
    }

    /// The time until the marked ones can be checked; none if none is marked.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since.filter(|_| self.is_under_way())?;
        Some(CLAIM_IN_FLIGHT.saturating_sub(since.elapsed()))
    }

    /// Checks the marked ones, and stops those that are still idle, once it is certain that no other is stopped in
    /// their place. Answers how many it stopped. `workers` are those of this reconciliation.
    pub(super) async fn finish<T: Target>(
        &mut self,
        store: &Store,
        epoch: i64,
        target: &mut T,
        scaled: &Scaled,
        workers: &Workers<'_>,
    ) -> Result<usize, ReconcileError> {
        if self.due_in() != Some(Duration::ZERO) {
            return Ok(0);
        }
        self.since = Some(Instant::now());
        // A replica that has ended need not be stopped, and one that has started meanwhile may have a job.
        let is_there = |l: &Leaving| scaled.replicas.iter().any(|r| r.key == l.key && (l.worker.is_some() || !r.up));
        self.leaving.replicas.retain(|l| is_there(l) && (l.worker.is_some() || workers.of(&l.key).is_empty()));
        let idle = store.confirm_drained(epoch, &self.leaving.workers()).await?;
        self.leaving.replicas.retain(|l| l.worker.is_none_or(|id| idle.contains(&id)));
        self.leaving = std::mem::take(&mut self.leaving).bound(scaled);
        if self.leaving.is_empty() {
            self.leaving = Chosen::default();
            return Ok(0);
        }
        let keys = self.leaving.keys();
        if !target.mark(&scaled.name, &keys).await? {
            return Ok(0);
        }
        let fewer = self.leaving.fewer;
        if !target.stop(&scaled.name, &keys, u32::try_from(fewer).unwrap_or(u32::MAX)).await? {
            return Ok(0);
        }
        self.leaving = Chosen::default();
        Ok(fewer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{limits::Limits, observe::WorkerRow};

    #[test]
    fn only_idle_ones_are_chosen_the_latest_first() {
        let now = Instant::now();
        let replicas: Vec<Replica> =
            (0..6).map(|n| replica(&format!("r{n}"), "a", now + Duration::from_secs(n), n < 4 || n == 5)).collect();
        let scaled = scaled(replicas);
        let worker = |n: u32, running, draining| worker(&format!("r{n}"), running, draining);
        // r4 has no worker yet, nor has r5, which may have lost its own for a moment; r3 is busy, r0 drains already.
        let workers = [worker(0, 0, true), worker(1, 0, false), worker(2, 0, false), worker(3, 1, false)];
        let keys = |too_many| choose(&scaled, &Workers::new(&workers), too_many).keys();
        assert_eq!(keys(5), ["r4", "r2", "r1"]);
        assert_eq!(keys(2), ["r4", "r2"]);
        assert_eq!(keys(1), ["r4"]);
        // One that lost its lease and registered anew has two rows for a moment: whose job is it?
        let twice = [worker(1, 0, false), worker(1, 0, false)];
        assert!(choose(&scaled, &Workers::new(&twice), 5).workers().is_empty());
    }

    #[test]
    fn of_two_replica_sets_so_few_go_that_none_which_works_can_be_among_them() {
        let now = Instant::now();
        let of = |names: &[&str], group| names.iter().map(|n| replica(n, group, now, true)).collect::<Vec<_>>();
        let both = scaled([of(&["a1", "a2", "a3"], "a"), of(&["b1", "b2", "b3", "b4"], "b")].concat());
        let rows = |busy: &[&str]| -> Vec<WorkerRow> {
            both.replicas.iter().map(|r| worker(&r.key, u64::from(busy.contains(&r.key.as_str())), false)).collect()
        };
        let go = |busy: &[&str], too_many| {
            let rows = rows(busy);
            let chosen = choose(&both, &Workers::new(&rows), too_many);
            assert!(busy.iter().all(|b| !chosen.keys().contains(&(*b).to_owned())));
            (chosen.fewer, chosen.replicas.len())
        };
        assert_eq!(go(&["a1"], 5), (2, 4), "two idle ones of a and two of b are marked, any two of them may go");
        assert_eq!(go(&["a1", "a2", "a3"], 5), (0, 0), "a may lose one, and all of a work");
        assert_eq!(go(&[], 5), (5, 7), "none works");
        assert_eq!(go(&["b1"], 1), (1, 2));
    }

    #[test]
    fn the_bound_holds_when_a_marked_one_has_got_a_job() {
        let now = Instant::now();
        let both =
            scaled(vec![replica("a1", "a", now, true), replica("a2", "a", now, true), replica("b1", "b", now, true)]);
        let rows: Vec<WorkerRow> = both.replicas.iter().map(|r| worker(&r.key, 0, false)).collect();
        let mut chosen = choose(&both, &Workers::new(&rows), 2);
        assert_eq!(chosen.fewer, 2);
        chosen.replicas.retain(|r| r.key != "a2");
        assert_eq!(chosen.bound(&both).fewer, 1);
    }

    fn replica(key: &str, group: &str, ordered: Instant, up: bool) -> Replica {
        Replica { key: key.into(), group: group.into(), ordered, up }
    }

    fn scaled(replicas: Vec<Replica>) -> Scaled {
        let limits = Ok(Limits::new(vec!["a".into()]));
        Scaled { name: "d".into(), limits, replicas, unschedulable: 0, hold: None }
    }

    fn worker(key: &str, running: u64, draining: bool) -> WorkerRow {
        WorkerRow { id: Uuid::now_v7(), identity: format!("{key}/1/2"), slots: 1, draining, running }
    }
}
