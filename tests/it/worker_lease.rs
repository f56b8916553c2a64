//! A job does not outlive its lease, nor its worker, however that ends.

use std::time::{Duration, Instant};

use rowlock::{JobQueue, Status, worker};
use serde_json::json;

use crate::{
    proxy::Proxy,
    support::eventually,
    work::{
        Program, Working, ends, exists, job, options, processes_with, runs, shell, signal, unique_sleep, with_type,
    },
};

#[tokio::test]
async fn a_worker_whose_lease_ends_under_it_kills_its_jobs_and_works_on_as_another() {
    let sleep = unique_sleep();
    let script = format!("grep -q slow && {{ sleep {sleep} & sleep {sleep}; }}; exit 0");
    let (q, db) = with_type(json!({"command": shell(&script)})).await;
    let id = q.enqueue("t", json!({"a": "slow"})).await.unwrap().id;
    let working = Working::start(&q, worker::WorkerOptions { queues: vec!["default".into()], ..options() });
    eventually("the job runs", || async { processes_with(&sleep) == 2 }).await;
    // Paused, so that the next life of the worker does not start it again.
    q.pause_queue("default").await.unwrap();
    db.run("UPDATE rowlock.worker SET lease_until = '-infinity'").await;
    eventually("its processes are gone", || async { processes_with(&sleep) == 0 }).await;
    eventually("the job was put back", || async { job(&q, id).await.status == Status::Pending }).await;
    q.cancel(id).await.unwrap();
    q.resume_queue("default").await.unwrap();
    let next = q.enqueue("t", json!({})).await.unwrap().id;
    assert_eq!(ends(&q, next).await.status, Status::Completed);
    working.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_reach_the_database_ends_its_jobs_before_the_lease_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("asked");
    let (begun, sleep) = (dir.path().join("begun"), unique_sleep());
    // It hears the request and goes on: only SIGKILL ends it.
    let script = format!(
        "trap 'touch {}' TERM; touch {}; sleep {sleep} & while :; do sleep 0.05; done",
        asked.display(),
        begun.display()
    );
    let (direct, db) = with_type(json!({"command": shell(&script)})).await;
    let proxy = Proxy::to(&db.url).await;
    let q = JobQueue::connect(&proxy.url(&db.url)).await.unwrap();
    let id = direct.enqueue("t", json!({})).await.unwrap().id;
    let lease = Duration::from_secs(2);
    let working = Working::start(&q, worker::WorkerOptions { lease, grace: Duration::from_secs(60), ..options() });
    exists(&begun).await;
    proxy.freeze(true);
    exists(&asked).await;
    // The worker's deadline is never later than the database's.
    eventually("its processes are gone", || async { processes_with(&sleep) == 0 }).await;
    let expired: bool = db.one("SELECT lease_until < clock_timestamp() FROM rowlock.worker", &[]).await;
    assert!(!expired, "a process outlived its lease");
    direct.pause_queue("default").await.unwrap();
    proxy.freeze(false);
    eventually("the job was put back", || async { job(&direct, id).await.status == Status::Pending }).await;
    working.stop().await;
}

