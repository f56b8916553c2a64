//! What is exported: counted by the transitions, read at one price, never going back.
#![allow(clippy::print_stdout)] // a time is what one of these tests is for

use std::collections::BTreeMap;

use rowlock::metrics::{Facts, Reading, exposition};
use serde_json::json;

use crate::{
    support::{Db, database},
    work::{drain, shell, with_type},
};

/// What one scrape of this database says, by name and labels.
pub async fn scraped(db: &Db) -> BTreeMap<String, f64> {
    let reading = Reading::read(&db.client).await.unwrap();
    samples(&exposition(Some(&reading), None, &Facts::new("worker").known()))
}

/// A leader decides something, and cannot do it.
pub async fn decided(db: &Db) {
    db.run(
        "SELECT rowlock.record_decisions_v1(l.epoch, '[{\"at\": \"2026-01-01\", \"deployment\": \"mail\", \"current\": 1, \"wanted\": 2,
                                             \"reason\": \"pickup\", \"inputs\": {}}]'), rowlock.scaler_error_v1(l.epoch, 'mail', 'grow')
           FROM rowlock.lead_v1('00000000-0000-0000-0000-000000000007', 'c', 600) l",
    )
    .await;
}

pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap());
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The last line of the tally goes into the totals; both must say the same.
async fn before_and_after_a_fold(db: &Db) -> BTreeMap<String, f64> {
    let steady = |all: BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        all.into_iter().filter(|(name, _)| !name.contains("oldest")).collect()
    };
    let before = steady(scraped(db).await);
    assert!(db.one::<i64>("SELECT count(*) FROM rowlock.tally", &[]).await > 0, "there is something to fold");
    db.run("SELECT rowlock.fold()").await;
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.tally", &[]).await, 0);
    assert_eq!(steady(scraped(db).await), before);
    before
}

#[tokio::test]
async fn every_transition_is_counted_by_queue_type_and_reason() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    db.run("SELECT rowlock.enqueue('t', max_retries => 1) FROM generate_series(1, 6)").await;
    let jobs = db.claim(worker, 5).await;
    db.complete(worker, &jobs[..2]).await;
    db.fail(worker, &jobs[2], "x", true).await;
    db.fail(worker, &jobs[3], "x", false).await;
    db.release(worker, &jobs[4], Some(0.0), true).await;
    db.run(&format!("SELECT rowlock.retry('{}')", jobs[3].id)).await;
    let now = before_and_after_a_fold(&db).await;
    for (name, value) in [
        ("rowlock_jobs{queue=\"default\",type=\"t\",status=\"pending\"}", 4.0), // one of them for later
        ("rowlock_jobs{queue=\"default\",type=\"t\",status=\"running\"}", 0.0),
        ("rowlock_jobs{queue=\"default\",type=\"t\",status=\"failed\"}", 0.0),
        ("rowlock_queue_pending{queue=\"default\"}", 3.0),
        ("rowlock_jobs_enqueued_total{queue=\"default\",type=\"t\"}", 6.0),
        ("rowlock_jobs_completed_total{queue=\"default\",type=\"t\"}", 2.0),
        ("rowlock_jobs_failed_total{queue=\"default\",type=\"t\",reason=\"error\"}", 1.0),
        ("rowlock_jobs_retried_total{queue=\"default\",type=\"t\",reason=\"error\"}", 1.0),
        ("rowlock_jobs_retried_total{queue=\"default\",type=\"t\",reason=\"requested\"}", 2.0),
        ("rowlock_job_wait_seconds_count{queue=\"default\",type=\"t\"}", 5.0),
        ("rowlock_job_run_seconds_count{queue=\"default\",type=\"t\"}", 4.0), // the released one did not end
    ] {
        assert_eq!(now.get(name), Some(&value), "{name} in {now:#?}");
    }
}

#[tokio::test]
async fn a_job_lands_in_the_bucket_of_its_wait_and_of_its_run() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    db.run("SELECT rowlock.enqueue('t')").await;
    db.run(
        "UPDATE rowlock.ready SET created_at = created_at - interval '50 s', execute_at = execute_at - interval '50 s'",
    )
    .await;
    let job = db.claim_one(worker).await;
    db.run("UPDATE rowlock.lease SET claimed_at = claimed_at - '2 s'::interval").await;
    db.complete(worker, &[job]).await;
    let now = before_and_after_a_fold(&db).await;
    let of = |what: &str, le: &str| {
        now[&format!("rowlock_job_{what}_seconds_bucket{{queue=\"default\",type=\"t\",le=\"{le}\"}}")]
    };
    assert_eq!([of("wait", "30"), of("wait", "100"), of("wait", "+Inf")], [0.0, 1.0, 1.0]);
    assert_eq!([of("run", "1"), of("run", "3"), of("run", "+Inf")], [0.0, 1.0, 1.0]);
    let wait = now["rowlock_job_wait_seconds_sum{queue=\"default\",type=\"t\"}"];
    assert!((50.0..80.0).contains(&wait), "{wait}");
    assert!((2.0..32.0).contains(&now["rowlock_job_run_seconds_sum{queue=\"default\",type=\"t\"}"]));
}

