//! Jobs by plain SQL: from nothing to many workers, and back to nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::api::ListParams;
use rowlock::cluster::{Cluster, ClusterOptions};
use serde_json::json;
use tokio::sync::Notify;

use crate::lab::{Lab, eventually, within};

#[tokio::test(flavor = "multi_thread")]
async fn bursts_by_sql_bring_workers_at_once_and_then_they_go() {
    let lab = Lab::new("bursts").await;
    lab.job_type("t", 20, false).await;
    let annotations =
        json!({"rowlock.dev/max-replicas": "6", "rowlock.dev/target-wait": "4s", "rowlock.dev/scale-down-delay": "2s"});
    lab.deployment("mail", "default", 4, annotations, "256Mi").await;
    let _controller = lab.controller(None, "rowlock=info");
    let options = ClusterOptions { namespace: Some(lab.namespace.clone()), ..ClusterOptions::default() };
    let cluster = Cluster::find(&options).await.unwrap().unwrap();
    let changed = Arc::new(Notify::new());
    let seen = cluster.watch::<Deployment>("rowlock.dev/worker=true", changed.clone());
    let size = || seen.all().and_then(|d| d.first()?.spec.as_ref()?.replicas).unwrap_or(-1);
    let (mut rises, mut jobs, most) = (Vec::new(), 0i64, AtomicI32::new(0));
    for burst in 0..10 {
        eventually("it is at rest and wants a NOTIFY", || async {
            size() == 0 && lab.one::<bool>("SELECT count(*) > 0 FROM rowlock.subscription", &[]).await
        })
        .await;
        let n: i32 = if burst == 0 { 2000 } else { 300 };
        jobs += i64::from(n);
        lab.sql.query("SELECT rowlock.enqueue('t') FROM generate_series(1, $1)", &[&n]).await.unwrap();
        let committed = Instant::now();
        while size() == 0 {
            let news = tokio::time::timeout(Duration::from_secs(10), changed.notified()).await;
            assert!(news.is_ok(), "burst {burst}: not scaled within ten seconds of the commit");
        }
        rises.push(committed.elapsed());
        let done = within("all jobs are done", Duration::from_secs(120), || async {
            most.fetch_max(size(), Ordering::Relaxed);
            lab.one::<i64>("SELECT sum(completed)::int8 FROM rowlock.demand()", &[]).await == jobs
        })
        .await;
        println!("burst {burst}: {n} jobs, scaled after {:?}, done after {done:?}", rises[burst]);
    }
    eventually("it is back at zero", || async { size() == 0 && lab.workers().await == 0 }).await;
    rises.sort();
    println!(
        "0 -> {most:?} -> 0; the scale patch was seen {:?} (median), {:?} (p99) after the commit",
        rises[5], rises[9]
    );
    lab.ledger.judge(&lab, jobs).await;
    let events = lab.api::<Event>().list(&ListParams::default()).await.unwrap();
    let told = |reason: &str| events.iter().filter(|e| e.reason.as_deref() == Some(reason)).count();
    println!("Events: {} ScalingOut, {} ScalingIn", told("ScalingOut"), told("ScalingIn"));
    assert!(told("ScalingOut") > 0 && told("ScalingIn") > 0);
    assert!(rises[9] <= Duration::from_millis(500), "{rises:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_annotations_are_told_and_nothing_is_done() {
    let lab = Lab::new("wrong").await;
    lab.job_type("t", 20, false).await;
    lab.deployment("mail", "default", 4, json!({"rowlock.dev/max-replicas": "many"}), "256Mi").await;
    let _controller = lab.controller(None, "rowlock=info");
    lab.sql.query("SELECT rowlock.enqueue('t')", &[]).await.unwrap();
    let note = || async {
        let events = lab.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.into_iter().find(|e| e.reason.as_deref() == Some("InvalidAnnotations")).and_then(|e| e.note)
    };
    eventually("an Event tells", || async { note().await.is_some() }).await;
    assert!(note().await.unwrap().contains("rowlock.dev/max-replicas: expected a number"), "{:?}", note().await);
    let counted = "SELECT count(*) FROM rowlock.metrics_v1() WHERE what = 'scaler_error' AND label = 'invalid_annotations' AND value >= 1";
    eventually("it is counted", || async { lab.one::<i64>(counted, &[]).await == 1 }).await;
    assert_eq!(lab.replicas("mail").await, 0);
    lab.annotate("mail", json!({"rowlock.dev/max-replicas": "3"})).await;
    eventually("it is corrected and scaled", || async { lab.replicas("mail").await > 0 }).await;
}
