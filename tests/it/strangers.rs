//! What one caller's transaction, names and settings do to others: nothing.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Db, connect, database};

async fn promptly(db: &Db, sql: &str) {
    let asked = tokio::time::timeout(Duration::from_secs(10), db.client.batch_execute(sql)).await;
    asked.unwrap_or_else(|_| panic!("{sql} waits")).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

#[tokio::test]
async fn nobody_waits_for_a_transaction_that_makes_a_queue() {
    let db = database().await;
    let stranger = connect(&db.url).await;
    stranger.batch_execute("BEGIN; SELECT rowlock.enqueue('t', '{\"n\": 1}', 'new')").await.unwrap();
    promptly(&db, "SELECT rowlock.lead_v1('00000000-0000-0000-0000-000000000001', 'c')").await;
    for sql in [
        "SELECT rowlock.enqueue('t', '{\"n\": 2}', 'new')",
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"queue\": \"new\", \"payload\": {\"n\": 3}}]')",
        "SELECT rowlock.register_worker_v1('w', 'host/1', '{new}', 1)",
        "SELECT rowlock.subscribe_queues_v1(1, '{new}')",
        "SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"queue\": \"new\", \"every\": \"1h\"}')",
        "SELECT * FROM rowlock.maintain_v1(gen_random_uuid())",
    ] {
        promptly(&db, sql).await;
    }
    stranger.batch_execute("COMMIT").await.unwrap();
    // It is one queue all the same.
    let queues: i64 = db.one("SELECT count(*) FROM rowlock.queues", &[]).await;
    let pending: i64 = db.one("SELECT pending FROM rowlock.queues WHERE queue = 'new'", &[]).await;
    assert_eq!((queues, pending), (1, 3));
    let depth = "SELECT value FROM rowlock.metrics_v1() WHERE what = 'queue_pending'";
    assert_eq!(db.one::<f64>(depth, &[]).await, 3.0);
    let types: Value = db.one("SELECT rowlock.observe_v1('{new}') -> 'types'", &[]).await;
    assert_eq!((types.as_array().unwrap().len(), &types[0]["pending"]), (1, &Value::from(3)));
    db.run("SELECT rowlock.pause_queue('new')").await;
    let worker = db.worker(60.0).await;
    assert!(db.claim_from(worker, "new", 9).await.is_empty());
    db.run("SELECT rowlock.resume_queue('new')").await;
    assert_eq!(db.claim_from(worker, "new", 9).await.len(), 3);
}

/// Two-phase commit: Postgres prepares no transaction that notifies.
#[tokio::test]
async fn a_transaction_that_says_so_can_be_prepared_while_a_worker_sleeps() {
    let db = database().await;
    let allowed: i32 = db.one("SELECT current_setting('max_prepared_transactions')::int", &[]).await;
    let worker = db.worker(60.0).await;
    db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')")).await;
    let quiet = [
        "SELECT rowlock.enqueue('t', opts => '{\"notify\": false}')",
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"opts\": {\"notify\": false}}]')",
        "SET LOCAL rowlock.notify = off; SELECT rowlock.enqueue('t')",
        "SET LOCAL rowlock.notify = off; SELECT rowlock.enqueue_many('[{\"type\": \"t\"}]')",
    ];
    let mut listener = Listening::on(&db).await;
    for sql in quiet {
        db.run(&format!("BEGIN; {sql}; COMMIT")).await;
    }
    if allowed > 0 {
        db.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'", quiet[0])).await;
    }
    db.run("SELECT rowlock.enqueue('t')").await;
    assert_eq!(listener.heard().await, [worker.to_string()], "of all of these only the last one notifies");
    // What is said of the notice is not the job's.
    let kept: i64 = db.one("SELECT count(*) FROM rowlock.ready WHERE opts IS NOT NULL", &[]).await;
    assert_eq!(kept, 0);
}

/// What is said on the channels of jobs and of the keeper.
pub struct Listening {
    client: tokio_postgres::Client,
    heard: tokio::sync::mpsc::UnboundedReceiver<(String, String)>,
}

impl Listening {
    pub async fn on(db: &Db) -> Listening {
        let (client, mut connection) = tokio_postgres::connect(&db.url, tokio_postgres::NoTls).await.unwrap();
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
                if let tokio_postgres::AsyncMessage::Notification(n) = message {
                    let _ = tell.send((n.channel().to_owned(), n.payload().to_owned()));
                }
            }
        });
        client.batch_execute("LISTEN rowlock; LISTEN rowlock_keeper; LISTEN echo").await.unwrap();
        Listening { client, heard }
    }

    /// The payloads that came before a notice of its own.
    pub async fn heard(&mut self) -> Vec<String> {
        self.client.batch_execute("NOTIFY echo").await.unwrap();
        let mut payloads = Vec::new();
        while let Ok(Some((channel, payload))) = tokio::time::timeout(Duration::from_secs(10), self.heard.recv()).await
        {
            if channel == "echo" {
                return payloads;
            }
            payloads.push(payload);
        }
        panic!("waited in vain for its own notice");
    }
}

