//! Fifty Deployments and a thousand Pods, which KWOK's nodes play: what a turn takes, and what it asks of the API.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{ListParams, PostParams};
use serde_json::json;

use crate::lab::{Lab, within};

const DEPLOYMENTS: usize = 50;
const PODS: usize = 20;

/// How many lines of a log have both texts, and the figures behind the second.
fn figures(log: &str, text: &str, key: &str) -> Vec<f64> {
    let line = |l: &str| l.split(key).nth(1)?.split_whitespace().next()?.parse().ok();
    log.lines().filter(|l| l.contains(text)).filter_map(line).collect()
}

async fn deploy(lab: &Lab, n: usize) {
    let name = format!("d{n}");
    let annotations =
        json!({"rowlock.dev/queues": name, "rowlock.dev/max-replicas": "20", "rowlock.dev/min-replicas": "20"});
    let pod = json!({
        "containers": [{"name": "worker", "image": "rowlock.test/none:none"}], "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "type", "operator": "Equal", "value": "kwok", "effect": "NoSchedule"}],
    });
    let object = json!({
        "metadata": {"name": name, "labels": {"rowlock.dev/worker": "true"}, "annotations": annotations},
        "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": {"labels": {"app": name}}, "spec": pod}},
    });
    let object: Deployment = serde_json::from_value(object).unwrap();
    lab.api::<Deployment>().create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_over_fifty_deployments_and_a_thousand_pods_is_short_and_asks_nothing() {
    let lab = Lab::new("many").await;
    for n in 0..DEPLOYMENTS {
        deploy(&lab, n).await;
    }
    let ready = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    within("a thousand Pods run", Duration::from_secs(240), || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.pods().await.iter().filter(|p| ready(p)).count() == DEPLOYMENTS * PODS
    })
    .await;
    // A worker for each, which would live for an hour without a heartbeat.
    for pod in lab.api::<Pod>().list(&ListParams::default()).await.unwrap() {
        let (name, uid) = (pod.metadata.name.unwrap(), pod.metadata.uid.unwrap());
        let queue = vec![pod.metadata.labels.unwrap()["app"].clone()];
        let identity = format!("{uid}/1/1700000000000");
        lab.sql
            .query("SELECT rowlock.register_worker_v1($1, $2, $3, 10, 3600)", &[&name, &identity, &queue])
            .await
            .unwrap();
    }
    let controller = lab.controller(None, "rowlock=debug,kube_client=debug");
    let log = || std::fs::read_to_string(&controller.log).unwrap();
    within("it decides", Duration::from_secs(60), || async { figures(&log(), " turn ", "ms=").len() > 5 }).await;
    let asked = |log: &str| log.lines().filter(|l| l.contains("requesting")).count();
    let (before, at) = (log(), Instant::now());
    within("a minute has passed", Duration::from_secs(70), || async { at.elapsed() >= Duration::from_secs(60) }).await;
    let after = log();
    let mut turns = figures(&after[before.len()..], " turn ", "ms=");
    turns.sort_by(f64::total_cmp);
    let requests = asked(&after) - asked(&before);
    let (median, slowest) = (turns[turns.len() / 2], turns[turns.len() - 1]);
    println!(
        "{} turns over {DEPLOYMENTS} Deployments and {} Pods: {median:.1} ms (median), {slowest:.1} ms (slowest)",
        turns.len(),
        DEPLOYMENTS * PODS
    );
    println!("{requests} API requests in a minute at rest");
    assert!(slowest <= 250.0 && requests <= 10);
}
