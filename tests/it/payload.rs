//! A payload on its way to jsonb: every digit arrives, and what jsonb cannot hold is refused by name.

use std::collections::HashMap;

use rowlock::{Error, Field, Job, JobQueue, NewJob, TypedJob};
use serde_json::{json, value::RawValue};

use crate::support::{Db, database};

const LONG: &str = "123456789012345678901234567890";
const FINE: &str = "0.1234567890123456789012345678901";

fn text(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).unwrap()
}

fn long() -> String {
    format!(r#"{{"n": {LONG}, "f": {FINE}}}"#)
}

/// Asserts that so many jobs are there, each with all its digits, and takes them away.
async fn assert_exact(db: &Db, jobs: i64, how: &str) {
    let sql = "SELECT count(*) FROM rowlock.jobs
                WHERE jsonb_typeof(payload->'n') = 'number' AND payload->>'n' = $1 AND payload->>'f' = $2";
    assert_eq!(db.one::<i64>(sql, &[&LONG, &FINE]).await, jobs, "{how}");
    db.run("DELETE FROM rowlock.ready").await;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Pay {
    n: u128,
    f: Box<RawValue>,
}

impl TypedJob for Pay {
    const NAME: &'static str = "pay";
    type Output = ();
    type Error = String;
    async fn run(self, _job: &Job) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn every_digit_arrives_by_each_way_of_the_rust_api() {
    let mut db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    q.enqueue("a", text(&long())).await.unwrap();
    assert_exact(&db, 1, "enqueue").await;
    q.enqueue_typed(&Pay { n: LONG.parse().unwrap(), f: text(FINE) }).await.unwrap();
    assert_exact(&db, 1, "enqueue_typed").await;

    let jobs = [NewJob::new("a", text(&long())), NewJob::new("b", text(&long())).priority(7)];
    q.enqueue_many(&jobs).await.unwrap();
    assert_exact(&db, 2, "enqueue_many").await;
    let tx = db.client.transaction().await.unwrap();
    q.enqueue_many_in(&tx, &jobs).await.unwrap();
    q.enqueue_in(&tx, &jobs[0]).await.unwrap();
    tx.commit().await.unwrap();
    assert_exact(&db, 3, "in a transaction").await;

    // An enqueuer's batch goes another way.
    db.run("DO $$ BEGIN CREATE ROLE payload_enqueuer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT rowlock_enqueuer TO payload_enqueuer").await;
    let enqueuer = JobQueue::connect(&db.url.replace("rowlock@", "payload_enqueuer@")).await.unwrap();
    enqueuer.enqueue_many(&jobs).await.unwrap();
    assert_exact(&db, 2, "enqueue_many of an enqueuer").await;
}

#[tokio::test]
async fn every_digit_comes_back() {
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let id = q.enqueue("a", text(&long())).await.unwrap().id;
    let job = q.dequeue().await.unwrap().unwrap();
    assert!(job.payload.get().contains(LONG) && job.payload.get().contains(FINE), "{}", job.payload.get());
    q.complete_with(id, Some(text(&long()))).await.unwrap();
    let result = q.get_job(id).await.unwrap().unwrap().result.unwrap();
    assert!(result.get().contains(LONG) && result.get().contains(FINE), "{}", result.get());
}

/// Payloads that jsonb does not take, with the codes that say so.
fn refused() -> [(String, &'static [&'static str]); 4] {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    [
        (r#"{"secret": "\u0000"}"#.into(), &["22P05"]),
        (r#"{"secret": "\ud800"}"#.into(), &["22P02"]),
        (r#"{"secret": 1e200000}"#.into(), &["22003"]),
        (deep, &["RL002", "54001"]),
    ]
}

#[tokio::test]
async fn what_jsonb_cannot_hold_is_refused_as_the_payload_and_stores_nothing() {
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    for (payload, codes) in refused() {
        let jobs = [NewJob::new("a", json!({})), NewJob::new("a", text(&payload))];
        for error in [q.enqueue_job(&jobs[1]).await.unwrap_err(), q.enqueue_many(&jobs).await.unwrap_err()] {
            assert!(codes.contains(&error.code().unwrap()), "{error}");
            assert!(matches!(error, Error::Refused { field: Field::Payload, .. }), "{error:?}");
            let said = error.to_string();
            assert!(said.contains("payload: expected") && !said.contains("secret") && said.len() < 300, "{said}");
        }
    }
    // Nor is a NUL in opts blamed on the payload alone.
    let job = NewJob::new("a", json!({})).opts(json!({"tags": ["\0"]}));
    let error = q.enqueue_job(&job).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { message, .. } if message.starts_with("payload or opts:")), "{error}");
    assert!(q.list_jobs(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_value_without_a_json_form_is_refused_when_it_is_enqueued() {
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let job = NewJob::new("a", HashMap::from([((1, 2), 3)]));
    for error in [q.enqueue_job(&job).await.unwrap_err(), q.enqueue_many(std::slice::from_ref(&job)).await.unwrap_err()]
    {
        assert!(matches!(error, Error::Json { what: "payload", .. }), "{error:?}");
        assert_eq!(error.to_string(), "payload is not valid: key must be a string");
    }
    assert!(q.list_jobs(None, 10).await.unwrap().is_empty());
}

#[cfg(feature = "cli")]
mod from_the_command_line {
    use std::{
        io::Write,
        process::{Output, Stdio},
    };

    use super::{FINE, LONG, assert_exact, long, refused};
    use crate::{binary::program, support::database};

    fn rowlock(url: &str, args: &[&str], stdin: &str) -> Output {
        let mut command = program();
        command.args(args).env_clear().env("DATABASE_URL", url);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[tokio::test]
    async fn every_digit_arrives_and_is_shown() {
        let db = database().await;
        assert!(rowlock(&db.url, &["enqueue", "t", &long()], "").status.success());
        assert_exact(&db, 1, "argument").await;
        let output = rowlock(&db.url, &["enqueue", "t", "-", "-o", "name"], &format!("\n  {} \n", long()));
        let id = String::from_utf8(output.stdout).unwrap();
        for format in ["json", "table", "wide"] {
            let shown = rowlock(&db.url, &["jobs", "get", id.trim(), "-o", format], "").stdout;
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains(LONG) && shown.contains(FINE), "{format}: {shown}");
        }
        assert_exact(&db, 1, "standard input").await;
    }

    #[tokio::test]
    async fn what_jsonb_cannot_hold_is_refused_as_the_payload() {
        let db = database().await;
        for (payload, _) in refused() {
            let output = rowlock(&db.url, &["enqueue", "a", "-"], &payload);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(4), "{said}");
            assert!(said.starts_with("error: payload: expected"), "{said}");
        }
        assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.jobs", &[]).await, 0);
    }
}
