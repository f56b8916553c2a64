//! The controller with processes of this machine: workers come, go, die.
#![allow(clippy::print_stdout)] // the figures are what these tests are for

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rowlock::{
    JobQueue, NewJob, Status,
    controller::{
        self, Limits, Rule,
        local::{LocalOptions, LocalProcesses},
    },
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    binary::PROGRAM,
    support::{Db, eventually},
    work::{Program, exists, job, processes_with, program, put_type, shell, signal, unique_sleep, with_type},
};

/// More rounds on demand.
fn rounds(default: usize) -> usize {
    std::env::var("ROWLOCK_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A controller in this process, which scales local ones.
pub struct Scaling {
    end: CancellationToken,
    task: JoinHandle<Result<LocalProcesses, rowlock::Error>>,
}

impl Scaling {
    pub fn start(db: &Db, q: &JobQueue, limits: Limits, concurrency: u16) -> Scaling {
        Scaling::of(q, local(db, limits, concurrency), controller::Options::default())
    }

    pub fn of(q: &JobQueue, local: LocalOptions, options: controller::Options) -> Scaling {
        let target = LocalProcesses::new(local).unwrap();
        let end = CancellationToken::new();
        let task = tokio::spawn(controller::run(q.clone(), target, options, end.clone()));
        Scaling { end, task }
    }

    pub async fn stop(self) {
        self.end.cancel();
        let target = self.task.await.unwrap().unwrap();
        target.end(CancellationToken::new()).await;
    }
}

pub fn local(db: &Db, limits: Limits, concurrency: u16) -> LocalOptions {
    LocalOptions { name: "dev".into(), program: PROGRAM.into(), database_url: db.url.clone(), limits, concurrency }
}

pub fn limits(max: u32, delay: Duration) -> Limits {
    Limits {
        max_replicas: max,
        rule: Rule::TargetWait(Duration::from_secs(5)),
        scale_down_delay: delay,
        ..Limits::new(vec!["default".into()])
    }
}

async fn workers(db: &Db) -> i64 {
    db.one("SELECT count(*) FROM rowlock.workers WHERE NOT draining", &[]).await
}

/// Nothing runs, waits or is decided but zero.
async fn is_at_rest(db: &Db) -> bool {
    db.one(
        "SELECT (SELECT count(*) FROM rowlock.workers) = 0 AND (SELECT coalesce(sum(pending + running), 0) FROM rowlock.queues) = 0
            AND coalesce((SELECT wanted = 0 FROM rowlock.decisions ORDER BY id DESC LIMIT 1), false)",
        &[],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_jobs_at_once_bring_workers_at_once_and_then_they_go() {
    let handler = r#"while read -r line; do echo '{"ok": true}'; done"#;
    let (q, db) =
        with_type(json!({"launch": "resident", "command": shell(handler), "expected": "20 milliseconds"})).await;
    let scaling = Scaling::start(&db, &q, limits(6, Duration::from_secs(1)), 4);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds(2) {
        eventually("it is at rest and wants a NOTIFY", || async {
            is_at_rest(&db).await && db.one::<bool>("SELECT count(*) > 0 FROM rowlock.subscription", &[]).await
        })
        .await;
        let jobs: Vec<NewJob> = (0..5000).map(|n| NewJob::new("t", json!({"n": n}))).collect();
        let done: i64 = db.one("SELECT coalesce(sum(completed), 0)::int8 FROM rowlock.demand()", &[]).await;
        let last: i64 = db.one("SELECT max(id) FROM rowlock.decisions", &[]).await;
        q.enqueue_many(&jobs).await.unwrap();
        // By the clock of who enqueued: from the commit until the decision that follows can be read.
        let committed = Instant::now();
        let rise = "SELECT max(wanted) FROM rowlock.decisions WHERE wanted > current AND id > $1";
        eventually("it wants workers", || async { db.one::<Option<i32>>(rise, &[&last]).await.is_some() }).await;
        slowest = slowest.max(committed.elapsed());
        let wanted: i32 = db.one(rise, &[&last]).await;
        // Later it knows how little these jobs take, and one may do.
        assert!(wanted > i32::from(round == 0), "{wanted}");
        eventually("there are as many as it says", || async { workers(&db).await >= i64::from(wanted) }).await;
        eventually("all jobs are done and the workers gone", || async {
            is_at_rest(&db).await
                && db.one::<i64>("SELECT sum(completed)::int8 FROM rowlock.demand()", &[]).await == done + 5000
        })
        .await;
    }
    println!("replicas rose {slowest:?} after the commit at the latest");
    assert!(slowest < Duration::from_millis(500), "replicas rose {slowest:?} after the commit");
    scaling.stop().await;
}

/// A line each time a job begins, ends or is told to stop.
fn ledger_of(file: &Path) -> Value {
    let write = |what: &str| format!("echo {what} $ROWLOCK_JOB_ID >> {}", file.display());
    let sleep = r#"payload=$(cat); seconds=${payload##*: }; sleep "${seconds%\}}" & wait $!"#;
    shell(&format!("trap '{}; exit 1' TERM; {}; {sleep}; {}", write("told"), write("begins"), write("ends")))
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_in_under_load_stops_no_worker_that_runs_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let (q, db) = with_type(json!({"command": ledger_of(&ledger), "expected": "500 milliseconds"})).await;
    // By number: it falls with each job that ends, while arrival rates hold for a minute.
    let limits = Limits { rule: Rule::JobsPerReplica(1), ..limits(6, Duration::from_millis(500)) };
    let scaling = Scaling::start(&db, &q, limits, 1);
    let scale_ins = "SELECT count(*) FROM rowlock.decisions WHERE wanted < current AND wanted > 0";
    let mut ids = Vec::new();
    let wanted = rounds(4) as i64;
    for burst in 0.. {
        if db.one::<i64>(scale_ins, &[]).await >= wanted {
            break;
        }
        assert!(burst < 3 * wanted, "{burst} bursts, and too few scale-ins");
        // A burst that needs all workers, among it jobs that last while the others have ended.
        let sleeps = [0.2, 0.2, 0.2, 3.0, 0.2, 0.2, 0.2, 0.2, 2.0, 0.2, 0.2, 0.2, 0.2, 0.2];
        let jobs: Vec<NewJob> = sleeps.iter().map(|s| NewJob::new("t", json!({"s": s}))).collect();
        ids.extend(q.enqueue_many(&jobs).await.unwrap().into_iter().map(|e| e.id));
        let before: i64 = db.one(scale_ins, &[]).await;
        eventually("it scales in while long jobs run, or they have ended", || async {
            db.one::<i64>(scale_ins, &[]).await > before
                || db.one::<bool>("SELECT sum(running + pending) = 0 FROM rowlock.queues", &[]).await
        })
        .await;
    }
    eventually("all jobs have ended", || async {
        db.one::<bool>("SELECT sum(running + pending + scheduled) = 0 FROM rowlock.queues", &[]).await
    })
    .await;
    scaling.stop().await;
    let text = std::fs::read_to_string(&ledger).unwrap();
    let count = |what: &str| text.lines().filter(|l| l.starts_with(what)).count();
    println!("{} scale-ins, {} jobs", db.one::<i64>(scale_ins, &[]).await, ids.len());
    assert_eq!((count("begins"), count("ends"), count("told")), (ids.len(), ids.len(), 0));
    for id in ids {
        let job = job(&q, id).await;
        assert_eq!((job.status, job.attempts), (Status::Completed, 0));
    }
}

#[tokio::test]
async fn a_worker_that_is_killed_gives_its_jobs_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let script = format!("touch {}; until test -e {}; do sleep 0.05; done", begun.display(), go.display());
    let (q, db) = with_type(json!({"command": shell(&script)})).await;
    put_type(&db, json!({"name": "other", "command": ["true"]})).await;
    let scaling = Scaling::start(&db, &q, limits(2, Duration::from_secs(60)), 1);
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    exists(&begun).await;
    std::fs::remove_file(&begun).unwrap();
    let pid: String = db.one("SELECT split_part(identity, '/', 2) FROM rowlock.workers WHERE running > 0", &[]).await;
    let killed = Instant::now();
    signal("-KILL", &pid);
    exists(&begun).await;
    // Its lease would have lasted for 30 s.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    std::fs::write(&go, "").unwrap();
    eventually("the job ends", || async { job(&q, id).await.status == Status::Completed }).await;
    assert_eq!(job(&q, id).await.attempts, 0);
    scaling.stop().await;
}

#[tokio::test]
async fn a_job_for_later_brings_a_worker_in_its_time_and_a_paused_queue_none() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let scaling = Scaling::start(&db, &q, limits(2, Duration::from_millis(500)), 1);
    q.pause_queue("default").await.unwrap();
    let later = chrono::Utc::now() + chrono::TimeDelta::seconds(2);
    let id = q.enqueue("t", json!({})).execute_at(later).await.unwrap().id;
    eventually("it is due", || async {
        db.one::<bool>("SELECT pending = 1 AND (SELECT max(at) FROM rowlock.decisions) > $1 FROM rowlock.queues WHERE queue = 'default'", &[&later]).await
    })
    .await;
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.decisions WHERE wanted > 0", &[]).await, 0);
    q.resume_queue("default").await.unwrap();
    eventually("it has run", || async { job(&q, id).await.status == Status::Completed }).await;
    scaling.stop().await;
}

#[tokio::test]
async fn a_worker_ends_when_whoever_holds_its_leash_does() {
    let sleep = unique_sleep();
    let (q, db) = with_type(json!({"command": ["sleep", sleep]})).await;
    let mut worker = Program(
        program(&db)
            .args(["worker", "--leash", "--queue", "default"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    eventually("the job runs", || async { processes_with(&sleep) == 1 }).await;
    drop(worker.0.stdin.take());
    eventually("the worker has ended", || {
        let ended = worker.0.try_wait().unwrap().is_some();
        async move { ended }
    })
    .await;
    let job = job(&q, id).await;
    assert_eq!((job.status, job.attempts, processes_with(&sleep)), (Status::Pending, 0, 0));
}
