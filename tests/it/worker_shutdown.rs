//! Ending a worker: within the grace, and nothing is counted against the jobs it could not finish.

use std::time::{Duration, Instant};

use rowlock::{Status, worker};
use serde_json::json;

use crate::{
    support::eventually,
    work::{Program, Working, ends, exists, job, options, processes_with, runs, shell, unique_sleep, with_type},
};

#[tokio::test]
async fn unfinished_jobs_go_back_within_the_grace_without_an_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    // One hears SIGTERM, the other does not.
    for trap in ["", "trap '' TERM;"] {
        let script = format!("{trap} touch {}; while :; do sleep 0.05; done", begun.display());
        let (q, _db) = with_type(json!({"command": shell(&script), "max_retries": 3})).await;
        let id = q.enqueue("t", json!({})).await.unwrap().id;
        let grace = Duration::from_millis(1500);
        let working = Working::start(&q, worker::WorkerOptions { grace, ..options() });
        exists(&begun).await;
        let asked = Instant::now();
        assert_eq!(working.stop().await.released, 1);
        assert!(asked.elapsed() < grace, "{:?}", asked.elapsed());
        let job = job(&q, id).await;
        assert_eq!((job.status, job.attempts), (Status::Pending, 0));
        std::fs::remove_file(&begun).unwrap();
    }
}

#[tokio::test]
async fn a_job_that_ends_within_the_grace_is_completed_and_no_other_is_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let script = format!("touch {}; until test -e {}; do sleep 0.05; done", begun.display(), go.display());
    let (q, _db) = with_type(json!({"command": shell(&script)})).await;
    let first = q.enqueue("t", json!({})).await.unwrap().id;
    let second = q.enqueue("t", json!({})).await.unwrap().id;
    let grace = Duration::from_secs(60);
    let working = Working::start(&q, worker::WorkerOptions { grace, concurrency: 1, ..options() });
    exists(&begun).await;
    working.shutdown.drain.cancel();
    // At once, before the database has heard of it: the worker itself is to know.
    std::fs::write(&go, "").unwrap();
    assert_eq!(working.ended().await.unwrap().completed, 1);
    assert_eq!(job(&q, first).await.status, Status::Completed);
    assert_eq!(job(&q, second).await.status, Status::Pending);
}

#[tokio::test]
async fn the_second_signal_does_not_wait_for_the_grace() {
    let sleep = unique_sleep();
    let (q, db) = with_type(json!({"command": shell(&format!("trap '' TERM; sleep {sleep}; sleep {sleep}"))})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let mut program = Program::start(&db, &["--grace", "10m"]);
    eventually("the job runs", || async { processes_with(&sleep) == 1 }).await;
    program.signal("-TERM");
    eventually("it drains", || async { db.one::<bool>("SELECT bool_or(draining) FROM rowlock.worker", &[]).await })
        .await;
    assert_eq!(job(&q, id).await.status, Status::Running);
    program.signal("-TERM");
    let mut code = None;
    eventually("it ends", || {
        code = program.0.try_wait().unwrap();
        async move { code.is_some() }
    })
    .await;
    assert!(code.unwrap().success());
    let job = job(&q, id).await;
    assert_eq!((job.status, job.attempts, processes_with(&sleep)), (Status::Pending, 0, 0));
}

#[tokio::test]
async fn an_idle_handler_ends_with_its_worker_and_delays_nothing() {
    let sleep = unique_sleep();
    // It does not mind that its stdin is closed.
    let handler = format!(r#"read -r line; echo '{{"ok": true}}'; while :; do sleep {sleep}; done"#);
    let (q, _db) = with_type(json!({"launch": "resident", "command": shell(&handler)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, options());
    crate::work::ends(&q, id).await;
    let asked = Instant::now();
    working.stop().await;
    assert!(asked.elapsed() < options().grace);
    assert_eq!(processes_with(&sleep), 0);
}

#[tokio::test]
async fn a_worker_marked_in_the_database_ends_its_jobs_claims_no_more_and_waits_to_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let (q, db) =
        with_type(json!({"command": shell(&format!("until test -e {}; do sleep 0.05; done", go.display()))})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, options());
    runs(&q, id).await;
    db.run("UPDATE rowlock.worker SET draining = true").await;
    let other = q.enqueue("t", json!({})).await.unwrap().id;
    std::fs::write(&go, "").unwrap();
    assert_eq!(ends(&q, id).await.status, Status::Completed);
    assert_eq!(working.stop().await.completed, 1);
    assert_eq!(job(&q, other).await.status, Status::Pending);
}