#[tokio::test]
async fn the_hundred_and_first_type_is_other_and_no_counter_goes_back_when_it_comes() {
    let db = database().await;
    db.run("SELECT rowlock.enqueue('type ' || n) FROM generate_series(1, 99) n").await;
    db.keep().await;
    let before = scraped(&db).await;
    // The first of these, by name, gets the last label; the others never get one.
    db.run("SELECT rowlock.enqueue('a ' || n) FROM generate_series(1, 3) n").await;
    let now = before_and_after_a_fold(&db).await;
    let enqueued =
        |t: &str| now.get(&format!("rowlock_jobs_enqueued_total{{queue=\"default\",type=\"{t}\"}}")).copied();
    assert_eq!([enqueued("a 1"), enqueued("a 2"), enqueued("other")], [Some(1.0), None, Some(2.0)]);
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
        assert!(now.get(name).is_some_and(|n| n >= value), "{name} was {value}");
    }
    assert_eq!(now.keys().filter(|name| name.starts_with("rowlock_jobs_enqueued_total")).count(), 101);
}

/// An enqueuer may invent as many types as it likes.
#[tokio::test]
async fn invented_types_take_no_label_from_those_of_the_catalogue_or_that_a_worker_knows() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    // Handlers in Rust are in no catalogue. This one came before the flood, and another after it.
    db.run("SELECT rowlock.enqueue('early')").await;
    let job = db.claim_one(worker).await;
    assert!(db.complete(worker, &[job]).await.is_empty());
    db.run("SELECT rowlock.fold()").await;
    db.run("SELECT rowlock.enqueue('a ' || n, queue => 'x') FROM generate_series(1, 3000) n").await;
    db.run("SELECT rowlock.fold()").await;
    db.run("SELECT rowlock.enqueue('b ' || n, queue => 'x') FROM generate_series(1, 3000) n").await;
    db.run("SELECT rowlock.enqueue('handled')").await;
    let handled = db.claim_one(worker).await;
    let other = |now: &BTreeMap<String, f64>, queue: &str| {
        now.get(&format!("rowlock_jobs_enqueued_total{{queue=\"{queue}\",type=\"other\"}}")).copied()
    };
    let before = before_and_after_a_fold(&db).await;
    assert_eq!(other(&before, "default"), Some(1.0), "nobody knows yet that it is real");
    assert!(db.complete(worker, &[handled]).await.is_empty());
    db.run("SELECT rowlock.put_job_type('{\"name\": \"real\", \"command\": [\"true\"]}'), rowlock.enqueue('real')")
        .await;
    db.run("SELECT rowlock.enqueue('handled')").await;
    let now = before_and_after_a_fold(&db).await;
    let enqueued =
        |t: &str| now.get(&format!("rowlock_jobs_enqueued_total{{queue=\"default\",type=\"{t}\"}}")).copied();
    assert_eq!(
        [enqueued("early"), enqueued("real"), enqueued("handled"), other(&now, "default")],
        [Some(1.0), Some(1.0), Some(1.0), Some(1.0)],
        "what was counted as other stays there"
    );
    let pending = |t: &str| now[&format!("rowlock_jobs{{queue=\"default\",type=\"{t}\",status=\"pending\"}}")];
    assert_eq!([pending("real"), pending("handled"), pending("other")], [1.0, 1.0, 0.0]);
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total") || name.contains("_seconds_")) {
        assert!(now.get(name).is_some_and(|n| n >= value), "{name} was {value}");
    }
    let labels = now.keys().filter(|name| name.starts_with("rowlock_jobs_enqueued_total{queue=\"x\"")).count();
    assert_eq!(labels, 101, "a hundred guests and other");
    // Once their jobs are gone, so are their lines.
    db.run("SELECT rowlock.cancel(id) FROM (SELECT r.id FROM rowlock.ready r JOIN rowlock.queue q ON q.id = r.queue WHERE q.name = 'x') j").await;
    db.run("SELECT rowlock.fold(), rowlock.sweep()").await;
    assert!(db.one::<i64>("SELECT count(*) FROM rowlock.total", &[]).await < 110);
    assert_eq!(other(&scraped(&db).await, "x"), Some(5900.0));
}

