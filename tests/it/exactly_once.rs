//! A job that completes itself in the transaction of its effects, killed at every turn.

use std::{path::Path, time::Duration};

use rowlock::{Status, worker};
use serde_json::json;

use crate::{
    support::{Db, eventually},
    work::{Program, Working, drain, ends, exists, job, options, put_type, result, with_type},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/exactly-once/transfer.sh");

/// The example's type, with a turn of the test's before the script or after it.
async fn transfer(db: &Db, before: &str, after: &str) {
    let command = json!(["sh", "-c", format!("{before}\nsh {SCRIPT} < $ROWLOCK_PAYLOAD_FILE || exit $?\n{after}")]);
    put_type(db, json!({"command": command, "env": {"DATABASE_URL": db.url}, "max_retries": 3})).await;
}

async fn bank() -> (rowlock::JobQueue, Db) {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let accounts = Path::new(SCRIPT).with_file_name("accounts.sql");
    db.run(&std::fs::read_to_string(accounts).unwrap()).await;
    (q, db)
}

async fn bob_has(db: &Db) -> String {
    db.one("SELECT balance::text FROM account WHERE name = 'bob'", &[]).await
}

#[tokio::test]
async fn a_job_and_its_effects_end_together() {
    let (q, db) = bank().await;
    transfer(&db, "", "").await;
    let id = q.enqueue("t", json!({"from": "alice", "to": "bob", "amount": 30})).await.unwrap().id;
    drain(&q).await;
    let job = job(&q, id).await;
    assert_eq!((job.status, result(&job)), (Status::Completed, json!({"moved": 30})));
    assert_eq!(bob_has(&db).await, "30");
}

#[tokio::test]
async fn a_worker_killed_between_the_commit_and_its_own_word_does_not_run_the_job_again() {
    let dir = tempfile::tempdir().unwrap();
    let committed = dir.path().join("committed");
    let (q, db) = bank().await;
    transfer(&db, "", &format!("touch {}; sleep 60", committed.display())).await;
    let id = q.enqueue("t", json!({"from": "alice", "to": "bob", "amount": 30})).await.unwrap().id;
    let worker = Program::start(&db, &["--lease", "1s"]);
    exists(&committed).await;
    worker.signal("-KILL");
    std::fs::remove_file(&committed).unwrap();
    // Another works until the lost one's lease is over and nothing is left of it.
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_millis(50), ..options() });
    eventually("the lost worker is swept up", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.worker", &[]).await == 1
    })
    .await;
    working.stop().await;
    assert_eq!(job(&q, id).await.status, Status::Completed);
    assert!(!committed.exists(), "it ran again");
    assert_eq!(bob_has(&db).await, "30");
}

#[tokio::test]
async fn a_run_that_lost_its_lease_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let said = dir.path().join("said");
    let (q, db) = bank().await;
    let payload = dir.path().join("payload");
    // Out of reach of worker and guardian: nothing but the fence can stop it.
    let wait = format!(
        "test -e {begun} || {{ cp $ROWLOCK_PAYLOAD_FILE {payload}; env -u ROWLOCK_WORKER_ID setsid sh -c \
         'touch {begun}; until test -e {go}; do sleep 0.05; done; ROWLOCK_PAYLOAD_FILE={payload} sh {SCRIPT} >&2; \
         echo $? > {go}' 2> {said} & sleep 60; }}",
        begun = begun.display(),
        go = go.display(),
        payload = payload.display(),
        said = said.display()
    );
    transfer(&db, &wait, "").await;
    let id = q.enqueue("t", json!({"from": "alice", "to": "bob", "amount": 30})).await.unwrap().id;
    let working = Working::start(&q, worker::WorkerOptions { lease: Duration::from_secs(2), ..options() });
    exists(&begun).await;
    db.run("UPDATE rowlock.worker SET lease_until = '-infinity'").await;
    // The next life of the worker runs it again, and well.
    assert_eq!(ends(&q, id).await.status, Status::Completed);
    assert_eq!(bob_has(&db).await, "30");
    std::fs::write(&go, "").unwrap();
    eventually("the late run has ended", || async {
        std::fs::read_to_string(&go).is_ok_and(|code| !code.trim().is_empty())
    })
    .await;
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(said.contains("lease lost: nothing was moved"), "{said}");
    assert_eq!(bob_has(&db).await, "30");
    working.stop().await;
}
