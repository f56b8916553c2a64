//! Postgres dies under load, again and again, and connections are cut off: nothing that was acknowledged is lost,
//! and the same workers go on as soon as it is up.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rowlock::JobQueue;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    fleet::{Worker, count, now, quantile, turn, until},
    ledger::Ledger,
    scene::Scene,
    server::{Server, terminate_one},
};

const WORKERS: usize = 2;
/// Enqueued before each death.
const BATCH: usize = 100;
/// Of the bar: every worker runs a job again so soon after Postgres answers.
const AGAIN: Duration = Duration::from_secs(5);

/// A client that goes on enqueueing: the ids it was told, and how often it was told nothing.
struct Client {
    told: Arc<Mutex<HashSet<Uuid>>>,
    untold: Arc<AtomicUsize>,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Client {
    fn start(q: JobQueue) -> Client {
        let (told, untold, end) = (Arc::default(), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let client = (Arc::clone(&told), untold.clone(), end.clone());
        let task = tokio::spawn(async move {
            let (told, untold, end): (Arc<Mutex<HashSet<Uuid>>>, _, _) = client;
            while !end.is_cancelled() {
                match q.enqueue("t", json!({"ms": 20})).await {
                    Ok(enqueued) => assert!(told.lock().await.insert(enqueued.id)),
                    Err(error) => {
                        assert!(error.is_transient(), "{error:?}");
                        untold.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // A pace, not a wait.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Client { told, untold, end, task }
    }

    async fn stop(self) -> (HashSet<Uuid>, usize) {
        self.end.cancel();
        self.task.await.unwrap();
        (std::mem::take(&mut *self.told.lock().await), self.untold.load(Ordering::Relaxed))
    }
}

/// How long after `since` it took until each worker had begun a job.
pub async fn all_begin(ledger: &Ledger, workers: &[Worker], since: u64) -> Vec<Duration> {
    let all = || async {
        let begun = ledger.begun(since).await;
        workers.iter().all(|w| begun.contains_key(&w.number))
    };
    until("every worker runs jobs again", all).await;
    let begun = ledger.begun(since).await;
    workers.iter().map(|w| Duration::from_nanos(begun[&w.number] - since)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_postgres_and_workers_go_on_when_it_is_up() {
    let turn = turn().await;
    let (deaths, terminations) = (count(20), count(200));
    let mut server = Server::start().await;
    let db = server.db().await;
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    let mut scene = Scene::on(turn, db, &["--lease", "3s", "--concurrency", "4"]).await;
    let mut workers: Vec<_> = (0..WORKERS).map(|_| scene.fleet.start()).collect();
    let client = Client::start(scene.q.clone());
    let (mut terminated, mut again) = (0, Vec::new());
    let started = Instant::now();
    for death in 0..deaths {
        scene.enqueue_anew(BATCH, |chance| 50 + chance.below(150)).await;
        while terminated < terminations * (death + 1) / deaths {
            terminated += terminate_one(&scene.db, &mut scene.chance).await;
            tokio::time::sleep(scene.chance.millis(200)).await;
        }
        server.die().await;
        // Sometimes longer than a lease.
        let down = if scene.chance.below(4) == 0 { 5000 } else { 500 };
        tokio::time::sleep(scene.chance.millis(down)).await;
        server.up().await;
        let up = now();
        scene.db = server.db().await;
        again.extend(all_begin(&scene.ledger, &workers, up).await);
        assert!(workers.iter_mut().all(|w| w.ended().is_none()), "a worker ended: {}", scene.fleet.said("Error"));
    }
    let faults = started.elapsed();
    let (told, untold) = client.stop().await;
    scene.jobs.extend(&told);
    let known = scene.jobs.len();
    let lost = scene.lost().await;
    let unasked = scene.jobs.len() + lost - known;
    let v = scene.judge(&HashMap::new()).await;
    eprintln!(
        "postgres: {deaths} deaths and {terminated} ended connections in {faults:.1?}: {} of {} jobs accepted, {lost} \
         lost; \
         {untold} enqueues without an answer, of which {unasked} had committed; {} extra runs, {} leases lost; every \
         worker \
         works again after {:.2?} (median), {:.2?} (worst)",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        scene.fleet.said("registering anew"),
        quantile(&mut again, 0.5),
        quantile(&mut again, 1.0),
    );
    assert_eq!((lost, v.completed), (0, scene.jobs.len()));
    // A batch that was enqueued anew counts whole.
    assert!(unasked <= untold + BATCH * deaths);
    assert!(quantile(&mut again, 1.0) <= AGAIN);
}
