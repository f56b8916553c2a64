//! Taking replicas away without taking one that works: idle workers are marked as draining in Postgres, looked at
//! once more a moment later, and only those that are idle still are stopped.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    observe::WorkerRow,
    store::Store,
    target::{Scaled, Target},
};

/// A claim that was under way when its worker was marked has ended after so long.
const MOMENT: Duration = Duration::from_millis(300);

/// Of one Deployment.
#[derive(Debug, Default)]
pub(super) struct ScaleIn {
    leaving: Chosen,
    since: Option<Instant>,
}

/// Replicas that are to go.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chosen {
    /// Idle workers, each with its replica's key.
    pub idle: Vec<(Uuid, String)>,
    /// Keys of replicas without a worker: what has not started holds no job, and may never start.
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

/// As many as are too many: first those without a worker, then idle ones, the latest ordered first.
pub(super) fn choose(scaled: &Scaled, workers: &[WorkerRow], too_many: u32) -> Chosen {
    let mut by_key: HashMap<&str, Vec<&WorkerRow>> = HashMap::new();
    workers.iter().for_each(|w| by_key.entry(w.key()).or_default().push(w));
    let mut replicas: Vec<_> = scaled.replicas.iter().collect();
    replicas.sort_by_key(|r| std::cmp::Reverse(r.ordered));
    let mut left = too_many as usize;
    let mut chosen = Chosen::default();
    let without = replicas.iter().filter(|r| !by_key.contains_key(r.key.as_str()));
    chosen.unstarted = without.take(left).map(|r| r.key.clone()).collect();
    left -= chosen.unstarted.len();
    let idle = replicas.iter().filter_map(|r| match by_key.get(r.key.as_str()).map(Vec::as_slice) {
        Some([w]) if w.running == 0 && !w.draining => Some((w.id, r.key.clone())),
        _ => None,
    });
    chosen.idle = idle.take(left).collect();
    chosen
}

impl ScaleIn {
    pub(super) fn is_under_way(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Marks them; how many are on their way out now.
    pub(super) async fn begin(&mut self, store: &Store, epoch: i64, chosen: Chosen) -> anyhow::Result<usize> {
        let marked = store.drain(epoch, &chosen.ids()).await?;
        self.leaving = chosen;
        self.leaving.idle.retain(|(id, _)| marked.contains(id));
        self.since = Some(Instant::now());
        Ok(self.leaving.keys().len())
    }

    /// How long until the marked ones can be looked at again; none without any.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since.filter(|_| self.is_under_way())?;
        Some(MOMENT.saturating_sub(since.elapsed()))
    }

    /// Looks again, and stops those that are idle still, once it is certain that no other is stopped in their
    /// place; how many. `workers` are those of this turn.
    pub(super) async fn finish<T: Target>(
        &mut self,
        store: &Store,
        epoch: i64,
        target: &mut T,
        scaled: &Scaled,
        workers: &[WorkerRow],
    ) -> anyhow::Result<usize> {
        if self.due_in() != Some(Duration::ZERO) {
            return Ok(0);
        }
        self.since = Some(Instant::now());
        // One that ended meanwhile is nobody's to stop, and one that has started may have a job.
        let there = |key: &String| scaled.replicas.iter().any(|r| r.key == *key);
        self.leaving.idle.retain(|(_, key)| there(key));
        self.leaving.unstarted.retain(|key| there(key) && !workers.iter().any(|w| w.key() == key));
        let idle = store.drained(epoch, &self.leaving.ids()).await?;
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
    use crate::controller::{limits::Limits, target::Replica};

    #[test]
    fn only_idle_ones_are_chosen_the_latest_first() {
        let now = Instant::now();
        let replicas: Vec<Replica> =
            (0..5).map(|n| Replica { key: format!("r{n}"), ordered: now + Duration::from_secs(n) }).collect();
        let scaled = Scaled { name: "d".into(), limits: Ok(Limits::new(vec!["a".into()])), replicas, unschedulable: 0 };
        let worker = |n: u32, running, draining| WorkerRow {
            id: Uuid::now_v7(),
            identity: format!("r{n}/1/2"),
            slots: 1,
            draining,
            running,
        };
        // r4 has no worker yet, r3 is busy, r0 drains already.
        let workers = [worker(0, 0, true), worker(1, 0, false), worker(2, 0, false), worker(3, 1, false)];
        let keys = |too_many| choose(&scaled, &workers, too_many).keys();
        assert_eq!(keys(5), ["r4", "r2", "r1"]);
        assert_eq!(keys(2), ["r4", "r2"]);
        assert_eq!(keys(1), ["r4"]);
        // One that lost its lease and registered anew has two rows for a moment: whose job is it?
        let twice = [worker(1, 0, false), worker(1, 0, false)];
        assert!(choose(&scaled, &twice, 5).idle.is_empty());
    }
}
