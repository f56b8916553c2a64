//! Pods that end while their jobs run: the jobs run again as soon as the API shows it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams};
use serde_json::json;

use crate::lab::{Lab, eventually, within};

const PROMPT: Duration = Duration::from_secs(2);

/// Two workers, of which one has the job.
async fn with_job(name: &str) -> (Lab, crate::lab::Controller, String) {
    let lab = Lab::new(name).await;
    lab.job_type("t", 30_000, true).await;
    lab.deployment("mail", "default", 1, json!({"rowlock.dev/pin-replicas": "2"}), "256Mi").await;
    let controller = lab.controller(None, "rowlock=debug");
    eventually("two workers are there", || async { lab.workers().await == 2 }).await;
    lab.sql.query("SELECT rowlock.enqueue('t')", &[]).await.unwrap();
    eventually("the job runs", || async { !holder(&lab).await.is_empty() }).await;
    let pod = holder(&lab).await;
    (lab, controller, pod)
}

/// The Pod in which the job runs.
async fn holder(lab: &Lab) -> String {
    lab.one("SELECT coalesce(max(worker), '') FROM rowlock.jobs WHERE status = 'running'", &[]).await
}

async fn runs_elsewhere(lab: &Lab, before: &str, what: &str) {
    let waited = within("the job runs elsewhere", Duration::from_secs(20), || async {
        let now = holder(lab).await;
        !now.is_empty() && now != before
    })
    .await;
    println!("{what}: the job ran again {waited:?} after the API showed it");
    assert_eq!(lab.one::<i16>("SELECT attempts FROM rowlock.jobs WHERE status = 'running'", &[]).await, 0);
    assert!(waited <= PROMPT, "{what}: {waited:?}");
}

async fn is_gone(lab: &Lab, pod: &str) {
    eventually("the API shows it", || async { lab.api::<Pod>().get_opt(pod).await.unwrap().is_none() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_without_grace_gives_its_job_back() {
    let (lab, _controller, pod) = with_job("deleted").await;
    lab.kill(&pod).await;
    is_gone(&lab, &pod).await;
    runs_elsewhere(&lab, &pod, "deleted with grace 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_gives_its_job_back() {
    let (lab, _controller, pod) = with_job("evicted").await;
    let delete_options = Some(DeleteParams::default().grace_period(0));
    lab.api::<Pod>().evict(&pod, &EvictParams { delete_options, ..EvictParams::default() }).await.unwrap();
    is_gone(&lab, &pod).await;
    runs_elsewhere(&lab, &pod, "evicted").await;
}

/// Payloads that its memory cannot hold: the worker itself is the largest process.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_for_its_memory_gives_its_jobs_back() {
    let lab = Lab::new("oom").await;
    lab.job_type("t", 60_000, true).await;
    lab.deployment("mail", "default", 60, json!({"rowlock.dev/pin-replicas": "1"}), "96Mi").await;
    let _controller = lab.controller(None, "rowlock=debug");
    eventually("a worker is there", || async { lab.workers().await == 1 }).await;
    let before: String = lab.one("SELECT max(identity) FROM rowlock.workers", &[]).await;
    let payload = json!({"text": "x".repeat(900_000)});
    for _ in 0..60 {
        lab.sql.query("SELECT rowlock.enqueue('t', $1)", &[&payload]).await.unwrap();
    }
    let killed = |p: &Pod| {
        let statuses = p.status.as_ref().and_then(|s| s.container_statuses.clone()).unwrap_or_default();
        let ended = statuses.into_iter().flat_map(|c| [c.state, c.last_state]).flatten().filter_map(|s| s.terminated);
        ended.into_iter().any(|t| t.reason.as_deref() == Some("OOMKilled"))
    };
    eventually("the API shows that it was killed", || async { lab.pods().await.iter().any(killed) }).await;
    let shown = Instant::now();
    eventually("its lease is over", || async {
        let lives = "SELECT count(*) FROM rowlock.workers WHERE identity = $1 AND running > 0";
        lab.one::<i64>(lives, &[&before]).await == 0
    })
    .await;
    println!("killed for its memory: its jobs were put back {:?} after the API showed it", shown.elapsed());
    assert!(shown.elapsed() <= PROMPT);
    let consumed: i64 = lab.one("SELECT count(*) FROM rowlock.jobs WHERE attempts > 0", &[]).await;
    assert_eq!(consumed, 0, "no attempt is consumed");
}
