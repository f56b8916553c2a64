//! The API server out of reach for minutes: what runs goes on, nothing shrinks, and soon after it is back all is well.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    harness::{Harness, Killed},
    lab::{Lab, eventually, within},
    proxy::Proxy,
};

/// Longer than the minute in which a watch must be noticed that is half there.
const SILENT: Duration = Duration::from_secs(75);
const STOPPED: Duration = Duration::from_secs(120);
const BACK: Duration = Duration::from_secs(30);

/// How it goes away.
enum Away {
    /// From the controller alone: its connections stay, and nothing passes.
    Silent(Proxy),
    /// From everybody, as a process that ends.
    Stopped(Harness, Option<Killed>),
}

impl Away {
    fn begin(&mut self) {
        match self {
            Away::Silent(proxy) => proxy.fall_silent(),
            Away::Stopped(harness, killed) => *killed = Some(harness.kill("kube-apiserver")),
        }
    }

    /// Returns when it is back.
    fn end(&self) {
        match self {
            Away::Silent(proxy) => proxy.speak(),
            Away::Stopped(_, killed) => killed.iter().for_each(Killed::start),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_falls_silent_stops_no_job_and_nothing_shrinks() {
    let lab = Lab::new("silent").await;
    let proxy = Proxy::start(&lab.kubeconfig).await;
    let kubeconfig = proxy.kubeconfig.clone();
    go_on(&lab, &kubeconfig, Away::Silent(proxy), SILENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_stopped_stops_no_job_and_nothing_shrinks() {
    let Some(harness) = Harness::find() else { return };
    let lab = Lab::new("stopped").await;
    go_on(&lab, &lab.kubeconfig, Away::Stopped(harness, None), STOPPED).await;
}

async fn go_on(lab: &Lab, kubeconfig: &std::path::Path, mut away: Away, how_long: Duration) {
    lab.job_type("t", 50, false).await;
    // It begins before and ends meanwhile.
    let long = how_long - Duration::from_secs(20);
    lab.job_type("long", u32::try_from(long.as_millis()).unwrap(), true).await;
    let annotations =
        json!({"rowlock.dev/max-replicas": "4", "rowlock.dev/target-wait": "1s", "rowlock.dev/scale-down-delay": "5s"});
    lab.deployment("mail", "default", 2, annotations, "256Mi").await;
    let schedule = json!({"name": "tick", "type": "t", "every": "1 second"});
    lab.sql.query("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();
    let _controller = lab.controller(Some(kubeconfig), "rowlock=info");
    let long = lab.one("SELECT id FROM rowlock.enqueue('long', priority => 9)", &[]).await;
    lab.sql.query("SELECT rowlock.enqueue('t') FROM generate_series(1, 400)", &[]).await.unwrap();
    eventually("workers are there", || async { lab.workers().await >= 2 }).await;
    eventually("the long job runs", || async { lab.ledger.runs_of(long).len() == 1 }).await;
    let done = || lab.one::<i64>("SELECT sum(completed)::int8 FROM rowlock.demand()", &[]);
    let ticks = |since: DateTime<Utc>| async move {
        let of = "SELECT count(*) FROM rowlock.history
                   WHERE opts -> 'headers' ->> 'rowlock-schedule' = 'tick' AND created_at >= $1";
        lab.one::<i64>(of, &[&since]).await
    };
    let (before, since) = (lab.replicas("mail").await, lab.one("SELECT clock_timestamp()", &[]).await);
    let epoch = || lab.one::<i64>("SELECT epoch FROM rowlock.leader", &[]);
    let reign = epoch().await;
    away.begin();
    let gone = Instant::now();
    let mut enqueued = 0;
    while gone.elapsed() < how_long {
        let so_far = done().await;
        lab.sql.query("SELECT rowlock.enqueue('t') FROM generate_series(1, 20)", &[]).await.unwrap();
        enqueued += 20;
        within("jobs go on", Duration::from_secs(20), || async { done().await >= so_far + 20 }).await;
        assert!(lab.workers().await >= 1, "workers are there still");
        if matches!(away, Away::Silent(_)) {
            assert_eq!(lab.replicas("mail").await, before, "nothing shrinks");
        }
    }
    let (lasted, ticked) = (gone.elapsed(), ticks(since).await);
    assert_eq!(epoch().await, reign, "it led all the time");
    let runs = lab.ledger.runs_of(long);
    assert!(runs.len() == 1 && runs[0].end.is_some_and(|end| end > gone), "{runs:?}");
    println!("away for {lasted:?}: a long job ended, {enqueued} more jobs and {ticked} ticks of a second were done");
    assert!(ticked >= lasted.as_secs() as i64 - 5, "{ticked} ticks");
    away.end();
    let back = Instant::now();
    let size = lab.replicas("mail").await;
    assert!(size >= 1, "{size} replicas");
    lab.annotate("mail", json!({"rowlock.dev/pin-replicas": "5"})).await;
    within("it scales again", Duration::from_secs(60), || async { lab.replicas("mail").await == 5 }).await;
    println!("{size} replicas, were {before}; it scaled {:?} after the API server was back", back.elapsed());
    assert!(back.elapsed() <= BACK);
    lab.sql.query("SELECT rowlock.remove_schedule('tick')", &[]).await.unwrap();
    let waiting = "SELECT coalesce(sum(running + pending), 0)::int8 FROM rowlock.queues";
    eventually("all jobs are done", || async { lab.one::<i64>(waiting, &[]).await == 0 }).await;
    lab.ledger.judge(lab, 1 + 400 + enqueued + ticks(DateTime::UNIX_EPOCH).await).await;
}
