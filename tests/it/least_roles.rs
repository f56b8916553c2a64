//! Each command works with the least role that the documentation names for it, and says which role is missing.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::{
    binary::program,
    support::{Db, database, eventually},
    work::{put_type, shell},
};

/// The database of a test as a user who is a member of nothing but this role.
pub async fn url_as(db: &Db, role: &str) -> String {
    let user = format!("least_{role}");
    db.run(&format!(
        "DO $$ BEGIN CREATE ROLE {user} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    ))
    .await;
    if role.starts_with("rowlock_") {
        db.run(&format!("GRANT {role} TO {user}")).await;
    }
    db.url.replace("rowlock@", &format!("{user}@"))
}

pub fn rowlock(url: &str, args: &[&str]) -> Command {
    let mut command = program();
    command.args(args).env_clear().env("DATABASE_URL", url).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn run(url: &str, args: &[&str]) -> (i32, String) {
    said(&rowlock(url, args).output().unwrap())
}

#[tokio::test]
async fn an_enqueuer_waits_for_its_job_and_a_worker_works_it() {
    let db = database().await;
    put_type(&db, json!({"command": shell("echo '{\"n\": 12345678901234567890}' > \"$ROWLOCK_RESULT_FILE\"")})).await;
    let (enqueuer, worker) = (url_as(&db, "rowlock_enqueuer").await, url_as(&db, "rowlock_worker").await);
    let waiting = ["enqueue", "t", "--wait", "--wait-timeout", "25s", "-o", "json"];
    let waits = rowlock(&enqueuer, &waiting).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it is enqueued", || async { db.one::<i64>("SELECT count(*) FROM rowlock.jobs", &[]).await == 1 }).await;
    assert_eq!(run(&worker, &["worker", "--stop-when-empty"]).0, 0);
    let output = waits.wait_with_output().unwrap();
    assert_eq!(said(&output), (0, String::new()));
    let text = String::from_utf8(output.stdout).unwrap();
    let job: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(job["status"], "completed");
    assert!(text.contains("12345678901234567890"), "{text}");
    let again = ["enqueue", "t", "--delay", "1h", "--wait", "--wait-timeout", "1s"];
    assert_eq!(run(&enqueuer, &again).0, 124);
}

#[tokio::test]
async fn who_may_enqueue_but_not_see_learns_the_id_all_the_same() {
    let db = database().await;
    let url = url_as(&db, "old_enqueuer").await;
    db.run("GRANT USAGE ON SCHEMA rowlock TO least_old_enqueuer").await;
    db.run("GRANT EXECUTE ON FUNCTION rowlock.enqueue TO least_old_enqueuer").await;
    let output = rowlock(&url, &["enqueue", "t", "--wait", "-o", "json"]).output().unwrap();
    let (code, text) = said(&output);
    let new: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = new["id"].as_str().unwrap();
    assert!(code == 1 && text.contains(&format!("job {id} is enqueued")), "{code} {text}");
    assert!(text.contains("GRANT rowlock_enqueuer"), "{text}");
}

#[tokio::test]
async fn a_reader_lists_everything_that_has_a_view() {
    let db = database().await;
    let admin = url_as(&db, "rowlock_admin").await;
    let schedule = "SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"every\": \"1 hour\", \"payload\": {\"a\": 1}}')";
    db.client.query(schedule, &[]).await.unwrap();
    assert_eq!(run(&admin, &["enqueue", "t"]).0, 0);
    let reader = url_as(&db, "rowlock_reader").await;
    let id: uuid::Uuid = db.one("SELECT id FROM rowlock.jobs", &[]).await;
    let get = ["jobs", "get", &id.to_string()].map(str::to_owned);
    let get: Vec<&str> = get.iter().map(String::as_str).collect();
    for list in
        [&["queues", "list"][..], &["types", "list"], &["schedules", "list"], &["workers"], &["jobs", "list"], &get]
    {
        assert_eq!(run(&reader, list), (0, String::new()), "{list:?}");
    }
    let output = rowlock(&reader, &["schedules", "list", "-o", "json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["payload"]), (&json!("s"), &Value::Null), "a reader sees no payload");
    let output = rowlock(&admin, &["schedules", "list", "-o", "json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list[0]["payload"], json!({"a": 1}));
}

#[tokio::test]
async fn a_missing_right_is_told_with_the_least_role_that_has_it() {
    let db = database().await;
    let nobody = url_as(&db, "nobody").await;
    let id = "00000000-0000-7000-8000-000000000000";
    for (args, role) in [
        (&["enqueue", "t"][..], "rowlock_enqueuer"),
        (&["worker", "--stop-when-empty"], "rowlock_worker"),
        (&["queues", "list"], "rowlock_reader"),
        (&["types", "list"], "rowlock_reader"),
        (&["schedules", "list"], "rowlock_reader"),
        (&["workers"], "rowlock_reader"),
        (&["explain", "x"], "rowlock_reader"),
        (&["jobs", "list"], "rowlock_reader"),
        (&["jobs", "get", id], "rowlock_reader"),
        (&["jobs", "cancel", id], "rowlock_admin"),
        (&["jobs", "retry", id], "rowlock_admin"),
        (&["queues", "pause", "default"], "rowlock_admin"),
        (&["schedules", "run", "x"], "rowlock_admin"),
    ] {
        let (code, text) = run(&nobody, args);
        assert!(code == 1 && text.contains(&format!("GRANT {role} TO \"least_nobody\"")), "{args:?}: {code} {text}");
    }
    let (code, text) = run(&nobody, &["migrate", "up"]);
    assert!(code == 1 && text.contains("rowlock, who owns the schema") && !text.contains("GRANT"), "{text}");
}

#[tokio::test]
async fn a_member_without_grants_is_sent_to_the_owner_and_not_to_a_role() {
    let db = database().await;
    let enqueuer = url_as(&db, "rowlock_enqueuer").await;
    db.run("REVOKE EXECUTE ON FUNCTION rowlock.enqueue FROM rowlock_enqueuer").await;
    let (code, text) = run(&enqueuer, &["enqueue", "t"]);
    assert!(code == 1 && text.contains("run rowlock migrate up as rowlock") && !text.contains("GRANT"), "{text}");
    assert_eq!(run(&db.url, &["migrate", "up"]).0, 0);
    assert_eq!(run(&enqueuer, &["enqueue", "t"]), (0, String::new()));
}

#[tokio::test]
async fn a_queue_that_nobody_knows_is_neither_paused_nor_made() {
    let db = database().await;
    let admin = url_as(&db, "rowlock_admin").await;
    for act in ["pause", "resume"] {
        let (code, text) = run(&admin, &["queues", act, "mialx"]);
        assert!(code == 3 && text.contains("no queue mialx"), "{code} {text}");
    }
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.queues WHERE queue = 'mialx'", &[]).await, 0);
    assert_eq!(run(&admin, &["enqueue", "t", "--queue", "mail"]).0, 0);
    assert_eq!(run(&admin, &["queues", "pause", "mail"]).0, 0);
    assert!(db.one::<bool>("SELECT paused FROM rowlock.queues WHERE queue = 'mail'", &[]).await);
}