#[tokio::test]
async fn a_draining_worker_keeps_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let script = format!("echo x >> {}; until test -e {}; do sleep 0.05; done", begun.display(), go.display());
    let (q, db) = with_type(json!({"command": shell(&script)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let lease = Duration::from_millis(900);
    let working = Working::start(&q, worker::WorkerOptions { lease, grace: Duration::from_secs(60), ..options() });
    exists(&begun).await;
    working.shutdown.drain.cancel();
    eventually("two leases' time has passed while it drains", || async {
        let sql = "SELECT coalesce(bool_or(draining AND lease_until > started_at + interval '3 seconds'), false) FROM rowlock.worker";
        db.one::<bool>(sql, &[]).await
    })
    .await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(working.ended().await.unwrap().completed, 1);
    assert_eq!(job(&q, id).await.status, Status::Completed);
    assert_eq!(std::fs::read_to_string(&begun).unwrap(), "x\n", "it ran once");
}

/// A job with a child in its group, and a grandchild in a session of its own.
fn family(sleep: &str) -> serde_json::Value {
    shell(&format!("sleep {sleep} & setsid sleep {sleep} & sleep {sleep}"))
}

#[tokio::test]
async fn no_process_of_a_killed_worker_is_alive_after_a_second() {
    let (sleep, waits) = (unique_sleep(), unique_sleep());
    let (q, db) = with_type(json!({"command": family(&sleep)})).await;
    let resident =
        json!({"name": "r", "launch": "resident", "command": ["sh", "-c", format!("read -r line; sleep {waits}")]});
    crate::work::put_type(&db, resident).await;
    for job_type in ["t", "r", "t"] {
        q.enqueue(job_type, json!({})).await.unwrap();
    }
    let worker = Program::start(&db, &["--concurrency", "3"]);
    eventually("the jobs run", || async { processes_with(&sleep) == 6 && processes_with(&waits) == 1 }).await;
    let name = format!("rowlock-{}", db.one::<uuid::Uuid>("SELECT id FROM rowlock.worker", &[]).await);
    let dirs = [std::env::temp_dir(), "/dev/shm".into()].map(|parent: std::path::PathBuf| parent.join(&name));
    let dir = dirs.iter().find(|dir| dir.exists()).expect("the worker has a directory");
    worker.signal("-KILL");
    let killed = Instant::now();
    eventually("all are gone", || async { processes_with(&sleep) + processes_with(&waits) == 0 }).await;
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    eventually("so are their files", || async { !dir.exists() }).await;
}

#[tokio::test]
async fn the_processes_of_a_frozen_worker_end_with_its_lease_and_its_late_word_is_refused() {
    let sleep = unique_sleep();
    let (q, db) = with_type(json!({"command": shell(&format!("sleep {sleep}"))})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let worker = Program::start(&db, &["--lease", "2s"]);
    eventually("the job runs", || async { processes_with(&sleep) == 1 }).await;
    worker.signal("-STOP");
    let frozen = Instant::now();
    eventually("its process is gone", || async { processes_with(&sleep) == 0 }).await;
    assert!(frozen.elapsed() < Duration::from_millis(2300), "{:?}", frozen.elapsed());
    q.pause_queue("default").await.unwrap();
    let rescuer = Working::start(&q, options());
    eventually("the job was put back", || async { job(&q, id).await.status == Status::Pending }).await;
    worker.signal("-CONT");
    // It registers anew, beside the rescuer.
    eventually("it goes on as another worker", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.worker WHERE lease_until > clock_timestamp()", &[]).await == 2
    })
    .await;
    let after = job(&q, id).await;
    assert_eq!((after.status, after.attempts), (Status::Pending, 0));
    rescuer.stop().await;
}

#[tokio::test]
async fn a_guardian_that_is_killed_is_replaced() {
    let sleep = unique_sleep();
    let (q, db) = with_type(json!({"command": family(&sleep)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let worker = Program::start(&db, &[]);
    runs(&q, id).await;
    let id = db.one::<uuid::Uuid>("SELECT id FROM rowlock.worker", &[]).await.to_string();
    for _ in 0..2 {
        eventually("a guardian stands", || async { guardians(&id).len() == 1 }).await;
        let pid = guardians(&id)[0].clone();
        signal("-KILL", &pid);
        eventually("another stands", || async { guardians(&id).iter().any(|p| *p != pid) }).await;
    }
    worker.signal("-KILL");
    eventually("all are gone", || async { processes_with(&sleep) == 0 && guardians(&id).is_empty() }).await;
}

/// The process ids of a worker's guardians.
fn guardians(worker: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0).skip(1);
        words.next() == Some(b"guardian") && words.next() == Some(worker.as_bytes())
    });
    pids.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