#[tokio::test]
async fn calls_that_are_rolled_back_use_no_queue_number_up() {
    let db = database().await;
    db.run("SELECT setval('rowlock.queue_id', 262143)").await;
    db.run("SELECT rowlock.enqueue('t', queue => 'first')").await;
    // The counter goes round, past what is in use.
    db.run("SELECT setval('rowlock.queue_id', 262142)").await;
    for n in 0..3 {
        db.run(&format!("BEGIN; SELECT rowlock.enqueue('t', queue => 'rolled {n}'); ROLLBACK")).await;
    }
    db.run("SELECT rowlock.enqueue('t', queue => 'second')").await;
    let ids: Vec<i32> = db
        .client
        .query("SELECT id FROM rowlock.queue ORDER BY id", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(ids.len(), 2);
    // A refused batch makes none: all is checked before.
    let (code, _) = db
        .refusal("SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"queue\": \"a\"}, {\"type\": \"t\", \"queue\": \"b\", \"priority\": 99999}]')")
        .await;
    assert_eq!(code, "RL004");
    let before: i64 = db.one("SELECT last_value FROM rowlock.queue_id", &[]).await;
    db.refusal(
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"queue\": \"a\", \"payload\": {}, \"max_retries\": -1}]')",
    )
    .await;
    assert_eq!(db.one::<i64>("SELECT last_value FROM rowlock.queue_id", &[]).await, before);
}

#[tokio::test]
async fn a_batch_of_many_queues_and_priorities_opens_one_lane_a_job() {
    let db = database().await;
    db.run(
        "SELECT rowlock.enqueue_many(jsonb_agg(jsonb_build_object('type', 't', 'queue', 'q' || n, 'priority', n)))
           FROM generate_series(1, 1000) n",
    )
    .await;
    let lanes: i64 = db.one("SELECT count(*) FROM rowlock.lane", &[]).await;
    let wrong = "SELECT count(*) FROM rowlock.ready r WHERE NOT EXISTS (
        SELECT FROM rowlock.lane l WHERE l.queue = r.queue AND l.rank = r.rank)";
    assert_eq!((lanes, db.one::<i64>(wrong, &[]).await), (1000, 0));
}

#[tokio::test]
async fn the_settings_of_a_session_change_no_answer() {
    let db = database().await;
    db.run("SELECT rowlock.put_job_type('{\"name\": \"t\", \"keep\": {\"completed\": \"36 hours\"}, \"timeout\": \"90 s\"}')").await;
    let keep = "SELECT keep FROM rowlock.job_types";
    let before: Value = db.one(keep, &[]).await;
    db.run(
        "SET intervalstyle = iso_8601; SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Kathmandu'; SET array_nulls = off;
         SET standard_conforming_strings = off; SET client_min_messages = notice; SET extra_float_digits = 0",
    )
    .await;
    assert_eq!(db.one::<Value>(keep, &[]).await, before);
    db.run("SELECT rowlock.put_job_type('{\"name\": \"u\", \"timeout\": \"1 day\", \"keep\": {\"failed\": 60}}')")
        .await;
    db.run("SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"every\": \"1 day\"}')").await;
    db.run("SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\", \"execute_at\": \"2030-02-01T00:00:00Z\", \"priority\": 7}]')").await;
    db.run("SELECT rowlock.enqueue('ünicode', queue => 'ö')").await;
    let wrong = "SELECT rowlock.enqueue(E'a\\u0001b')";
    let (code, message) = db.refusal(wrong).await;
    assert!(code == "RL001" && message.contains("control character"), "{code} {message}");
    let due = "SELECT execute_at = '2030-02-01T00:00:00Z' FROM rowlock.scheduled";
    assert!(db.one::<bool>(due, &[]).await);
}
