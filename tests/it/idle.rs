//! An idle fleet is quiet: a job wakes one worker, a wake never waits and is never lost for long, and the keeper rests.
#![allow(clippy::print_stdout)] // the figures are what these tests are for

use std::time::{Duration, Instant};

use rowlock::{Error, Failure, JobQueue, worker::Worker};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    strangers::Listening,
    support::{Db, connect, database, eventually, server},
};

/// Workers that tell when a job of type t runs.
struct Fleet {
    q: JobQueue,
    workers: Vec<(String, JoinHandle<Result<rowlock::worker::WorkerSummary, Error>>)>,
    end: CancellationToken,
    ran: mpsc::UnboundedReceiver<(Uuid, Instant)>,
    tell: mpsc::UnboundedSender<(Uuid, Instant)>,
}

impl Fleet {
    async fn of(db: &Db, workers: usize) -> Fleet {
        let (tell, ran) = mpsc::unbounded_channel();
        let q = JobQueue::connect(&db.url).await.unwrap();
        let mut fleet = Fleet { q, workers: Vec::new(), end: CancellationToken::new(), ran, tell };
        for n in 0..workers {
            fleet.start(&format!("w{n}"));
        }
        eventually("all sleep", || async { sleepers(db).await == workers as i64 }).await;
        fleet
    }

    fn start(&mut self, name: &str) {
        let (tell, end) = (self.tell.clone(), self.end.clone());
        let handler = move |job: rowlock::Job, _: rowlock::worker::JobContext| {
            let tell = tell.clone();
            async move {
                let _ = tell.send((job.id, Instant::now()));
                Ok::<_, Failure>(())
            }
        };
        let worker = Worker::builder(&self.q).name(name).handler("t", handler).build().unwrap();
        let run = async move { worker.run(async move { end.cancelled().await }).await };
        self.workers.push((name.to_owned(), tokio::spawn(run)));
    }

    /// How long it took until one of them ran the job.
    async fn picks_up(&mut self) -> Duration {
        let enqueued = Instant::now();
        let id = self.q.enqueue("t", json!({})).await.unwrap().id;
        let (ran, at) = tokio::time::timeout(Duration::from_secs(10), self.ran.recv()).await.unwrap().unwrap();
        assert_eq!(ran, id);
        at - enqueued
    }

    async fn stop(self) {
        self.end.cancel();
        for (_, worker) in self.workers {
            worker.await.unwrap().unwrap();
        }
    }
}

async fn sleepers(db: &Db) -> i64 {
    db.one("SELECT count(DISTINCT worker) FROM rowlock.subscription WHERE NOT lasting", &[]).await
}

/// The commits of a database by the server's own count, asked in another database. Sessions tell it within ten seconds.
struct Commits {
    client: tokio_postgres::Client,
    database: String,
}

impl Commits {
    async fn of(db: &Db) -> Commits {
        let client = connect(&server().url("postgres")).await;
        Commits { client, database: db.one("SELECT current_database()::text", &[]).await }
    }

    async fn now(&self) -> i64 {
        let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1";
        self.client.query_one(sql, &[&self.database]).await.unwrap().get(0)
    }
}

async fn passes(time: Duration) {
    let started = Instant::now();
    eventually("the time is over", || async { started.elapsed() > time }).await;
}

/// The heartbeats of so many workers with a lease of 30 seconds.
fn heartbeats(workers: i64, time: Duration) -> i64 {
    workers * (time.as_secs() as i64 / 10 + 1)
}

