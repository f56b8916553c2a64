//! Taking replicas away without taking one that works: idle workers are marked as draining in Postgres, looked at
//! once more a moment later, and only those that are idle still are stopped.

use std::time::{Duration, Instant};

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
    /// Workers that drain, each with its replica's key, and since when.
    draining: Vec<(Uuid, String)>,
    since: Option<Instant>,
}

/// The idle workers that are to go, each with its replica's key: as many as are too many, the latest ordered first.
pub(super) fn choose(scaled: &Scaled, workers: &[WorkerRow], too_many: u32) -> Vec<(Uuid, String)> {
    let mut replicas: Vec<_> = scaled.replicas.iter().collect();
    replicas.sort_by_key(|r| std::cmp::Reverse(r.ordered));
    let idle = |key: &str| {
        let mut own = workers.iter().filter(|w| w.identity.split('/').next() == Some(key));
        own.next().filter(|w| w.running == 0 && !w.draining && own.next().is_none())
    };
    let chosen = replicas.iter().filter_map(|r| Some((idle(&r.key)?.id, r.key.clone())));
    chosen.take(too_many as usize).collect()
}

impl ScaleIn {
    pub(super) fn is_under_way(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Marks them; how many are on their way out now.
    pub(super) async fn begin(
        &mut self,
        store: &Store,
        epoch: i64,
        chosen: Vec<(Uuid, String)>,
    ) -> anyhow::Result<usize> {
        let ids: Vec<Uuid> = chosen.iter().map(|(id, _)| *id).collect();
        let marked = store.drain(epoch, &ids).await?;
        self.draining = chosen.into_iter().filter(|(id, _)| marked.contains(id)).collect();
        self.since = Some(Instant::now());
        Ok(self.draining.len())
    }

    /// How long until the marked ones can be looked at again; none without any.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since.filter(|_| self.is_under_way())?;
        Some(MOMENT.saturating_sub(since.elapsed()))
    }

    /// Looks again, and stops those that are idle; how many.
    pub(super) async fn finish<T: Target>(
        &mut self,
        store: &Store,
        epoch: i64,
        target: &mut T,
        deployment: &str,
    ) -> anyhow::Result<usize> {
        if self.due_in() != Some(Duration::ZERO) {
            return Ok(0);
        }
        let draining = std::mem::take(&mut self.draining);
        let ids: Vec<Uuid> = draining.iter().map(|(id, _)| *id).collect();
        let idle = store.drained(epoch, &ids).await?;
        let keys: Vec<String> = draining.into_iter().filter(|(id, _)| idle.contains(id)).map(|(_, key)| key).collect();
        target.stop(deployment, &keys).await?;
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
        let keys = |too_many| choose(&scaled, &workers, too_many).into_iter().map(|(_, k)| k).collect::<Vec<_>>();
        assert_eq!(keys(5), ["r2", "r1"]);
        assert_eq!(keys(1), ["r2"]);
        // One that lost its lease and registered anew has two rows for a moment: whose job is it?
        let twice = [worker(1, 0, false), worker(1, 0, false)];
        assert!(choose(&scaled, &twice, 5).is_empty());
    }
}
