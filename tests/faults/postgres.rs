//! Postgres dies under load, again and again, and connections are cut off: nothing that was acknowledged is lost,
//! and the same workers go on as soon as it is up.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rowlock::{
    JobQueue,
    local_postgres::{LocalPostgres, Options},
};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    fleet::{Chance, Fleet, Worker, count, now, quantile, turn, until},
    ledger::{self, Ledger, drained, judge},
    support::{Db, connect},
};

const WORKERS: usize = 2;
/// Enqueued before each death.
const BATCH: usize = 100;
/// Of the bar: every worker runs a job again so soon after Postgres answers.
const AGAIN: Duration = Duration::from_secs(5);

/// A server that keeps its data, and its port, over its deaths. It syncs what it commits; the machine does not
/// die, so this is a test of crash recovery and not of disks.
struct Server {
    dir: tempfile::TempDir,
    running: Option<LocalPostgres>,
}

impl Server {
    async fn start() -> Server {
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        // The server may be another user than we.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Server { dir, running: None };
        server.up(None).await;
        server
    }

    async fn up(&mut self, port: Option<u16>) {
        let persist = Some(self.dir.path().join("data"));
        self.running = Some(LocalPostgres::start(Options { persist, port, ..Options::default() }).await.unwrap());
    }

    fn url(&self) -> String {
        self.running.as_ref().unwrap().url("postgres")
    }

    /// What `pg_ctl stop -m immediate` does, waiting included; that refuses to be root, as tests may be.
    async fn die(&mut self) {
        let pid_file = self.dir.path().join("data/postmaster.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
        until("Postgres is dead", || async { rustix::process::test_kill_process(pid).is_err() }).await;
        let dead = self.running.take();
        tokio::task::spawn_blocking(|| drop(dead)).await.unwrap();
    }

    async fn db(&self) -> Db {
        Db { url: self.url(), client: connect(&self.url()).await }
    }
}

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

/// Ends one of the queue's connections, whose ever.
async fn terminate_one(db: &Db, chance: &mut Chance) -> usize {
    let sql = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'rowlock'";
    let pids: Option<Vec<i32>> = db.one(sql, &[]).await;
    let Some(pids) = pids else { return 0 };
    let pid = pids[chance.below(pids.len())];
    usize::from(db.one::<bool>("SELECT pg_terminate_backend($1)", &[&pid]).await)
}

/// How long after `since` it took until each worker had begun a job.
async fn all_begin(ledger: &Ledger, workers: &[Worker], since: u64) -> Vec<Duration> {
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
    let _turn = turn().await;
    let (deaths, terminations) = (count(20), count(200));
    let mut server = Server::start().await;
    let mut db = server.db().await;
    let port = db.url.split(':').next_back().unwrap().split('/').next().unwrap().parse().unwrap();
    let q = JobQueue::connect(&db.url).await.unwrap();
    q.migrate().await.unwrap();
    let ledger = Ledger::open(&db).await;
    let mut chance = Chance::new();
    let mut jobs = HashSet::new();

    let fleet = Fleet::new(&db.url, &["--lease", "3s", "--concurrency", "4"]);
    let mut workers: Vec<_> = (0..WORKERS).map(|_| fleet.start()).collect();
    let client = Client::start(q.clone());
    let (mut terminated, mut again) = (0, Vec::new());
    let started = Instant::now();
    for death in 0..deaths {
        jobs.extend(ledger::enqueue_anew(&q, BATCH, |_| 50 + chance.below(150)).await);
        while terminated < terminations * (death + 1) / deaths {
            terminated += terminate_one(&db, &mut chance).await;
            tokio::time::sleep(chance.millis(200)).await;
        }
        server.die().await;
        // Sometimes longer than a lease.
        let down = if chance.below(4) == 0 { 5000 } else { 500 };
        tokio::time::sleep(chance.millis(down)).await;
        server.up(Some(port)).await;
        let up = now();
        db = server.db().await;
        again.extend(all_begin(&ledger, &workers, up).await);
        assert!(workers.iter_mut().all(|w| w.ended().is_none()), "a worker ended: {}", fleet.said("Error"));
    }
    let faults = started.elapsed();
    let (told, untold) = client.stop().await;
    drained(&db).await;

    jobs.extend(&told);
    let ended: HashSet<Uuid> = ledger::ends(&db).await.into_keys().collect();
    let lost = jobs.difference(&ended).count();
    let unasked = ended.difference(&jobs).count();
    jobs.extend(&ended);
    let v = judge(&db, &ledger, &jobs, &HashMap::new()).await;
    eprintln!(
        "postgres: {deaths} deaths and {terminated} ended connections in {faults:.1?}: {} of {} jobs accepted, {lost} lost; \
         {untold} enqueues without an answer, of which {unasked} had committed; {} extra runs, {} leases lost; every worker \
         works again after {:.2?} (median), {:.2?} (worst)",
        v.completed,
        jobs.len(),
        v.extra_runs,
        fleet.said("registering anew"),
        quantile(&mut again, 0.5),
        quantile(&mut again, 1.0),
    );
    assert_eq!((lost, v.completed), (0, jobs.len()));
    // A batch that was enqueued anew counts whole.
    assert!(unasked <= untold + BATCH * deaths);
    assert!(quantile(&mut again, 1.0) <= AGAIN);
}
