//! Scaling in takes replicas away, and none that works: idle workers are marked as draining in Postgres, are checked
//! once more a moment later, and only those that are still idle are stopped.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{
    observe::Workers,
    reconcile::ReconcileError,
    store::Store,
    target::{Scaled, Target},
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
    /// Idle workers, each with its replica's key.
    pub idle: Vec<(Uuid, String)>,
    /// Keys of replicas that are not up and have no worker: such a replica holds no job, and may never start.
    pub unstarted: Vec<String>,
}

impl Chosen {
    pub(super) fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.unstarted.is_empty()
    }

    fn ids(&self) -> Vec<Uuid> {
        self.idle.iter().map(|(id, _)| *id).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.unstarted.iter().chain(self.idle.iter().map(|(_, key)| key)).cloned().collect()
    }
}

/// Chooses the replicas that are too many: first those without a worker, then idle ones, the latest ordered first.
pub(super) fn choose(scaled: &Scaled, workers: &Workers<'_>, too_many: u32) -> Chosen {
    let mut replicas: Vec<_> = scaled.replicas.iter().collect();
    replicas.sort_by_key(|r| std::cmp::Reverse(r.ordered));
    let mut left = too_many as usize;
    let mut chosen = Chosen::default();
    let without = replicas.iter().filter(|r| !r.up && workers.of(&r.key).is_empty());
    chosen.unstarted = without.take(left).map(|r| r.key.clone()).collect();
    left -= chosen.unstarted.len();
    let idle = replicas.iter().filter_map(|r| match workers.of(&r.key) {
        [w] if w.running == 0 && !w.draining => Some((w.id, r.key.clone())),
        _ => None,
    });
    chosen.idle = idle.take(left).collect();
    chosen
}

impl ScaleIn {
    pub(super) fn is_under_way(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Marks the chosen ones; answers how many replicas are on their way out now.
    pub(super) async fn begin(&mut self, store: &Store, epoch: i64, chosen: Chosen) -> Result<usize, ReconcileError> {
        let marked = store.drain(epoch, &chosen.ids()).await?;
        self.leaving = chosen;
        self.leaving.idle.retain(|(id, _)| marked.contains(id));
        self.since = Some(Instant::now());
        Ok(self.leaving.keys().len())
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
        let there = |key: &String| scaled.replicas.iter().any(|r| r.key == *key);
        self.leaving.idle.retain(|(_, key)| there(key));
        self.leaving
            .unstarted
            .retain(|key| scaled.replicas.iter().any(|r| r.key == *key && !r.up) && workers.of(key).is_empty());
        let idle = store.confirm_drained(epoch, &self.leaving.ids()).await?;
        self.leaving.idle.retain(|(id, _)| idle.contains(id));
        let keys = self.leaving.keys();
        if keys.is_empty() || !target.mark(&scaled.name, &keys).await? {
            return Ok(0);
        }
        if !target.stop(&scaled.name, &keys).await? {
            return Ok(0);
        }
        self.leaving = Chosen::default();
        Ok(keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{limits::Limits, observe::WorkerRow, target::Replica};

    #[test]
    fn only_idle_ones_are_chosen_the_latest_first() {
        let now = Instant::now();
        let replicas: Vec<Replica> = (0..6)
            .map(|n| Replica { key: format!("r{n}"), ordered: now + Duration::from_secs(n), up: n < 4 || n == 5 })
            .collect();
        let scaled = Scaled { name: "d".into(), limits: Ok(Limits::new(vec!["a".into()])), replicas, unschedulable: 0 };
        let worker = |n: u32, running, draining| WorkerRow {
            id: Uuid::now_v7(),
            identity: format!("r{n}/1/2"),
            slots: 1,
            draining,
            running,
        };
        // r4 has no worker yet, nor has r5, which may have lost its own for a moment; r3 is busy, r0 drains already.
        let workers = [worker(0, 0, true), worker(1, 0, false), worker(2, 0, false), worker(3, 1, false)];
        let keys = |too_many| choose(&scaled, &Workers::new(&workers), too_many).keys();
        assert_eq!(keys(5), ["r4", "r2", "r1"]);
        assert_eq!(keys(2), ["r4", "r2"]);
        assert_eq!(keys(1), ["r4"]);
        // One that lost its lease and registered anew has two rows for a moment: whose job is it?
        let twice = [worker(1, 0, false), worker(1, 0, false)];
        assert!(choose(&scaled, &Workers::new(&twice), 5).idle.is_empty());
    }
}