#[tokio::test]
async fn fourteen_idle_workers_make_two_commits_a_second_and_three_for_a_job() {
    let db = database().await;
    let mut fleet = Fleet::of(&db, 14).await;
    let commits = Commits::of(&db).await;
    // What they did to get there has been told by then.
    passes(Duration::from_secs(11)).await;
    // Whoever has no processor for two seconds polls for a while: of three windows one is to be quiet.
    let mut told = Vec::new();
    let is_quiet = async || {
        let (before, started) = (commits.now().await, Instant::now());
        passes(Duration::from_secs(15)).await;
        let (made, time) = (commits.now().await - before, started.elapsed());
        let bound = time.as_secs() as i64 * 2 + heartbeats(14, time);
        eprintln!("14 idle workers: {made} commits in {time:.1?}, {bound} at most");
        (made <= bound, made)
    };
    for _ in 0..3 {
        told.push(is_quiet().await);
        if told.iter().any(|(quiet, _)| *quiet) {
            break;
        }
    }
    assert!(told.iter().any(|(quiet, _)| *quiet), "{told:?}");

    let jobs = 100;
    let mut each = Vec::new();
    while each.len() < 3 && each.iter().all(|n| *n > 3.0) {
        let (before, started) = (commits.now().await, Instant::now());
        let mut picked = Vec::new();
        for _ in 0..jobs {
            picked.push(fleet.picks_up().await);
            passes(Duration::from_millis(50)).await;
        }
        passes(Duration::from_secs(11)).await;
        let (made, time) = (commits.now().await - before, started.elapsed());
        let rest = time.as_secs() as i64 * 2 + heartbeats(14, time);
        each.push((made - rest) as f64 / f64::from(jobs) - 1.0);
        picked.sort();
        eprintln!("{jobs} jobs: {made} commits in {time:.1?}, {each:.2?} for each; pickup {:?}", picked[50]);
    }
    assert!(each.iter().any(|n| *n <= 3.0), "{each:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn one_job_wakes_one_worker_and_the_next_job_the_next() {
    let db = database().await;
    let (a, b, c) = (db.worker(60.0).await, db.worker(60.0).await, db.worker(60.0).await);
    for worker in [a, b, c] {
        db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default, more}}')")).await;
    }
    let mut listening = Listening::on(&db).await;
    db.enqueue().await;
    assert_eq!(listening.heard().await, [c.to_string()]);
    db.run("SELECT rowlock.enqueue('t', queue => 'more')").await;
    assert_eq!(listening.heard().await, [b.to_string()], "whoever is awake is not woken for another queue either");
    db.run("SELECT rowlock.enqueue('t'), rowlock.enqueue('t'), rowlock.enqueue('t')").await;
    assert_eq!(listening.heard().await, [a.to_string()]);
    assert_eq!(sleepers(&db).await, 0);
    // A batch wakes one for each job that is due.
    for worker in [a, b, c] {
        db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')")).await;
    }
    let batch = r#"[{"type": "t"}, {"type": "t", "opts": {"delay_seconds": 3600}}, {"type": "t"},
                    {"type": "t", "opts": {"notify": false}}]"#;
    db.run(&format!("SELECT rowlock.enqueue_many('{batch}')")).await;
    assert_eq!(listening.heard().await.len(), 2);
    assert_eq!(sleepers(&db).await, 1);
}

#[tokio::test]
async fn a_leader_hears_of_every_job_and_takes_no_wake_from_a_worker() {
    let db = database().await;
    let leader = Uuid::now_v7();
    db.run(&format!("SELECT rowlock.lead_v1('{leader}', 'c'), rowlock.subscribe_queues_v1(1, '{{default}}')")).await;
    let worker = db.worker(60.0).await;
    db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')")).await;
    let mut listening = Listening::on(&db).await;
    for expected in [vec![leader, worker], vec![leader], vec![leader]] {
        db.enqueue().await;
        let mut heard = listening.heard().await;
        heard.sort();
        let mut expected: Vec<String> = expected.iter().map(Uuid::to_string).collect();
        expected.sort();
        assert_eq!(heard, expected);
    }
}

/// A business transaction may be open for minutes after its enqueue.
#[tokio::test]
async fn an_open_transaction_that_took_a_wake_keeps_nobody_waiting() {
    let db = database().await;
    let stranger = connect(&db.url).await;
    let worker = db.worker(60.0).await;
    let subscribe = format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')");
    db.run(&subscribe).await;
    stranger.batch_execute("BEGIN; SELECT rowlock.enqueue('t')").await.unwrap();
    db.run("SET lock_timeout = '2s'").await;
    let mut listening = Listening::on(&db).await;
    db.enqueue().await;
    assert_eq!(listening.heard().await, [worker.to_string()], "the job of another wakes it all the same");
    let job = db.claim_one(worker).await;
    assert!(db.complete(worker, &[job]).await.is_empty());
    db.run(&subscribe).await;
    db.run(&format!("SELECT rowlock.unsubscribe_v1('{worker}')")).await;
    db.run(&subscribe).await;
    db.enqueue().await;
    assert_eq!(listening.heard().await, [worker.to_string()]);
    db.run(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await;
    let lost = db.worker(60.0).await;
    db.run(&format!("SELECT rowlock.subscribe_v1('{lost}', '{{default}}')")).await;
    let other = connect(&db.url).await;
    other.batch_execute("BEGIN; SELECT rowlock.enqueue('t')").await.unwrap();
    db.run("UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 s'").await;
    db.keep().await;
    db.run("SELECT rowlock.sweep()").await;
    for transaction in [stranger, other] {
        transaction.batch_execute("ROLLBACK").await.unwrap();
    }
    db.run("SELECT rowlock.sweep()").await;
    assert_eq!(sleepers(&db).await, 0, "what was rolled back of the dead is swept");
}

#[tokio::test]
async fn an_enqueue_with_a_snapshot_that_stands_still_never_fails_for_a_sleeper() {
    let db = database().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let worker = db.worker(60.0).await;
        db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')")).await;
        let still = [connect(&db.url).await, connect(&db.url).await];
        for one in &still {
            one.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM rowlock.subscription"))
                .await
                .unwrap();
        }
        // The row is taken meanwhile, and the worker is asleep again.
        db.enqueue().await;
        db.run(&format!("SELECT rowlock.subscribe_v1('{worker}', '{{default}}')")).await;
        for one in &still {
            one.batch_execute("SELECT rowlock.enqueue('t'); SELECT rowlock.enqueue_many('[{\"type\": \"t\"}]')")
                .await
                .unwrap();
        }
        for one in &still {
            one.batch_execute("COMMIT").await.unwrap_or_else(|e| panic!("{level}: {e:?}"));
        }
    }
}

