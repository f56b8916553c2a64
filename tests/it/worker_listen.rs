//! LISTEN brings jobs sooner than the poll; without it, they come with the poll.

use std::time::{Duration, Instant};

use rowlock::{JobQueue, worker};
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
        listen_url: Some(proxy.url(&db.url)),
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
