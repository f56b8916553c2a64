//! Taking Pods away under load: never one that works while one is idle.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use rowlock::cluster::{Cluster, ClusterOptions};
use serde_json::json;
use tokio::sync::Notify;

use crate::lab::{Lab, within};

const ROUNDS: usize = 6;
const DEPLOYMENTS: usize = 5;
const LONG: Duration = Duration::from_secs(120);

/// How many Pods were told to end, and how many of those had a job while another of theirs had none.
async fn count(lab: &Lab, end: Arc<AtomicBool>) -> (usize, usize) {
    let options = ClusterOptions { namespace: Some(lab.namespace.clone()), ..ClusterOptions::default() };
    let cluster = Cluster::find(&options).await.unwrap().unwrap();
    let changed = Arc::new(Notify::new());
    let pods = cluster.watch::<Pod>("app", changed.clone());
    let (mut told, mut busy) = (HashSet::new(), 0);
    while !end.load(Ordering::Relaxed) {
        let _ = tokio::time::timeout(Duration::from_millis(200), changed.notified()).await;
        for pod in pods.all().unwrap_or_default().iter().filter(|p| p.metadata.deletion_timestamp.is_some()) {
            let uid = pod.metadata.uid.clone().unwrap();
            if told.insert(uid.clone()) {
                let app = &pod.metadata.labels.as_ref().unwrap()["app"];
                let (busy_one, idle): (bool, bool) = {
                    let row = lab
                        .sql
                        .query_one(
                            "SELECT coalesce(bool_or(running > 0) FILTER (WHERE identity LIKE $1 || '/%'), false),
                                    coalesce(bool_or(running = 0) FILTER (WHERE identity NOT LIKE $1 || '/%'), false)
                               FROM rowlock.workers WHERE name LIKE $2 || '-%' AND NOT draining OR identity LIKE $1 || '/%'",
                            &[&uid, app],
                        )
                        .await
                        .unwrap();
                    (row.get(0), row.get(1))
                };
                busy += usize::from(busy_one && idle);
            }
        }
    }
    (told.len(), busy)
}

/// A Deployment that goes up to five and down to two again and again, while two of the five work.
async fn go_up_and_down(lab: &Lab, name: &str) {
    let workers = |n: i64| async move {
        let sql = "SELECT count(*) FROM rowlock.workers WHERE name LIKE $1 || '-%' AND NOT draining";
        lab.one::<i64>(sql, &[&name]).await == n
    };
    for _ in 0..ROUNDS {
        lab.annotate(name, json!({"rowlock.dev/pin-replicas": "5"})).await;
        within("five workers are there", LONG, || workers(5)).await;
        lab.sql.query("SELECT rowlock.enqueue('t', queue => $1) FROM generate_series(1, 2)", &[&name]).await.unwrap();
        let running = "SELECT coalesce(sum(running), 0)::int8 FROM rowlock.queues WHERE queue = $1";
        within("two of them work", LONG, || async { lab.one::<i64>(running, &[&name]).await == 2 }).await;
        lab.annotate(name, json!({"rowlock.dev/pin-replicas": "2"})).await;
        within("it is set to two", LONG, || async { lab.replicas(name).await == 2 }).await;
        within("two are left", LONG, || workers(2)).await;
        let waiting = "SELECT coalesce(sum(running + pending), 0)::int8 FROM rowlock.queues WHERE queue = $1";
        within("its jobs are done", LONG, || async { lab.one::<i64>(waiting, &[&name]).await == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_times_fewer_under_load_and_no_pod_that_works_is_taken() {
    let lab = Lab::new("fewer").await;
    lab.job_type("t", 8_000, true).await;
    let names: Vec<String> = (0..DEPLOYMENTS).map(|n| format!("d{n}")).collect();
    for name in &names {
        lab.deployment(name, name, 1, json!({"rowlock.dev/pin-replicas": "0"}), "256Mi").await;
    }
    let _controller = lab.controller(None, "rowlock=info");
    let end = Arc::new(AtomicBool::new(false));
    let all = async {
        futures_util::future::join_all(names.iter().map(|name| go_up_and_down(&lab, name))).await;
        end.store(true, Ordering::Relaxed);
    };
    let ((told, busy), ()) = tokio::join!(count(&lab, end.clone()), all);
    println!("{} scale-ins took {told} Pods; {busy} of them worked while another was idle", ROUNDS * DEPLOYMENTS);
    assert!(told >= 3 * ROUNDS * DEPLOYMENTS, "{told} Pods were told to end");
    assert_eq!(busy, 0);
    lab.ledger.judge(&lab, 2 * (ROUNDS * DEPLOYMENTS) as i64).await;
}
