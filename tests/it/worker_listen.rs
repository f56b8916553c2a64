//! LISTEN brings jobs sooner than the poll; without it, they come with the poll.

use std::time::{Duration, Instant};

use rowlock::{JobQueue, Target, worker};
use serde_json::json;
use uuid::Uuid;

use crate::{
    proxy::Proxy,
    support::{Db, eventually},
    work::{Working, ends, options, with_type},
};

/// Whether a worker sleeps until it is woken, which it does only while it hears itself.
async fn listens(db: &Db) -> bool {
    db.one::<i64>("SELECT count(*) FROM rowlock.subscription", &[]).await == 1
}

async fn takes(q: &JobQueue, id: Uuid) -> Duration {
    let started = Instant::now();
    ends(q, id).await;
    started.elapsed()
}

#[tokio::test]
async fn a_sleeping_worker_is_woken_by_an_enqueue() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_secs(60), ..options() });
    eventually("it sleeps", || listens(&db)).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let took = takes(&q, id).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    working.stop().await;
}

#[tokio::test]
async fn a_listener_on_a_dead_wire_costs_latency_only_and_comes_back() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let proxy = Proxy::to(&db.url).await;
    let options = worker::WorkerOptions {
        poll: Duration::from_secs(2),
        // The listener's pings follow it.
        lease: Duration::from_millis(1500),
        listen: Some(Target::parse(&proxy.url(&db.url)).unwrap()),
        ..options()
    };
    let working = Working::start(&q, options);
    eventually("it sleeps", || listens(&db)).await;
    // No error anywhere: the wire is open and carries nothing.
    proxy.freeze(true);
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let took = takes(&q, id).await;
    assert!(took < Duration::from_secs(5), "the poll finds it: {took:?}");
    // Noticed without a word from the network, and tried anew.
    eventually("it has given the wire up", || async { *proxy.seen.borrow() >= 2 }).await;
    proxy.freeze(false);
    eventually("it hears again", || listens(&db)).await;
    working.stop().await;
}

/// Who keeps the queue now.
async fn keeper(db: &Db) -> Option<String> {
    db.one(
        "SELECT max(w.name) FROM rowlock.keeper k JOIN rowlock.worker w ON w.id = k.holder
          WHERE k.held_until > clock_timestamp()",
        &[],
    )
    .await
}

#[tokio::test]
async fn a_keeper_that_stops_is_followed_at_once_so_that_due_jobs_do_not_wait() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let start = |name: &str| {
        let options = worker::WorkerOptions { name: Some(name.into()), poll: Duration::from_secs(60), ..options() };
        (name.to_owned(), Working::start(&q, options))
    };
    let mut workers = vec![start("a"), start("b")];
    let listening = "SELECT count(*) FROM rowlock.subscription";
    let mut gaps = Vec::new();
    for round in 0..7 {
        eventually("both sleep", || async { db.one::<i64>(listening, &[]).await == 2 }).await;
        eventually("one keeps", || async { keeper(&db).await.is_some() }).await;
        let name = keeper(&db).await.unwrap();
        let at = workers.iter().position(|(other, _)| *other == name).unwrap();
        workers.swap_remove(at).1.stop().await;
        let stopped = Instant::now();
        let other = workers[0].0.clone();
        eventually("the other one keeps", || async { keeper(&db).await.as_ref() == Some(&other) }).await;
        gaps.push(stopped.elapsed());
        workers.push(start(&format!("next{round}")));
    }
    for (_, working) in workers {
        working.stop().await;
    }
    gaps.sort();
    // Half of them: a busy machine may be late once. Without the NOTIFY it is a quarter of a second.
    assert!(gaps[3] < Duration::from_millis(100), "{gaps:?}");
}
