//! Handlers that stay: one per slot, line by line.

use std::{collections::HashSet, time::Duration};

use rowlock::{JobQueue, NewJob, Status, worker};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    support::{Db, eventually},
    work::{
        Working, commands, drain, ends, exists, job, options, processes_with, put_type, result, runs, shell, with_type,
    },
};

/// A handler in sh: runs `body` for each job, whose line is `$line`.
fn handler(body: &str) -> Value {
    json!({"launch": "resident", "command": shell(&format!("while read -r line; do {body}\ndone"))})
}

fn one_slot() -> worker::WorkerOptions {
    worker::WorkerOptions { concurrency: 1, poll: Duration::from_millis(50), ..options() }
}

async fn enqueue(q: &JobQueue, payload: Value) -> Uuid {
    q.enqueue("t", payload).await.unwrap().id
}

async fn reason(db: &Db, id: Uuid) -> Option<String> {
    db.one("SELECT reason FROM rowlock.history WHERE id = $1", &[&id]).await
}

const PID: &str = r#"echo "{\"ok\": true, \"result\": $$}""#;

#[tokio::test]
async fn a_hundred_jobs_are_run_by_one_handler_a_slot() {
    let (q, _db) = with_type(handler(PID)).await;
    let jobs = q.enqueue_many(&vec![NewJob::new("t", json!({})); 100]).await.unwrap();
    assert_eq!(drain(&q).await.completed, 100);
    let mut pids = HashSet::new();
    for job_of in jobs {
        pids.insert(result(&job(&q, job_of.id).await).as_u64().unwrap());
    }
    assert!(pids.len() <= options().concurrency, "{pids:?}");
}

