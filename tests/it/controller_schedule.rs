//! Schedules: in SQL, and with a controller that ticks.

use std::time::{Duration, SystemTime};

use rowlock::{JobQueue, controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Db, connect, database, eventually};

async fn put(db: &Db, schedule: Value) {
    db.client.execute("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();
}

async fn lead(db: &Db) -> i64 {
    db.one("SELECT epoch FROM rowlock.lead_v1(gen_random_uuid(), 'c')", &[]).await
}

#[tokio::test]
async fn of_two_calls_for_one_tick_one_enqueues() {
    let db = database().await;
    put(&db, json!({"name": "s", "type": "t", "payload": {"a": 1}, "cron": "* * * * *"})).await;
    let epoch = lead(&db).await;
    db.run("UPDATE rowlock.schedule SET next_at = date_trunc('second', clock_timestamp()) - interval '3 s'").await;
    let call = format!(
        "SELECT rowlock.fire_schedule_v1({epoch}, name, updated_at, next_at, ARRAY[next_at, next_at + interval '1 s'], next_at + interval '1 hour') FROM rowlock.schedule"
    );
    // All know of the same tick, also those that come when it is over.
    let known = db.client.query_one("SELECT name, updated_at, next_at FROM rowlock.schedule", &[]).await.unwrap();
    let (name, seen, due): (String, SystemTime, SystemTime) = (known.get(0), known.get(1), known.get(2));
    let one = call.replace(
        "FROM rowlock.schedule",
        "FROM (SELECT $1::text, $2::timestamptz, $3::timestamptz) s (name, updated_at, next_at)",
    );
    let calls = (0..8).map(|_| async {
        let client = connect(&db.url).await;
        client.query(&one, &[&name, &seen, &due]).await.unwrap().len()
    });
    let jobs: Vec<usize> = futures_util::future::join_all(calls).await;
    assert_eq!(jobs.iter().sum::<usize>(), 2, "{jobs:?}");
    assert_eq!(jobs.iter().filter(|n| **n > 0).count(), 1);
    let row = db
        .client
        .query_one(
            "SELECT min(payload ->> 'a'), count(DISTINCT headers ->> 'rowlock-tick'), min(headers ->> 'rowlock-schedule'),
                    bool_and(execute_at = (headers ->> 'rowlock-tick')::timestamptz) FROM rowlock.jobs",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, &str>(2), row.get(3)), ("1", 2, "s", true));
    // The same instants again, whatever next_at was set to meanwhile.
    db.run("UPDATE rowlock.schedule SET next_at = last_at").await;
    assert_eq!(
        db.client
            .query(&call.replace("ARRAY[next_at, next_at + interval '1 s']", "ARRAY[next_at]"), &[])
            .await
            .unwrap()
            .len(),
        0
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.jobs", &[]).await, 2);
}

#[tokio::test]
async fn a_tick_whose_job_is_refused_moves_nothing() {
    let db = database().await;
    put(&db, json!({"name": "s", "type": "t", "every": "1 minute"})).await;
    let epoch = lead(&db).await;
    db.run("UPDATE rowlock.schedule SET next_at = clock_timestamp() - interval '1 s', type = ''").await;
    let call = format!(
        "SELECT rowlock.fire_schedule_v1({epoch}, name, updated_at, next_at, ARRAY[next_at], next_at + interval '1 hour') FROM rowlock.schedule"
    );
    assert_eq!(db.refusal(&call).await.0, "RL001");
    assert!(db.one::<bool>("SELECT last_at IS NULL AND next_at < clock_timestamp() FROM rowlock.schedule", &[]).await);
    for ticks in [
        "ARRAY[next_at, next_at]",
        "ARRAY[next_at - interval '1 s']",
        "ARRAY[clock_timestamp() + interval '1 min']",
        "ARRAY[NULL::timestamptz]",
    ] {
        assert_eq!(db.refusal(&call.replace("ARRAY[next_at]", ticks)).await.0, "RL031", "{ticks}");
    }
}

#[tokio::test]
async fn schedules_are_put_enabled_disabled_and_run_and_wrong_ones_refused_by_field() {
    let db = database().await;
    put(&db, json!({"name": "s", "type": "t", "queue": "q", "cron": "0 0 * * *", "timezone": "Europe/Berlin"})).await;
    db.run("UPDATE rowlock.schedule SET next_at = '2100-01-01'").await;
    let next = "SELECT next_at = '2100-01-01' FROM rowlock.schedules";
    put(&db, json!({"name": "s", "type": "u", "cron": "0 0 * * *", "timezone": "Europe/Berlin"})).await;
    assert_eq!(db.one::<Option<bool>>(next, &[]).await, Some(true), "the same times: no tick is lost");
    db.run("SELECT rowlock.enable_schedule('s')").await;
    assert_eq!(db.one::<Option<bool>>(next, &[]).await, Some(true), "it was enabled");
    put(&db, json!({"name": "s", "type": "u", "cron": "0 1 * * *", "timezone": "Europe/Berlin"})).await;
    assert_eq!(db.one::<Option<bool>>(next, &[]).await, None, "other times: planned anew");
    db.run("SELECT rowlock.disable_schedule('s')").await;
    assert!(!db.one::<bool>("SELECT enabled FROM rowlock.schedules", &[]).await);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.due_schedules_v1()", &[]).await, 0);
    let id: Uuid = db.one("SELECT rowlock.run_schedule('s')", &[]).await;
    assert_eq!(db.one::<String>("SELECT type FROM rowlock.get_job($1)", &[&id]).await, "u");
    for function in ["enable", "disable", "run", "remove"] {
        assert_eq!(db.refusal(&format!("SELECT rowlock.{function}_schedule('other')")).await.0, "RL032");
    }
    for (change, code, says) in [
        (json!({"name": ""}), "RL031", "name: expected"),
        (json!({"type": null}), "RL001", "type: expected"),
        (json!({"payload": [1]}), "RL002", "payload: expected"),
        (json!({"queue": "\n"}), "RL003", "queue: expected"),
        (json!({"cron": null}), "RL031", "cron, every: expected one"),
        (json!({"every": "1 hour"}), "RL031", "cron, every: expected one"),
        (json!({"cron": null, "every": "0.5 seconds"}), "RL031", "every: expected 1 second"),
        (json!({"timezone": "Mars"}), "RL031", "timezone: expected a name"),
        (json!({"catch_up": "some"}), "RL031", "catch_up: expected"),
        (json!({"retries": 1}), "RL031", "schedule.retries: unknown key"),
    ] {
        let mut schedule = json!({"name": "x", "type": "t", "cron": "* * * * *"});
        schedule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (got, message) = db.refusal(&format!("SELECT rowlock.put_schedule($j${schedule}$j$)")).await;
        assert!(got == code && message.starts_with(says), "{change}: {got} {message}");
    }
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.schedules", &[]).await, 1);
}

#[tokio::test]
async fn a_removed_schedule_ticks_no_more_not_even_under_its_old_name() {
    let db = database().await;
    let schedule = json!({"name": "s", "type": "t", "every": "1 hour"});
    put(&db, schedule.clone()).await;
    let epoch = lead(&db).await;
    let tick = |seen: &str| {
        format!(
            "SELECT count(*) FROM rowlock.fire_schedule_v1({epoch}, 's', {seen}, '2026-01-01', ARRAY['2026-01-01'::timestamptz], '2026-01-02')"
        )
    };
    let due = "UPDATE rowlock.schedule SET next_at = '2026-01-01'";
    db.run(due).await;
    // What a controller knows that is about to tick.
    let seen: String = db.one("SELECT quote_literal(updated_at) FROM rowlock.schedule", &[]).await;
    let id: Uuid = db.one("SELECT rowlock.run_schedule('s')", &[]).await;
    db.run("SELECT rowlock.remove_schedule('s')").await;
    assert_eq!(db.one::<i64>(&tick(&seen), &[]).await, 0, "it is gone");
    put(&db, schedule).await;
    db.run(due).await;
    assert_eq!(db.one::<i64>(&tick(&seen), &[]).await, 0, "it is another one");
    let seen: String = db.one("SELECT quote_literal(updated_at) FROM rowlock.schedule", &[]).await;
    assert_eq!(db.one::<i64>(&tick(&seen), &[]).await, 1, "which ticks");
    assert_eq!(db.status(id).await.as_deref(), Some("pending"), "what it enqueued stays");
}

/// A removal beside a tick under way waits for it: the job is there, or the schedule was gone before.
#[tokio::test]
async fn a_removal_waits_for_a_tick_under_way() {
    let db = database().await;
    put(&db, json!({"name": "s", "type": "t", "every": "1 hour"})).await;
    let epoch = lead(&db).await;
    db.run("UPDATE rowlock.schedule SET next_at = '2026-01-01'").await;
    let ticking = connect(&db.url).await;
    ticking
        .batch_execute(&format!("BEGIN; SELECT rowlock.fire_schedule_v1({epoch}, name, updated_at, next_at, ARRAY[next_at], '2026-01-02') FROM rowlock.schedule"))
        .await
        .unwrap();
    let removing = connect(&db.url).await;
    let removal = tokio::spawn(async move { removing.batch_execute("SELECT rowlock.remove_schedule('s')").await });
    eventually("the removal waits", || async {
        db.one::<bool>("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%remove_schedule%' AND datname = current_database())", &[]).await
    })
    .await;
    ticking.batch_execute("COMMIT").await.unwrap();
    removal.await.unwrap().unwrap();
    let left: i64 =
        db.one("SELECT (SELECT count(*) FROM rowlock.schedule) * 10 + (SELECT count(*) FROM rowlock.jobs)", &[]).await;
    assert_eq!(left, 1, "no schedule, one job");
}

#[tokio::test]
async fn a_controller_ticks_on_time_catches_up_as_told_and_says_what_is_wrong() {
    let db = database().await;
    for (name, catch_up) in [("skip", "skip"), ("one", "one"), ("all", "all")] {
        put(&db, json!({"name": name, "type": name, "cron": "0 * * * *", "catch_up": catch_up})).await;
    }
    put(&db, json!({"name": "now", "type": "now", "every": "1 second", "catch_up": "all"})).await;
    put(&db, json!({"name": "never", "type": "t", "cron": "0 0 30 2 *"})).await;
    // Ten hours without a leader, and the last tick was missed by more than a minute, at any time of the day.
    db.run(
        "UPDATE rowlock.schedule SET cron = format('%s * * * *', extract(minute FROM clock_timestamp() - interval '5 min')),
                next_at = date_trunc('minute', clock_timestamp()) - interval '10 hours 5 min' WHERE name IN ('skip', 'one', 'all')",
    )
    .await;
    let end = CancellationToken::new();
    let q = JobQueue::connect(&db.url).await.unwrap();
    let run = tokio::spawn(controller::run(q, (), controller::Options::default(), end.clone()));
    let count =
        async |job_type: &str| db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE type = $1", &[&job_type]).await;
    eventually("three ticks of every second are done", || async { count("now").await >= 3 }).await;
    eventually("the others are planned", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.schedule WHERE next_at > clock_timestamp() + interval '1 min'", &[])
            .await
            == 3
    })
    .await;
    assert_eq!((count("skip").await, count("one").await, count("all").await), (0, 1, 11));
    let late: f64 = db
        .one(
            "SELECT max(extract(epoch FROM created_at - execute_at))::float8 FROM rowlock.jobs WHERE type = 'now'",
            &[],
        )
        .await;
    assert!(late < 0.5, "a tick came {late} s late");
    let error: String = db.one("SELECT last_error FROM rowlock.schedules WHERE name = 'never'", &[]).await;
    assert!(error.starts_with("cron: no day fits"), "{error}");
    end.cancel();
    tokio::time::timeout(Duration::from_secs(10), run).await.expect("the controller ends").unwrap().unwrap();
    assert!(db.one::<bool>("SELECT held_until < clock_timestamp() FROM rowlock.leader", &[]).await, "it resigned");
}

/// A bound on what one read answers cuts no schedule off that is due.
#[tokio::test]
async fn schedules_that_fail_hold_up_no_other() {
    let db = database().await;
    for n in 0..700 {
        put(&db, json!({"name": format!("bad{n}"), "type": "t", "every": "1 hour"})).await;
    }
    put(&db, json!({"name": "good", "type": "good", "every": "1 hour"})).await;
    db.run(
        "UPDATE rowlock.schedule SET type = CASE WHEN name = 'good' THEN type ELSE '' END,
           next_at = clock_timestamp() - CASE WHEN name = 'good' THEN interval '1 s' ELSE interval '1 min' END",
    )
    .await;
    let end = CancellationToken::new();
    let q = JobQueue::connect(&db.url).await.unwrap();
    let run = tokio::spawn(controller::run(q, (), controller::Options::default(), end.clone()));
    eventually("the good one ticks", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE type = 'good'", &[]).await == 1
    })
    .await;
    end.cancel();
    tokio::time::timeout(Duration::from_secs(10), run).await.expect("the controller ends").unwrap().unwrap();
}
