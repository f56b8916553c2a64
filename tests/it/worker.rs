//! The worker: real commands, every way they end.

use std::time::Duration;

use rowlock::{JobQueue, NewJob, Status, worker};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Db, database, eventually};

async fn with_type(mut job_type: Value) -> (JobQueue, Db) {
    let db = database().await;
    if job_type.get("name").is_none() {
        job_type["name"] = json!("t");
    }
    db.client.execute("SELECT rowlock.put_job_type($1)", &[&job_type]).await.unwrap();
    (JobQueue::connect(&db.url).await.unwrap(), db)
}

fn options() -> worker::WorkerOptions {
    worker::WorkerOptions {
        stop_when_empty: true,
        concurrency: 4,
        lease: Duration::from_secs(5),
        grace: Duration::from_secs(2),
        ..Default::default()
    }
}

async fn drain(q: &JobQueue) -> worker::WorkerSummary {
    worker::run(q.clone(), options(), CancellationToken::new()).await.unwrap()
}

/// Runs one job of a shell command to its end.
async fn run_one(mut job_type: Value, script: &str, payload: Value) -> rowlock::Job {
    job_type["command"] = json!(["sh", "-c", script]);
    if job_type.get("max_retries").is_none() {
        job_type["max_retries"] = json!(0);
    }
    let (q, _db) = with_type(job_type).await;
    let id = q.enqueue("t", payload).await.unwrap().id;
    drain(&q).await;
    q.get_job(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_command_gets_its_payload_and_context_and_its_result_is_kept() {
    let script = r#"
        test "$(cat)" = "$(cat "$ROWLOCK_PAYLOAD_FILE")" || exit 9
        test -z "$DATABASE_URL$ROWLOCK_DATABASE_URL" || exit 8
        printf '{"payload": %s, "id": "%s", "type": "%s", "queue": "%s", "attempt": %s, "lease": "%s", "color": "%s"}' \
          "$(cat "$ROWLOCK_PAYLOAD_FILE")" "$ROWLOCK_JOB_ID" "$ROWLOCK_JOB_TYPE" "$ROWLOCK_QUEUE" "$ROWLOCK_ATTEMPT" "$ROWLOCK_LEASE" "$COLOR" > "$ROWLOCK_RESULT_FILE""#;
    let job = run_one(json!({"env": {"COLOR": "red"}}), script, json!({"a": "ü\n"})).await;
    assert_eq!(job.status, Status::Completed, "{:?}", job.error);
    let result: Value = serde_json::from_str(job.result.unwrap().get()).unwrap();
    assert_eq!(result["payload"], json!({"a": "ü\n"}));
    assert_eq!(result["id"], json!(job.id));
    assert_eq!(
        (&result["type"], &result["queue"], &result["attempt"], &result["color"]),
        (&json!("t"), &json!("default"), &json!(0), &json!("red"))
    );
    assert!(result["lease"].as_str().unwrap().len() > 36);
}

#[tokio::test]
async fn a_failing_command_leaves_its_exit_code_and_the_end_of_its_stderr() {
    let job = run_one(json!({}), "seq 1 9999 >&2; echo the end >&2; exit 3", json!({})).await;
    let error = job.error.unwrap();
    assert_eq!(job.status, Status::Failed);
    assert!(error.starts_with("exit code 3: ") && error.ends_with("the end"), "{error}");
    assert!(error.len() <= 8192 + 20);
}

#[tokio::test]
async fn a_large_payload_that_the_command_does_not_read_is_no_error() {
    let job = run_one(json!({}), "exit 0", json!({"a": "x".repeat(500_000)})).await;
    assert_eq!(job.status, Status::Completed, "{:?}", job.error);
}

#[tokio::test]
async fn each_bad_end_has_its_own_error() {
    for (job_type, script, want) in [
        (json!({"timeout": "200 milliseconds"}), "sleep 20", "timed out"),
        (json!({}), "kill -9 $$", "killed by signal 9"),
        (json!({}), "echo no >$ROWLOCK_RESULT_FILE", "result file: expected JSON"),
        (json!({}), "printf '\\377' >$ROWLOCK_RESULT_FILE", "result file: expected UTF-8"),
        (json!({}), "head -c 2000000 /dev/zero >$ROWLOCK_RESULT_FILE", "result file: expected at most"),
        (json!({"payload_schema": {"required": ["to"]}}), "exit 0", "does not match the type's schema"),
        (json!({"launch": "resident"}), "exit 0", "launch resident is not supported"),
    ] {
        let job = run_one(job_type, script, json!({})).await;
        assert_eq!(job.status, Status::Failed, "{want}");
        assert!(job.error.as_deref().is_some_and(|e| e.contains(want)), "{want}: {:?}", job.error);
    }
}

#[tokio::test]
async fn an_exit_code_that_must_not_be_retried_fails_at_once() {
    let job = run_one(json!({"no_retry_exit_codes": [78], "max_retries": 5}), "exit 78", json!({})).await;
    assert_eq!((job.status, job.attempts), (Status::Failed, 0));
}

#[tokio::test]
async fn a_command_that_does_not_exist_and_an_unknown_type_say_so() {
    let (q, _db) = with_type(json!({"command": ["/no/such/program"], "max_retries": 0})).await;
    let gone = q.enqueue("t", json!({})).await.unwrap().id;
    let unknown = q.enqueue("unheard", json!({})).max_retries(0).await.unwrap().id;
    drain(&q).await;
    for (id, want) in [(gone, "cannot start /no/such/program"), (unknown, "unknown job type unheard")] {
        let error = q.get_job(id).await.unwrap().unwrap().error.unwrap();
        assert!(error.contains(want), "{error}");
    }
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_with_its_children() {
    let (q, _db) = with_type(json!({"command": ["sh", "-c", "sleep 98.7 & sleep 98.7"]})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let stop = CancellationToken::new();
    let task = tokio::spawn(worker::run(
        q.clone(),
        worker::WorkerOptions { stop_when_empty: false, ..options() },
        stop.clone(),
    ));
    eventually("the job runs", || async { q.get_job(id).await.unwrap().unwrap().status == Status::Running }).await;
    assert_eq!(q.cancel(id).await.unwrap(), Status::Running);
    eventually("it is cancelled", || async { q.get_job(id).await.unwrap().unwrap().status == Status::Cancelled }).await;
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_told_to_stop_hands_unfinished_jobs_back_without_an_attempt() {
    let (q, _db) = with_type(json!({"command": ["sleep", "60"]})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let stop = CancellationToken::new();
    let quick = worker::WorkerOptions { stop_when_empty: false, grace: Duration::from_millis(300), ..options() };
    let task = tokio::spawn(worker::run(q.clone(), quick, stop.clone()));
    eventually("the job runs", || async { q.get_job(id).await.unwrap().unwrap().status == Status::Running }).await;
    stop.cancel();
    let summary = tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
    assert_eq!(summary.released, 1);
    let job = q.get_job(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempts), (Status::Pending, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_drain_five_hundred_jobs_once_each() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    q.enqueue_many(&vec![NewJob::new("t", json!({})); 500]).await.unwrap();
    let (a, b) = tokio::join!(drain(&q), drain(&q));
    assert_eq!(a.completed + b.completed, 500);
    let completed: i64 = db.client.query_one("SELECT count(*) FROM rowlock.history", &[]).await.unwrap().get(0);
    assert_eq!(completed, 500);
}

#[tokio::test]
async fn a_worker_whose_lease_ends_under_it_kills_its_jobs_and_says_so() {
    let marker = format!("{}", 90 + std::process::id() % 9) + ".71";
    let (q, db) = with_type(json!({"command": ["sh", "-c", format!("sleep {marker} & sleep {marker}")]})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let task = tokio::spawn(worker::run(
        q.clone(),
        worker::WorkerOptions { stop_when_empty: false, ..options() },
        CancellationToken::new(),
    ));
    eventually("the job runs", || async { q.get_job(id).await.unwrap().unwrap().status == Status::Running }).await;
    db.run("UPDATE rowlock.worker SET lease_until = '-infinity'").await;
    let ended = tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(rowlock::Error::LeaseLost(_))));
    let alive = std::fs::read_dir("/proc").unwrap().flatten().filter(|e| {
        let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        line == format!("sleep\0{marker}\0").as_bytes()
    });
    assert_eq!(alive.count(), 0, "a child outlived its lease");
}