#[tokio::test]
async fn the_line_has_the_job_and_its_context() {
    let (q, _db) = with_type(handler(r#"printf '{"ok": true, "result": %s}\n' "$line""#)).await;
    let id = enqueue(&q, json!({"a": "ü\n\"", "n": 1.5})).await;
    drain(&q).await;
    let line = result(&job(&q, id).await);
    assert_eq!(line["payload"], json!({"a": "ü\n\"", "n": 1.5}));
    assert_eq!((&line["job_id"], &line["type"], &line["queue"]), (&json!(id), &json!("t"), &json!("default")));
    assert_eq!((&line["attempt"], &line["deadline"], &line["traceparent"]), (&json!(0), &json!(null), &json!(null)));
    assert_eq!(line["lease"].as_str().unwrap().matches('/').count(), 1);
}

#[tokio::test]
async fn what_cannot_be_understood_fails_the_job_and_the_next_has_a_new_handler() {
    for (bad, want) in [
        ("echo hello", "invalid_result"),
        (r#"echo "{\"okay\": 1}""#, "invalid_result"),
        (r#"printf '{"ok": true, "result": "\377"}\n'"#, "invalid_utf8"),
        ("head -c 3000000 /dev/zero | tr '\\0' a", "output_too_large"),
        ("echo last words >&2; exit 4", "exit_code"),
        ("kill -9 $$", "signal"),
        ("exec >&-; sleep 60", "invalid_result"),
    ] {
        let (q, db) = with_type(handler(&format!("case $line in *bad*) {bad};; *) {PID};; esac"))).await;
        let working = Working::start(&q, one_slot());
        let before = result(&ends(&q, enqueue(&q, json!({})).await).await);
        let id = enqueue(&q, json!({"bad": true})).await;
        let failed = ends(&q, id).await;
        assert_eq!(failed.status, Status::Failed, "{bad}");
        assert_eq!(reason(&db, id).await.as_deref(), Some(want), "{bad}: {:?}", failed.error);
        if bad.contains("last words") {
            assert!(failed.error.unwrap().ends_with("exit code 4: last words"));
        }
        let after = result(&ends(&q, enqueue(&q, json!({})).await).await);
        assert_ne!(before, after, "{bad}");
        working.stop().await;
    }
}

#[tokio::test]
async fn a_handler_says_that_a_job_failed_and_whether_to_try_again() {
    let body = r#"case $line in *final*) retry=false;; *) retry=true;; esac; echo "{\"ok\": false, \"error\": \"no luck\", \"retry\": $retry}""#;
    let mut job_type = handler(body);
    job_type["max_retries"] = json!(5);
    let (q, _db) = with_type(job_type).await;
    let (last, again) = (enqueue(&q, json!({"final": 1})).await, enqueue(&q, json!({})).await);
    let summary = drain(&q).await;
    assert!(summary.retried >= 1 && summary.failed == 1, "{summary:?}");
    let (last, again) = (job(&q, last).await, job(&q, again).await);
    assert_eq!((last.status, last.error.as_deref()), (Status::Failed, Some("no luck")));
    assert_eq!((again.status, again.error.as_deref()), (Status::Pending, Some("no luck")));
}

#[tokio::test]
async fn a_second_answer_is_not_taken_for_the_next_job() {
    let body = r#"case $line in *twice*) echo '{"ok": true, "result": 1}
{"ok": true, "result": 2}';; *) echo '{"ok": true, "result": 3}';; esac"#;
    let (q, _db) = with_type(handler(body)).await;
    let twice = enqueue(&q, json!({"twice": true})).await;
    let working = Working::start(&q, one_slot());
    assert_eq!(result(&ends(&q, twice).await), json!(1));
    let next = enqueue(&q, json!({})).await;
    assert_eq!(result(&ends(&q, next).await), json!(3));
    working.stop().await;
}

#[tokio::test]
async fn progress_lines_are_stored_and_a_flood_of_them_is_bounded() {
    let body =
        r#"yes '{"progress": "again"}' | head -n 20000; echo '{"progress": {"last": true}}'; echo '{"ok": true}'"#;
    let (q, _db) = with_type(handler(body)).await;
    let id = enqueue(&q, json!({})).await;
    drain(&q).await;
    let job = job(&q, id).await;
    assert_eq!((job.status, job.progress), (Status::Completed, Some(json!({"last": true}))));
}

#[tokio::test]
async fn a_handler_that_hears_a_cancel_line_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    // Reads on while it works: the next line is the cancellation.
    let body = format!(
        r#"case $line in *slow*) touch {}; read -r cancel; echo "{{\"ok\": false, \"error\": \"stopped\"}}";; *) {PID};; esac"#,
        begun.display()
    );
    let (q, _db) = with_type(handler(&body)).await;
    let working = Working::start(&q, one_slot());
    let before = result(&ends(&q, enqueue(&q, json!({})).await).await);
    let slow = enqueue(&q, json!({"slow": 1})).await;
    exists(&begun).await;
    q.cancel(slow).await.unwrap();
    assert_eq!(ends(&q, slow).await.status, Status::Cancelled);
    assert_eq!(result(&ends(&q, enqueue(&q, json!({})).await).await), before);
    working.stop().await;
}

#[tokio::test]
async fn a_handler_that_does_not_listen_is_ended_on_cancel_and_on_timeout() {
    let mut job_type = handler(&format!("case $line in *slow*) sleep 60;; *) {PID};; esac"));
    let (q, db) = with_type(job_type.clone()).await;
    let quick = worker::WorkerOptions { grace: Duration::from_millis(400), ..one_slot() };
    let working = Working::start(&q, quick);
    let slow = enqueue(&q, json!({"slow": 1})).await;
    runs(&q, slow).await;
    q.cancel(slow).await.unwrap();
    assert_eq!(ends(&q, slow).await.status, Status::Cancelled);
    job_type["timeout"] = json!("100 milliseconds");
    put_type(&db, job_type).await;
    let late = q.enqueue("t", json!({"slow": 1})).opts(json!({"timeout_seconds": 0.1})).await.unwrap().id;
    assert!(ends(&q, late).await.error.unwrap().contains("timed out"));
    assert_eq!(ends(&q, enqueue(&q, json!({})).await).await.status, Status::Completed);
    working.stop().await;
}

#[tokio::test]
async fn a_handler_that_retires_between_jobs_costs_no_attempt() {
    let (q, _db) = with_type(handler(&format!("{PID}; exit 0"))).await;
    let jobs = q.enqueue_many(&vec![NewJob::new("t", json!({})); 20]).await.unwrap();
    assert_eq!(drain(&q).await.completed, 20);
    let mut pids = HashSet::new();
    for job_of in jobs {
        pids.insert(result(&job(&q, job_of.id).await).as_u64().unwrap());
    }
    assert_eq!(pids.len(), 20);
}

#[tokio::test]
async fn a_handler_that_dies_at_its_start_is_started_ever_more_rarely() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let mut job_type = json!({"launch": "resident"});
    job_type["command"] = shell(&format!("date +%s%N >> {}; exit 1", starts.display()));
    let (q, _db) = with_type(job_type).await;
    q.enqueue_many(&vec![NewJob::new("t", json!({})); 4]).await.unwrap();
    let options = worker::WorkerOptions { stop_when_empty: true, ..one_slot() };
    let summary = rowlock::launch::run(q.clone(), options, commands(), worker::Shutdown::default()).await.unwrap();
    assert_eq!(summary.failed, 4);
    let times = std::fs::read_to_string(&starts).unwrap();
    let times: Vec<u64> = times.lines().map(|t| t.parse().unwrap()).collect();
    for (pair, least) in times.windows(2).zip([200_u64, 400, 800]) {
        assert!(pair[1] - pair[0] >= (least - 20) * 1_000_000, "{times:?}");
    }
}

#[tokio::test]
async fn handlers_of_two_types_share_a_slot_one_at_a_time_and_end_with_the_worker() {
    let (q, db) = with_type(json!({"name": "a", "launch": "resident", "command": ["sh", "-c", format!("while read -r line; do {PID}; done"), "of-type-a-x1"]})).await;
    put_type(&db, json!({"name": "b", "launch": "resident", "command": ["sh", "-c", format!("while read -r line; do {PID}; done"), "of-type-b-x1"]})).await;
    let working = Working::start(&q, one_slot());
    for (name, other) in [("a", "b"), ("b", "a"), ("a", "b")] {
        let id = q.enqueue(name, json!({})).await.unwrap().id;
        assert_eq!(ends(&q, id).await.status, Status::Completed);
        let count = |name: &str| processes_with(&format!("of-type-{name}-x1"));
        assert_eq!((count(name), count(other)), (1, 0));
    }
    working.stop().await;
    assert_eq!(processes_with("of-type-a-x1"), 0);
}

#[tokio::test]
async fn a_command_given_to_a_type_anew_replaces_its_handler() {
    let (q, db) = with_type(handler(r#"echo '{"ok": true, "result": "old"}'"#)).await;
    let working = Working::start(&q, one_slot());
    assert_eq!(result(&ends(&q, enqueue(&q, json!({})).await).await), json!("old"));
    put_type(&db, handler(r#"echo '{"ok": true, "result": "new"}'"#)).await;
    eventually("the new command runs", || async {
        result(&ends(&q, enqueue(&q, json!({})).await).await) == json!("new")
    })
    .await;
    working.stop().await;
}
