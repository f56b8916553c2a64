//! Reports of other trackers that no other test here is about, tried on Rowlock: tests/reports.md lists them all.

use std::time::Duration;

use rowlock::{NewJob, Status, worker};
use serde_json::json;
use uuid::Uuid;

use crate::{
    support::{Db, connect, database, eventually},
    work::{Program, Working, ends, job, options, put_type, shell, with_type},
};

/// element-hq/matrix-authentication-service#2625: after its connections were lost the worker got no more jobs.
#[tokio::test]
async fn a_worker_and_a_controller_whose_connections_are_all_cut_go_on() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let _worker = Program::start(&db, &["--http", "127.0.0.1:0"]);
    let _controller = Program::run(&db, &["controller", "--lease", "2s", "--http", "127.0.0.1:0"]);
    let leads = async || db.one::<bool>("SELECT held_until > clock_timestamp() FROM rowlock.leader", &[]).await;
    for _ in 0..3 {
        let id = q.enqueue("t", json!({})).await.unwrap().id;
        assert_eq!(ends(&q, id).await.status, Status::Completed);
        eventually("it leads", async || leads().await).await;
        let cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        db.client.execute(cut, &[]).await.unwrap();
    }
    let id = q.enqueue("t", json!({})).await;
    // The test's own connections were cut as well.
    let id = match id {
        Ok(enqueued) => enqueued.id,
        Err(_) => q.enqueue("t", json!({})).await.unwrap().id,
    };
    assert_eq!(ends(&q, id).await.status, Status::Completed);
    eventually("it leads again", async || leads().await).await;
}

/// kestra-io/kestra#14806: half a surrogate pair in a result ended the program that had to store it.
#[tokio::test]
async fn half_a_surrogate_pair_in_a_result_fails_its_own_job_alone() {
    let (q, db) = with_type(json!({"command": shell(r#"printf '"\\ud800"' > "$ROWLOCK_RESULT_FILE""#)})).await;
    put_type(&db, json!({"name": "good", "command": shell("sleep 0.3; echo 1 > \"$ROWLOCK_RESULT_FILE\"")})).await;
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_millis(50), ..options() });
    let good = q.enqueue("good", json!({})).await.unwrap().id;
    let bad = q.enqueue("t", json!({})).max_retries(0).await.unwrap().id;
    let (good, bad) = (ends(&q, good).await, ends(&q, bad).await);
    assert_eq!((good.status, bad.status), (Status::Completed, Status::Failed));
    assert!(bad.error.as_deref().unwrap_or_default().contains("result"), "{:?}", bad.error);
    working.stop().await;
}

/// citusdata/pg_cron#399: one row that the scheduler could not use kept it from every other.
#[tokio::test]
async fn a_schedule_that_cannot_run_holds_up_no_other() {
    let db = database().await;
    put_type(&db, json!({"name": "tick", "command": ["true"]})).await;
    for (name, every) in [("broken", "1 second"), ("whole", "1 second")] {
        let schedule = json!({"name": name, "type": "tick", "every": every});
        db.client.execute("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();
    }
    db.run(
        "UPDATE rowlock.schedule SET every = NULL, cron = 'no such time', timezone = 'Nowhere' WHERE name = 'broken'",
    )
    .await;
    let _controller = Program::run(&db, &["controller", "--http", "127.0.0.1:0"]);
    eventually("the other ticks", async || {
        db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE type = 'tick'", &[]).await >= 2
    })
    .await;
    eventually("the broken one says what is wrong", async || {
        db.one::<bool>("SELECT last_error IS NOT NULL FROM rowlock.schedules WHERE name = 'broken'", &[]).await
    })
    .await;
}

async fn enqueue_with_key(db: &Db, keys: &[&str]) -> Result<Vec<(Uuid, bool)>, tokio_postgres::Error> {
    let client = connect(&db.url).await;
    let jobs: Vec<_> = keys.iter().map(|key| json!({"type": "t", "unique_key": key})).collect();
    let rows = client.query("SELECT id, inserted FROM rowlock.enqueue_many($1)", &[&json!(jobs)]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// oban-bg/oban#1093: who waited for an insert of the same key that was rolled back inserted nothing either.
#[tokio::test]
async fn a_key_whose_first_insert_is_rolled_back_goes_to_who_waited() {
    let db = database().await;
    let other = connect(&db.url).await;
    other.batch_execute("BEGIN; SELECT rowlock.enqueue('t', unique_key => 'k')").await.unwrap();
    let waits = enqueue_with_key(&db, &["k"]);
    let ends = async {
        eventually("it waits", async || {
            db.one::<bool>("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)", &[]).await
        })
        .await;
        other.batch_execute("ROLLBACK").await.unwrap();
    };
    let (answer, ()) = tokio::join!(waits, ends);
    let (id, inserted) = answer.unwrap()[0];
    assert!(inserted && db.status(id).await.as_deref() == Some("pending"));
}

/// WoltLab/WCF#6299: two batches with the same keys in another order ended in a deadlock.
#[tokio::test]
async fn batches_with_the_same_keys_in_any_order_never_deadlock() {
    let db = database().await;
    let forth: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    for _ in 0..10 {
        let forth: Vec<&str> = forth.iter().map(String::as_str).collect();
        let back: Vec<&str> = forth.iter().rev().copied().collect();
        let batches = (0..6).map(|n| enqueue_with_key(&db, if n % 2 == 0 { &forth } else { &back }));
        let answers = futures_util::future::join_all(batches).await;
        let inserted: usize =
            answers.into_iter().map(|answer| answer.unwrap().iter().filter(|(_, inserted)| *inserted).count()).sum();
        assert_eq!(inserted, 50, "each key once");
        db.run("SELECT rowlock.cancel(id) FROM rowlock.jobs WHERE status = 'pending'").await;
    }
}

/// zoolutions/pgbus#389: a job for later counted as one that had waited since it was enqueued.
#[tokio::test]
async fn a_job_for_later_makes_no_queue_old() {
    let db = database().await;
    let id: Uuid = db.one("SELECT id FROM rowlock.enqueue('t', opts => '{\"delay_seconds\": 3600}')", &[]).await;
    db.keep().await;
    let age: Option<f64> = db.one("SELECT oldest_age_seconds FROM rowlock.queues", &[]).await;
    assert_eq!(age.unwrap_or(0.0), 0.0, "{id}");
}

/// graphile/worker#475, graphile/worker#151: whoever ran a worker had to be able to migrate.
#[tokio::test]
async fn a_worker_needs_no_right_to_migrate_and_no_table() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let worker = crate::least_roles::url_as(&db, "rowlock_worker").await;
    let jobs = q.enqueue_many(&[NewJob::new("t", json!({}))]).await.unwrap();
    let status = crate::least_roles::rowlock(&worker, &["worker", "--stop-when-empty"]).status().unwrap();
    assert!(status.success());
    assert_eq!(job(&q, jobs[0].id).await.status, Status::Completed);
    let reads = connect(&worker).await.batch_execute("SELECT FROM rowlock.ready").await;
    assert_eq!(reads.unwrap_err().code().map(|code| code.code()), Some("42501"));
}
