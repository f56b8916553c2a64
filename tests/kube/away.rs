//! The API server out of reach for minutes: what runs goes on, nothing shrinks, and soon after it is back all is well.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    lab::{Lab, eventually, within},
    proxy::Proxy,
};

fn away_for() -> Duration {
    Duration::from_secs(std::env::var("ROWLOCK_TEST_AWAY").ok().and_then(|s| s.parse().ok()).unwrap_or(120))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_falls_silent_stops_no_job_and_nothing_shrinks() {
    let lab = Lab::new("away").await;
    lab.job_type("t", 50, false).await;
    let annotations =
        json!({"rowlock.dev/max-replicas": "4", "rowlock.dev/target-wait": "1s", "rowlock.dev/scale-down-delay": "5s"});
    lab.deployment("mail", "default", 2, annotations, "256Mi").await;
    let schedule = json!({"name": "tick", "type": "t", "every": "1 second"});
    lab.sql.query("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();
    let proxy = Proxy::start(&lab.namespace).await;
    let _controller = lab.controller(Some(&proxy.kubeconfig), "rowlock=info");
    lab.sql.query("SELECT rowlock.enqueue('t') FROM generate_series(1, 400)", &[]).await.unwrap();
    eventually("workers are there", || async { lab.workers().await >= 2 }).await;
    let done = || lab.one::<i64>("SELECT sum(completed)::int8 FROM rowlock.demand()", &[]);
    let (before, ticks) =
        (lab.replicas("mail").await, lab.one::<i64>("SELECT count(*) FROM rowlock.history", &[]).await);
    proxy.fall_silent();
    let (silent, epoch) = (Instant::now(), lab.one::<i64>("SELECT epoch FROM rowlock.leader", &[]).await);
    let mut enqueued = 0;
    while silent.elapsed() < away_for() {
        let so_far = done().await;
        lab.sql.query("SELECT rowlock.enqueue('t') FROM generate_series(1, 20)", &[]).await.unwrap();
        enqueued += 20;
        within("jobs go on", Duration::from_secs(20), || async { done().await >= so_far + 20 }).await;
        assert!(lab.workers().await >= 1, "workers are there still");
        assert_eq!(lab.replicas("mail").await, before, "nothing shrinks");
    }
    assert_eq!(lab.one::<i64>("SELECT epoch FROM rowlock.leader", &[]).await, epoch, "it led all the time");
    let ticked = lab
        .one::<i64>("SELECT count(*) FROM rowlock.history WHERE opts -> 'headers' ->> 'rowlock-schedule' = 'tick'", &[])
        .await;
    println!(
        "away for {:?}: {enqueued} more jobs and {ticked} ticks of a second done (history had {ticks})",
        silent.elapsed()
    );
    assert!(ticked >= away_for().as_secs() as i64 - 5, "{ticked} ticks");
    proxy.speak();
    let back = Instant::now();
    lab.annotate("mail", json!({"rowlock.dev/pin-replicas": "5"})).await;
    within("it scales again", Duration::from_secs(60), || async { lab.replicas("mail").await == 5 }).await;
    println!("it scaled {:?} after the API server was back", back.elapsed());
    assert!(back.elapsed() <= Duration::from_secs(30));
    let consumed: i64 =
        lab.one("SELECT count(*) FROM rowlock.history WHERE attempts > 0 OR status <> 'completed'", &[]).await;
    assert_eq!(consumed, 0, "no attempt was consumed");
}
