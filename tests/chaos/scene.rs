//! The set-up that the tests share: a queue, a ledger beside it, workers to come, and chance.

use std::collections::{HashMap, HashSet};

use rowlock::JobQueue;
use serde_json::json;
use tokio::sync::MutexGuard;
use uuid::Uuid;

use crate::{
    fleet::{Chance, Fleet, turn},
    judge::{self, Verdict},
    ledger::{self, Ledger, drained},
    support::{Db, database},
};

pub struct Scene {
    pub db: Db,
    pub q: JobQueue,
    pub ledger: Ledger,
    pub fleet: Fleet,
    pub chance: Chance,
    /// All jobs that were enqueued.
    pub jobs: HashSet<Uuid>,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// A database of its own; these are the arguments of its workers.
    pub async fn new(args: &[&str]) -> Scene {
        let turn = turn().await;
        Scene::on(turn, database().await, args).await
    }

    /// On a database that has the schema.
    pub async fn on(turn: MutexGuard<'static, ()>, db: Db, args: &[&str]) -> Scene {
        let ledger = Ledger::open(&db).await;
        let q = JobQueue::connect(&db.url).await.unwrap();
        let fleet = Fleet::new(&db.url, args).with("CHAOS_LEDGER", ledger.url());
        Scene { db, q, ledger, fleet, chance: Chance::new(), jobs: HashSet::new(), _turn: turn }
    }

    /// Enqueues jobs that take so many milliseconds each.
    pub async fn enqueue(&mut self, jobs: usize, mut ms: impl FnMut(&mut Chance) -> usize) {
        self.jobs.extend(ledger::enqueue(&self.q, jobs, |_| ms(&mut self.chance)).await);
    }

    /// The same while the database is away now and then. A batch whose answer was lost is enqueued once more.
    pub async fn enqueue_anew(&mut self, jobs: usize, mut ms: impl FnMut(&mut Chance) -> usize) {
        self.jobs.extend(ledger::enqueue_anew(&self.q, jobs, |_| ms(&mut self.chance)).await);
    }

    /// Waits for the end of all jobs, and answers how many of those that were told to us are not there. From then on,
    /// those that we were not told of count as well.
    pub async fn lost(&mut self) -> usize {
        drained(&self.db).await;
        let ended: HashSet<Uuid> = judge::ends(&self.db).await.into_keys().collect();
        let lost = self.jobs.difference(&ended).count();
        self.jobs = ended;
        lost
    }

    /// Enqueues jobs of which every fourth is to fail its first attempt and every tenth is a long one.
    pub async fn enqueue_mixed(&mut self, jobs: usize, long: usize) {
        let chance = &mut self.chance;
        let payload = |n: usize| {
            let ms = if n.is_multiple_of(10) { long } else { 20 + chance.below(40) };
            json!({"ms": ms, "again": u8::from(n % 4 == 1)})
        };
        self.jobs.extend(ledger::enqueue_like(&self.q, jobs, payload).await);
    }

    /// Waits for the end of all jobs, and holds it against the ledger. `dead` says when processes ended.
    pub async fn judge(&self, dead: &HashMap<u32, u64>) -> Verdict {
        drained(&self.db).await;
        judge::judge(&self.db, &self.ledger, &self.jobs, dead).await
    }
}
