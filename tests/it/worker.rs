//! The worker and a command per job: what the job sees, and what is kept of it.

use std::time::Duration;

use rowlock::{
    NewJob, Status,
    launch::{self, Kind, LaunchOptions},
    worker,
};
use serde_json::json;

use crate::{
    support::eventually,
    work::{Working, commands, drain, ends, job, options, result, run_one, shell, with_type},
};

#[tokio::test]
async fn a_command_gets_its_payload_and_context_and_its_result_is_kept() {
    let script = r#"
        test "$(cat)" = "$(cat "$ROWLOCK_PAYLOAD_FILE")" || exit 9
        test -z "$DATABASE_URL$ROWLOCK_DATABASE_URL$PGPASSWORD" || exit 8
        printf '{"payload": %s, "id": "%s", "type": "%s", "queue": "%s", "attempt": %s, "lease": "%s", "deadline": "%s", "trace": "%s", "color": "%s"}' \
          "$(cat "$ROWLOCK_PAYLOAD_FILE")" "$ROWLOCK_JOB_ID" "$ROWLOCK_JOB_TYPE" "$ROWLOCK_QUEUE" "$ROWLOCK_ATTEMPT" "$ROWLOCK_LEASE" \
          "$ROWLOCK_DEADLINE" "$TRACEPARENT" "$COLOR" > "$ROWLOCK_RESULT_FILE""#;
    let (q, _db) = with_type(
        json!({"command": shell(script), "env": {"COLOR": "red", "ROWLOCK_ATTEMPT": "7"}, "timeout": "1 minute"}),
    )
    .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let new = q.enqueue("t", json!({"a": "ü\n"})).opts(json!({"headers": {"traceparent": trace}}));
    let id = new.await.unwrap().id;
    drain(&q).await;
    let job = job(&q, id).await;
    let result = result(&job);
    assert_eq!(result["payload"], json!({"a": "ü\n"}));
    assert_eq!(result["id"], json!(job.id));
    assert_eq!(
        (&result["type"], &result["queue"], &result["attempt"], &result["color"], &result["trace"]),
        (&json!("t"), &json!("default"), &json!(0), &json!("red"), &json!(trace))
    );
    let (worker, receipt) = result["lease"].as_str().unwrap().split_once('/').unwrap();
    worker.parse::<uuid::Uuid>().unwrap();
    receipt.parse::<i64>().unwrap();
    let deadline: chrono::DateTime<chrono::Utc> = result["deadline"].as_str().unwrap().parse().unwrap();
    assert!((0..=60).contains(&(deadline - job.started_at.unwrap()).num_seconds()), "{deadline}");
}

#[tokio::test]
async fn without_a_result_file_there_is_no_result() {
    let job = run_one(json!({}), "exit 0", json!({})).await;
    assert_eq!(job.status, Status::Completed, "{:?}", job.error);
    assert!(job.result.is_none());
}

#[tokio::test]
async fn a_failing_command_leaves_its_exit_code_and_the_end_of_its_stderr() {
    let job = run_one(json!({}), "seq 1 9999 >&2; echo the end >&2; exit 3", json!({})).await;
    let error = job.error.unwrap();
    assert_eq!(job.status, Status::Failed);
    assert!(error.starts_with("exit code 3: ") && error.ends_with("the end"), "{error}");
    assert!(error.len() <= 8192);
}

#[tokio::test]
async fn a_large_payload_that_the_command_does_not_read_is_no_error() {
    let job = run_one(json!({}), "exit 0", json!({"a": "x".repeat(500_000)})).await;
    assert_eq!(job.status, Status::Completed, "{:?}", job.error);
}

#[tokio::test]
async fn progress_is_stored_while_the_job_runs_and_its_last_line_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = format!(
        r#"echo '{{"done": 1}}' >> $ROWLOCK_PROGRESS_FILE; until test -e {}; do sleep 0.05; done; echo all done >> $ROWLOCK_PROGRESS_FILE"#,
        go.display()
    );
    let (q, _db) = with_type(json!({"command": shell(&script)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, options());
    eventually("progress is seen", || async { job(&q, id).await.progress == Some(json!({"done": 1})) }).await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(ends(&q, id).await.progress, Some(json!("all done")));
    working.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_drain_five_hundred_jobs_once_each() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    q.enqueue_many(&vec![NewJob::new("t", json!({})); 500]).await.unwrap();
    let (a, b) = tokio::join!(drain(&q), drain(&q));
    assert_eq!(a.completed + b.completed, 500);
    let completed: i64 = db.one("SELECT count(*) FROM rowlock.history", &[]).await;
    assert_eq!(completed, 500);
}

#[tokio::test]
async fn what_jobs_read_and_write_does_not_outlive_them_nor_its_place_the_worker() {
    let (q, _db) =
        with_type(json!({"command": shell(r#"echo "{\"path\": \"$ROWLOCK_PAYLOAD_FILE\"}" > $ROWLOCK_RESULT_FILE"#)}))
            .await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_millis(50), ..options() });
    let path = result(&ends(&q, id).await)["path"].as_str().map(std::path::PathBuf::from).unwrap();
    // Each run has a directory of its own in the worker's.
    let dir = path.parent().and_then(|run| run.parent()).unwrap();
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    working.stop().await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_worker_runs_only_the_launches_it_was_told_to() {
    let (q, _db) = with_type(json!({"launch": "resident", "command": ["true"]})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let options = worker::WorkerOptions { stop_when_empty: true, ..options() };
    let only = LaunchOptions { accept: vec![Kind::Process], ..commands() };
    launch::run(q.clone(), options, only, worker::Shutdown::default()).await.unwrap();
    let error = job(&q, id).await.error.unwrap();
    assert!(error.contains("launch resident is not supported by this worker, only process"), "{error}");
}

#[tokio::test]
async fn a_type_that_was_there_before_its_job_is_never_unknown() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_millis(20), ..options() });
    for n in 0..10 {
        let name = format!("new-{n}");
        crate::work::put_type(&db, json!({"name": name, "command": ["true"]})).await;
        let id = q.enqueue(&name, json!({})).max_retries(0).await.unwrap().id;
        let job = ends(&q, id).await;
        assert_eq!(job.status, rowlock::Status::Completed, "{name}: {:?}", job.error);
    }
    working.stop().await;
}