#[tokio::test]
async fn a_hundred_thousand_invented_types_cost_the_readers_little() {
    let db = database().await;
    let times = async || {
        let mut times = Vec::new();
        for sql in ["SELECT count(*) FROM rowlock.metrics_v1()", "SELECT rowlock.observe_v1('{default}')"] {
            let asked = std::time::Instant::now();
            db.client.query(sql, &[]).await.unwrap();
            times.push(asked.elapsed());
        }
        times
    };
    for n in 0..10 {
        db.run(&format!(
            "SELECT count(e) FROM (SELECT jsonb_agg(jsonb_build_object('type', 'invented ' || ({n} * 10000 + n))) AS jobs
               FROM generate_series(1, 10000) n) j, rowlock.enqueue_many(j.jobs) e"
        ))
        .await;
    }
    let unfolded = times().await;
    db.run("SELECT rowlock.fold()").await;
    let folded = times().await;
    eprintln!("metrics and observe: {unfolded:?} before the fold, {folded:?} after it");
    // It was a minute. Until the fold the new names are sorted for their labels.
    for (times, bound) in [(&unfolded, 10), (&folded, 3)] {
        assert!(times.iter().all(|t| t.as_secs() < bound), "{unfolded:?}, {folded:?}");
    }
    let seen: serde_json::Value = db.one("SELECT rowlock.observe_v1('{default}')", &[]).await;
    let types = seen["types"].as_array().unwrap();
    assert_eq!(types.len(), 101);
    assert_eq!(types.iter().map(|t| t["pending"].as_i64().unwrap()).sum::<i64>(), 100_000);
}

#[tokio::test]
async fn reasons_are_bounded_too() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    db.run("SELECT rowlock.enqueue('t', max_retries => 0) FROM generate_series(1, 60)").await;
    db.run(&format!(
        "SELECT f.status FROM (SELECT array_agg(lease) l, array_agg(id) i, array_agg('x'::text) e, array_agg('reason ' || pos) r
           FROM rowlock.claim_v1('{worker}', '{{default}}', 60)) c, rowlock.fail_v1('{worker}', c.l, c.i, c.e, NULL, c.r) f"
    ))
    .await;
    let now = before_and_after_a_fold(&db).await;
    let failed: Vec<_> = now.iter().filter(|(name, _)| name.starts_with("rowlock_jobs_failed_total")).collect();
    assert_eq!(failed.len(), 51);
    assert_eq!(failed.iter().map(|(_, n)| **n).sum::<f64>(), 60.0);
}

#[tokio::test]
async fn what_a_worker_did_is_still_there_when_it_is_gone_and_goes_on_with_the_next() {
    let (q, db) = with_type(json!({"command": shell("exit 3")})).await;
    let mut last = BTreeMap::new();
    for round in 1..=3 {
        q.enqueue("t", json!({})).await.unwrap();
        drain(&q).await;
        assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.worker", &[]).await, 0, "no worker is alive");
        let now = scraped(&db).await;
        assert_eq!(
            now["rowlock_jobs_failed_total{queue=\"default\",type=\"t\",reason=\"exit_code\"}"],
            f64::from(round)
        );
        for (name, value) in
            last.iter().filter(|(name, _): &(&String, &f64)| name.contains("_total") || name.contains("_seconds_"))
        {
            assert!(now.get(name).is_some_and(|n| n >= value), "{name} went back from {value}");
        }
        last = now;
    }
}

#[tokio::test]
async fn a_paused_queue_and_its_oldest_job_are_told() {
    let db = database().await;
    db.run("SELECT rowlock.enqueue('t'), rowlock.pause_queue('default'), rowlock.pause_queue('idle')").await;
    db.run("UPDATE rowlock.ready SET created_at = created_at - interval '100 s', execute_at = execute_at - interval '100 s'").await;
    let now = scraped(&db).await;
    assert_eq!(now["rowlock_queue_paused{queue=\"default\"}"], 1.0);
    assert!((100.0..140.0).contains(&now["rowlock_queue_oldest_age_seconds{queue=\"default\"}"]));
    assert_eq!(now["rowlock_queue_oldest_age_seconds{queue=\"idle\"}"], 0.0);
}

#[tokio::test]
async fn an_old_transaction_is_told_only_to_an_owner_that_may_see_it() {
    let db = database().await;
    let other = crate::support::connect(&db.url).await;
    other.batch_execute("BEGIN; SELECT 1").await.unwrap();
    // In its own query, or the two would be of one age.
    crate::support::eventually("the transaction is seen", || async {
        scraped(&db).await["rowlock_database_oldest_transaction_seconds"] > 0.05
    })
    .await;
    db.run(
        "DO $$ BEGIN CREATE ROLE it_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT USAGE ON SCHEMA rowlock TO it_owner; GRANT SELECT ON ALL TABLES IN SCHEMA rowlock TO it_owner; GRANT SELECT ON ALL SEQUENCES IN SCHEMA rowlock TO it_owner;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rowlock TO it_owner; ALTER FUNCTION rowlock.metrics_v1 OWNER TO it_owner",
    )
    .await;
    assert!(!scraped(&db).await.contains_key("rowlock_database_oldest_transaction_seconds"));
}

#[tokio::test]
async fn decisions_and_errors_of_the_controller_are_counted_in_the_database() {
    let db = database().await;
    for _ in 0..2 {
        decided(&db).await;
    }
    // The rows go after a day, the count stays.
    db.run("DELETE FROM rowlock.decision").await;
    let now = scraped(&db).await;
    assert_eq!(now["rowlock_scaler_decisions_total{deployment=\"mail\",reason=\"pickup\"}"], 2.0);
    assert_eq!(now["rowlock_scaler_errors_total{deployment=\"mail\",reason=\"grow\"}"], 2.0);
}
