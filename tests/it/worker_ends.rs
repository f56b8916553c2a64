//! Every way a job ends, each with its own reason.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use rowlock::{JobQueue, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::work::{
    Working, drain, ends, job, options, processes_with, put_type, reason, runs, shell, unique_sleep, with_type,
};

async fn ends_with(mut job_type: Value, payload: Value, want_reason: &str, want: &str) {
    if job_type.get("command").is_none() {
        job_type["command"] = json!(["true"]);
    }
    let (q, db) = with_type(job_type).await;
    let id = q.enqueue("t", payload).await.unwrap().id;
    drain(&q).await;
    let job = job(&q, id).await;
    assert_eq!(job.status, Status::Failed, "{want}");
    assert!(job.error.as_deref().is_some_and(|e| e.contains(want)), "{want}: {:?}", job.error);
    assert_eq!(reason(&db, id).await.as_deref(), Some(want_reason), "{want}");
}

#[tokio::test]
async fn a_command_that_ends_badly() {
    let sh = |script: &str| json!({"command": shell(script)});
    ends_with(sh("exit 3"), json!({}), "exit_code", "exit code 3").await;
    ends_with(sh("kill -9 $$"), json!({}), "signal", "killed by signal 9").await;
    let slow = json!({"command": ["sleep", "60"], "timeout": "200 milliseconds"});
    ends_with(slow, json!({}), "timeout", "timed out after 200ms").await;
}

#[tokio::test]
async fn a_result_that_cannot_be_kept() {
    let sh = |script: &str| json!({"command": shell(script)});
    ends_with(sh("echo no > $ROWLOCK_RESULT_FILE"), json!({}), "invalid_result", "result file: expected JSON").await;
    ends_with(sh("mkfifo $ROWLOCK_RESULT_FILE"), json!({}), "invalid_result", "expected a regular file").await;
    let bytes = r"printf '\377' > $ROWLOCK_RESULT_FILE";
    ends_with(sh(bytes), json!({}), "invalid_utf8", "result file: expected UTF-8").await;
    let large = "head -c 2000000 /dev/zero > $ROWLOCK_RESULT_FILE";
    ends_with(sh(large), json!({}), "output_too_large", "result file: expected at most 1048576 bytes").await;
}

#[tokio::test]
async fn a_payload_that_does_not_fit_its_type_is_refused_with_its_path_and_never_retried() {
    let schema = json!({"properties": {"to": {"items": {"type": "string"}}}});
    let job_type = json!({"payload_schema": schema, "max_retries": 5});
    ends_with(job_type, json!({"to": ["a", 3]}), "invalid_payload", "payload/to/1: does not match").await;
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_named() {
    let gone = json!({"command": ["no-such-program"]});
    ends_with(gone, json!({}), "spawn_failed", "cannot start no-such-program: command not found").await;
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    for (mode, want) in [(0o644, "not executable by this user"), (0o755, "not a program of this machine")] {
        std::fs::write(&text, "no program\n").unwrap();
        std::fs::set_permissions(&text, Permissions::from_mode(mode)).unwrap();
        ends_with(json!({"command": [text]}), json!({}), "spawn_failed", want).await;
    }
    let gone = json!({"command": ["no-such-program"], "launch": "resident"});
    ends_with(gone, json!({}), "spawn_failed", "cannot start no-such-program: command not found").await;
}

#[tokio::test]
async fn a_type_that_nobody_knows_or_can_launch() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    // put_job_type refuses a Pod without an image.
    db.run("UPDATE rowlock.job_type SET launch = 'pod'").await;
    let pod = q.enqueue("t", json!({})).await.unwrap().id;
    let unknown = q.enqueue("unheard", json!({})).max_retries(0).await.unwrap().id;
    put_type(&db, json!({"name": "empty", "command": []})).await;
    let empty = q.enqueue("empty", json!({})).await.unwrap().id;
    drain(&q).await;
    for (id, want) in [(pod, "unsupported_launch"), (unknown, "unknown_type"), (empty, "no_command")] {
        assert_eq!(reason(&db, id).await.as_deref(), Some(want));
    }
}

#[tokio::test]
async fn an_exit_code_that_must_not_be_retried_fails_at_once() {
    let (q, _db) = with_type(json!({"command": shell("exit 78"), "no_retry_exit_codes": [78], "max_retries": 5})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    drain(&q).await;
    let job = job(&q, id).await;
    assert_eq!((job.status, job.attempts), (Status::Failed, 0));
}

#[tokio::test]
async fn a_result_that_postgres_cannot_store_does_not_take_the_others_with_it() {
    let script = r#"cat > $ROWLOCK_RESULT_FILE; grep -q bad $ROWLOCK_RESULT_FILE && printf '"\\u0000"' > $ROWLOCK_RESULT_FILE; exit 0"#;
    let (q, db) = with_type(json!({"command": shell(script)})).await;
    let bad = q.enqueue("t", json!({"a": "bad"})).await.unwrap().id;
    let mut good = Vec::new();
    for n in 0..3 {
        good.push(q.enqueue("t", json!({"n": n})).await.unwrap().id);
    }
    drain(&q).await;
    assert_eq!(reason(&db, bad).await.as_deref(), Some("invalid_result"));
    assert!(job(&q, bad).await.error.unwrap().contains("Postgres cannot store"));
    for id in good {
        assert_eq!(job(&q, id).await.status, Status::Completed);
    }
}

async fn cancelled(q: &JobQueue, id: Uuid) {
    assert_eq!(q.cancel(id).await.unwrap(), Status::Running);
    assert_eq!(ends(q, id).await.status, Status::Cancelled);
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_with_its_children() {
    let sleep = unique_sleep();
    let (q, db) = with_type(json!({"command": shell(&format!("sleep {sleep} & sleep {sleep}"))})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, options());
    runs(&q, id).await;
    cancelled(&q, id).await;
    assert_eq!(processes_with(&sleep), 0);
    assert_eq!(reason(&db, id).await.as_deref(), Some("cancelled"));
    working.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_that_does_not_listen_is_killed_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = dir.path().join("deaf");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 0.1; done", deaf.display());
    let (q, _db) = with_type(json!({"command": shell(&script)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(&q, options());
    crate::work::exists(&deaf).await;
    cancelled(&q, id).await;
    working.stop().await;
}
