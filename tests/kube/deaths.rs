//! Pods that end while their jobs run: the jobs run again as soon as the API shows it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams};
use serde_json::json;

use crate::{
    harness::Harness,
    lab::{Lab, eventually, within},
    pods::job,
};

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
    lab.deployment("mail", "default", 60, json!({"rowlock.dev/pin-replicas": "1"}), "48Mi").await;
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

/// What is killed is the job, which is the largest process: a failure of its own, which leaves the worker as it is. Where
/// the kubelet has all of a container killed (cgroup v2), it would be the worker's death.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_for_its_memory_consumes_an_attempt_and_its_worker_lives() {
    let Some(_cgroup_v1) = Harness::find() else { return };
    let lab = Lab::new("oom-job").await;
    let command = ["/job", "0", "once", "eat", &format!("ledger={}", lab.ledger.address)];
    let row = json!({"name": "eat", "launch": "process", "command": command, "max_retries": 1});
    lab.sql.query("SELECT rowlock.put_job_type($1)", &[&row]).await.unwrap();
    lab.job_type("t", 10_000, true).await;
    lab.deployment("mail", "default", 2, json!({"rowlock.dev/pin-replicas": "1"}), "96Mi").await;
    let _controller = lab.controller(None, "rowlock=debug");
    eventually("a worker is there", || async { lab.workers().await == 1 }).await;
    let worker = || lab.one::<String>("SELECT max(identity) FROM rowlock.workers", &[]);
    let before = worker().await;
    lab.sql.query("SELECT rowlock.enqueue('t')", &[]).await.unwrap();
    let id = lab.one("SELECT id FROM rowlock.enqueue('eat')", &[]).await;
    eventually("it has failed", || async { job(&lab, id).await.status == rowlock::Status::Failed }).await;
    let failed = job(&lab, id).await;
    let reason: String = lab.one("SELECT reason FROM rowlock.history WHERE id = $1", &[&id]).await;
    let runs = lab.ledger.runs_of(id);
    println!(
        "a command killed for its memory: {reason}, attempts = {}, {} runs: {:?}",
        failed.attempts,
        runs.len(),
        failed.error
    );
    assert_eq!((&*reason, failed.attempts, runs.len()), ("signal", 1, 2));
    let done = "SELECT count(*) FROM rowlock.history WHERE type = 't' AND status = 'completed' AND attempts = 0";
    eventually("the job beside it is done", || async { lab.one::<i64>(done, &[]).await == 1 }).await;
    assert_eq!(worker().await, before, "the same worker lives");
    let pods = lab.pods().await;
    let restarts = pods[0].status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
    assert_eq!((pods.len(), restarts), (1, 0));
}
