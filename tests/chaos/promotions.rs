//! The primary dies and its standby is promoted, again and again; the workers' URL names both. What was committed is on
//! both, so nothing is lost, and the same workers go on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rowlock::JobQueue;

use crate::{
    fleet::{count_of, now, quantile, turn, until},
    postgres::all_begin,
    scene::Scene,
    server::Server,
};

const WORKERS: usize = 3;
/// The bar: every worker runs a job again so soon after the promotion.
const AGAIN: Duration = Duration::from_secs(2);

/// A primary and its standby. A commit is on both before it is acknowledged.
pub struct Pair {
    pub primary: Server,
    pub standby: Server,
}

impl Pair {
    /// The standby's port is a free one if none is given.
    pub async fn of(primary: Server, port: Option<u16>) -> Pair {
        let standby = Server::standby_of(&primary, port).await;
        let db = primary.db().await;
        db.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        db.run("SELECT pg_reload_conf()").await;
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
        until("the standby follows", || async { db.one::<bool>(sql, &[]).await }).await;
        Pair { primary, standby }
    }

    /// The URL that names both, in one order or the other.
    pub fn url(&self, standby_first: bool) -> String {
        let (mut first, mut second) = (self.primary.port(), self.standby.port());
        if standby_first {
            std::mem::swap(&mut first, &mut second);
        }
        format!(
            "postgres://rowlock@127.0.0.1:{first},127.0.0.1:{second}/postgres?sslmode=disable\
             &target_session_attrs=read-write"
        )
    }

    /// The primary dies; after a while its standby takes its place. Answers when it had.
    async fn fail_over(mut self, after: Duration) -> (Server, Server, u64) {
        self.primary.be_killed().await;
        tokio::time::sleep(after).await;
        self.standby.promote().await;
        (self.standby, self.primary, now())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_go_on_at_the_standby_that_was_promoted_and_nothing_is_lost() {
    let turn = turn().await;
    let promotions = count_of(2, 10);
    let primary = Server::start().await;
    JobQueue::connect(&primary.db().await.url).await.unwrap().migrate().await.unwrap();
    let db = primary.db().await;
    let mut scene = Scene::on(turn, db, &["--lease", "5s", "--concurrency", "4"]).await;
    let mut pair = Pair::of(primary, None).await;
    scene.fleet.set_urls(vec![pair.url(false), pair.url(true)]);
    scene.q = JobQueue::connect(&pair.url(false)).await.unwrap();
    let mut workers: Vec<_> = (0..WORKERS).map(|_| scene.fleet.start()).collect();
    let mut again = Vec::new();
    let started = Instant::now();
    for _ in 0..promotions {
        scene.enqueue_anew(150, |chance| 20 + chance.below(100)).await;
        until("all work", || async { scene.ledger.busy().await.len() == WORKERS }).await;
        let (primary, old, promoted) = pair.fail_over(scene.chance.millis(3000)).await;
        scene.db = primary.db().await;
        scene.enqueue_anew(150, |chance| 20 + chance.below(100)).await;
        again.extend(all_begin(&scene.ledger, &workers, promoted).await);
        let ended = workers.iter_mut().find_map(|w| w.ended());
        assert!(ended.is_none(), "{ended:?}: a worker ended: {}", scene.fleet.last_error());
        // Another one at the port of the old, which the workers know.
        pair = Pair::of(primary, Some(old.port())).await;
    }
    let took = started.elapsed();
    let lost = scene.lost().await;
    let v = scene.judge(&HashMap::new()).await;
    eprintln!(
        "promotions: {promotions} in {took:.1?}: {} of {} jobs accepted, {lost} lost, {} extra runs; every worker \
         works again \
         after {:.2?} (median), {:.2?} (worst)",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        quantile(&mut again, 0.5),
        quantile(&mut again, 1.0),
    );
    assert_eq!((v.completed, lost), (scene.jobs.len(), 0));
    assert!(quantile(&mut again, 1.0) <= AGAIN);
}
