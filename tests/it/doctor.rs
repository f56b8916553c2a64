//! `rowlock doctor` is true: for each role, and on each database that is not as it should be.

use std::collections::BTreeMap;

use rowlock::{
    JobQueue,
    local_postgres::{LocalPostgres, Options},
};
use serde_json::Value;

use crate::{
    least_roles::{rowlock, url_as},
    pooler::Pooler,
    support::{Db, connect, database, empty_database, eventually, server},
};

/// The exit code, and each check's state and detail.
type Answer = (i32, BTreeMap<String, (String, String)>);

fn doctor(url: &str) -> Answer {
    let output = rowlock(url, &["doctor", "-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = list.iter().map(|c| (text(&c["check"]), (text(&c["state"]), text(&c["detail"]))));
    (output.status.code().unwrap(), lines.collect())
}

#[track_caller]
fn says(answer: &Answer, check: &str, state: &str, text: &str) {
    let (got, detail) = answer.1.get(check).unwrap_or_else(|| panic!("no {check}: {answer:?}"));
    assert!(got == state && detail.contains(text), "{check}: expected {state} {text:?}, got {got} {detail:?}");
}

#[tokio::test]
async fn each_role_finds_nothing_wrong_on_a_healthy_install() {
    let db = database().await;
    for (role, may) in
        [("enqueuer", "enqueue"), ("worker", "work"), ("reader", "look"), ("admin", "do all but migrate")]
    {
        let answer = doctor(&url_as(&db, &format!("rowlock_{role}")).await);
        assert_eq!(answer.0, 0, "{role}: {answer:?}");
        says(&answer, "privileges", "ok", &format!("least_rowlock_{role} may {may}"));
        says(&answer, "schema", "warn", "all that this release calls");
        says(&answer, "roles", "ok", "4 roles");
        says(&answer, "transactions", "unknown", "pg_read_all_stats");
        assert!(answer.1.values().all(|(_, detail)| !detail.contains("migrate up")), "{answer:?}");
    }
    let superuser = doctor(&db.url);
    assert_eq!(superuser.0, 0);
    says(&superuser, "schema", "ok", "up to date");
    says(&superuser, "privileges", "warn", "superuser");
    says(&superuser, "transactions", "ok", "the oldest is");
}

#[tokio::test]
async fn who_has_no_right_is_told_so() {
    let db = database().await;
    let nobody = doctor(&url_as(&db, "nobody").await);
    assert_eq!(nobody.0, 1);
    says(&nobody, "privileges", "FAIL", "GRANT rowlock_enqueuer (to enqueue)");
    says(&nobody, "schema", "warn", "all that this release calls");
}

#[tokio::test]
async fn missing_grants_are_told_to_member_and_owner() {
    let db = database().await;
    db.run("REVOKE EXECUTE ON FUNCTION rowlock.claim_v1 FROM rowlock_worker").await;
    let worker = url_as(&db, "rowlock_worker").await;
    let answer = doctor(&worker);
    assert_eq!(answer.0, 1);
    says(&answer, "privileges", "FAIL", "rowlock_worker has no right to claim_v1: run rowlock migrate up as rowlock");
    let owner = doctor(&db.url);
    says(&owner, "roles", "warn", "claim_v1: run rowlock migrate up");
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    assert_eq!(doctor(&worker).0, 0);
}

#[tokio::test]
async fn no_schema_and_a_newer_one_are_told_apart() {
    let empty = empty_database().await;
    let answer = doctor(&empty.url);
    assert_eq!(answer.0, 1);
    says(&answer, "schema", "FAIL", "there is none: run rowlock migrate up");
    assert!(!answer.1.contains_key("roles") && !answer.1.contains_key("privileges"), "{answer:?}");
    let newer = database().await;
    newer.run("INSERT INTO rowlock.migration (version, name, checksum) VALUES (9999, '9999_later', 'x')").await;
    let answer = doctor(&newer.url);
    assert_eq!(answer.0, 1);
    says(&answer, "schema", "FAIL", "9999_later is newer than this program");
    assert!(!answer.1["schema"].1.contains("migrate up"), "{answer:?}");
    // Who may not read the versions sees that all which is called is there.
    assert_eq!(doctor(&url_as(&newer, "rowlock_worker").await).0, 0);
}

#[tokio::test]
async fn a_part_of_maintenance_that_fails_is_told_to_whoever_may_look() {
    let db = database().await;
    let (reader, enqueuer) = (url_as(&db, "rowlock_reader").await, url_as(&db, "rowlock_enqueuer").await);
    says(&doctor(&reader), "maintenance", "ok", "ever failed");
    db.run(
        "CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER broken BEFORE DELETE ON rowlock.tally EXECUTE FUNCTION public.broken()",
    )
    .await;
    db.enqueue().await;
    db.keep().await;
    let answer = doctor(&reader);
    assert_eq!(answer.0, 1);
    says(&answer, "maintenance", "FAIL", "fold failed 0 min ago, 1 times in all: broken (SQLSTATE P0001)");
    assert!(!doctor(&enqueuer).1.contains_key("maintenance"), "it may not look");
}

#[tokio::test]
async fn a_restored_dump_without_roles_is_mended_by_what_doctor_says() {
    let postgres = LocalPostgres::start(Options { persist: None, ram: true, ..Options::default() }).await.unwrap();
    let url = postgres.url("postgres");
    let db = Db { client: connect(&url).await, url };
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    let roles = "rowlock_enqueuer, rowlock_worker, rowlock_reader, rowlock_admin";
    db.run(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}")).await;
    let answer = doctor(&db.url);
    says(&answer, "roles", "warn", "0 of 4 roles rowlock_*: run rowlock migrate up");
    assert!(rowlock(&db.url, &["migrate", "up"]).status().unwrap().success());
    says(&doctor(&db.url), "roles", "ok", "4 roles with their grants");
    assert_eq!(doctor(&url_as(&db, "rowlock_worker").await).0, 0);
}

#[tokio::test]
async fn another_encoding_and_a_database_that_only_reads_are_refused_by_name() {
    let admin = connect(&server().url("postgres")).await;
    for sql in [
        "CREATE DATABASE doctor_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "CREATE DATABASE doctor_reads TEMPLATE template0",
        "ALTER DATABASE doctor_reads SET default_transaction_read_only = on",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let answer = doctor(&server().url("doctor_latin1"));
    assert_eq!(answer.0, 1);
    says(&answer, "encoding", "FAIL", "LATIN1: expected UTF8");
    let answer = doctor(&server().url("doctor_reads"));
    assert_eq!(answer.0, 1);
    says(&answer, "primary", "FAIL", "default_transaction_read_only");
}

#[tokio::test]
async fn a_pooler_is_no_fault_in_either_mode() {
    let db = database().await;
    for (mode, says_) in [("transaction", "transaction mode"), ("session", "a session of its own")] {
        let pooler = Pooler::start_in(mode, &db.url);
        let url = pooler.url(&db.url);
        eventually("pgbouncer answers", || async { JobQueue::connect(&url).await.is_ok() }).await;
        let answer = doctor(&url);
        assert_eq!(answer.0, 0, "{mode}: {answer:?}");
        says(&answer, "pooler", "ok", says_);
        says(&answer, "schema", "ok", "up to date");
    }
}