/// Its transaction looked for sleepers before there was one.
#[tokio::test]
async fn a_job_that_met_no_sleeper_is_found_by_the_keeper_within_a_second() {
    let db = database().await;
    let early = connect(&db.url).await;
    early.batch_execute("BEGIN").await.unwrap();
    let enqueued: Uuid = early.query_one("SELECT id FROM rowlock.enqueue('t')", &[]).await.unwrap().get(0);
    let mut fleet = Fleet::of(&db, 3).await;
    let started = Instant::now();
    early.batch_execute("COMMIT").await.unwrap();
    let (id, _) = fleet.ran.recv().await.unwrap();
    assert_eq!(id, enqueued);
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    eventually("all sleep again", || async { sleepers(&db).await == 3 }).await;
    let quiet = connect(&db.url).await;
    quiet.batch_execute("SET rowlock.notify = off").await.unwrap();
    for _ in 0..3 {
        let started = Instant::now();
        quiet.batch_execute("SELECT rowlock.enqueue('t')").await.unwrap();
        fleet.ran.recv().await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
        eventually("all sleep again", || async { sleepers(&db).await == 3 }).await;
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_job_that_is_due_soon_wakes_the_keeper_and_is_claimed_in_time() {
    let db = database().await;
    let mut listening = Listening::on(&db).await;
    for (sql, told) in [
        ("SELECT rowlock.enqueue('u', opts => '{\"delay_seconds\": 60}')", 0),
        ("SELECT rowlock.enqueue('u', opts => '{\"delay_seconds\": 1}')", 1),
        ("SELECT rowlock.enqueue('u', opts => '{\"delay_seconds\": 1.5}')", 0),
        ("SELECT rowlock.enqueue('u', opts => '{\"delay_seconds\": 0.5, \"notify\": false}')", 0),
        ("SELECT rowlock.enqueue_many('[{\"type\": \"u\", \"opts\": {\"delay_seconds\": 0.3}}]')", 1),
        ("SET rowlock.notify = off; SELECT rowlock.enqueue('u', opts => '{\"delay_seconds\": 0.1}')", 0),
    ] {
        db.run(sql).await;
        assert_eq!(listening.heard().await, vec!["due"; told], "{sql}");
    }
    db.run("RESET rowlock.notify; TRUNCATE rowlock.scheduled").await;
    let mut fleet = Fleet::of(&db, 2).await;
    for n in 0..15_u16 {
        let delay = 0.15 + 0.01 * f64::from(n);
        let opts = json!({"delay_seconds": delay});
        db.client.execute("SELECT rowlock.enqueue('t', opts => $1)", &[&opts]).await.unwrap();
        fleet.ran.recv().await.unwrap();
    }
    let late = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - execute_at)::float8)
                  FROM rowlock.jobs WHERE type = 't'";
    eventually("all have ended", || async { db.one::<i64>("SELECT count(*) FROM rowlock.history", &[]).await == 15 })
        .await;
    let late: f64 = db.one(late, &[]).await;
    eprintln!("a job for later began {:.1} ms late (median)", late * 1e3);
    assert!(late < 0.1, "{late}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_keeper_that_dies_while_it_rests_is_followed_within_a_second_and_a_half() {
    let db = database().await;
    let mut fleet = Fleet::of(&db, 5).await;
    let keeper = async || {
        db.one::<Option<String>>(
            "SELECT max(w.name) FROM rowlock.keeper k JOIN rowlock.worker w ON w.id = k.holder",
            &[],
        )
        .await
    };
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let name = keeper().await.unwrap();
        let at = fleet.workers.iter().position(|(other, _)| *other == name).unwrap();
        let died = Instant::now();
        fleet.workers.swap_remove(at).1.abort();
        eventually("another one keeps", || async { keeper().await.is_some_and(|other| other != name) }).await;
        gaps.push(died.elapsed());
    }
    gaps.sort();
    eprintln!("another keeper after {gaps:?}");
    assert!(gaps[1] < Duration::from_millis(1500), "{gaps:?}");
    fleet.stop().await;
}
