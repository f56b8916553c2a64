//! Each way in which a Pod can end has its own reason.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{Pod, ResourceQuota},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api,
    api::{DeleteParams, EvictParams, PostParams},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    lab::{Lab, within},
    pods::{Census, IMAGE, PATIENCE, Worker, enqueue, job, restricted, shell},
};

/// The reason with which a job failed, or was handed back.
async fn reason(lab: &Lab, id: Uuid) -> Option<String> {
    let row = lab
        .sql
        .query_opt("SELECT reason, error FROM rowlock.history WHERE id = $1 AND status = 'failed'", &[&id])
        .await
        .unwrap();
    if let Some(row) = row {
        return Some(row.get(0));
    }
    let job = job(lab, id).await;
    let handed_back = job.error.filter(|_| job.attempts == 0)?;
    Some(handed_back.split(':').next()?.to_owned())
}

pub async fn expect(lab: &Lab, id: Uuid, want: &str) {
    let started = Instant::now();
    within(&format!("{want} is told"), PATIENCE, async || reason(lab, id).await.is_some()).await;
    assert_eq!(reason(lab, id).await.unwrap(), want, "{:?}", job(lab, id).await.error);
    let error: String = job(lab, id).await.error.unwrap_or_default().chars().take(110).collect();
    println!("{want:20} {:5.1} s  {error}", started.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_own_reason() {
    let lab = Lab::new("pods-causes").await;
    restricted(&lab).await;
    let _worker = Worker::start(&lab, 20, &["--pod-pending=25s", "--pod-pull=4s", "--grace=5s"]);
    let memory = json!({"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}});
    let huge = json!({"requests": {"cpu": "1000"}});
    let secret = json!({"TOKEN": {"from_secret": {"name": "none", "key": "k"}}});
    let host = json!({"spec": {"hostNetwork": true}});
    let disk = json!({"requests": {"cpu": "5m"}, "limits": {"memory": "64Mi", "ephemeral-storage": "8Mi"}});
    // Into the volume that the result is in.
    let fill = "/busybox dd if=/dev/zero of=$ROWLOCK_RESULT_FILE.large bs=1M count=32 2>/dev/null; /busybox sleep 100";
    let mut jobs = Vec::new();
    for (want, line, more) in [
        ("exit_code", "echo why >&2; exit 3", json!({})),
        ("signal", "kill -9 $$", json!({})),
        ("oom_killed", "x=aaaaaaaa; while true; do x=$x$x; done", json!({"resources": memory})),
        ("storage_limit", fill, json!({"resources": disk})),
        ("timeout", "/busybox sleep 100", json!({"timeout": "1 second"})),
        ("timeout", "/busybox sleep 100", json!({"pod_template": {"spec": {"activeDeadlineSeconds": 3}}})),
        ("image_pull", "true", json!({"image": "rowlock.test/none:dev"})),
        ("invalid_image_name", "true", json!({"image": "Not//An:Image"})),
        ("container_config", "true", json!({"env": secret})),
        ("unschedulable", "true", json!({"resources": huge})),
        ("admission_refused", "true", json!({"pod_template": host})),
        ("invalid_pod", "true", json!({"pod_template": {"spec": {"dnsPolicy": "Never"}}})),
        ("spawn_failed", "true", json!({"command": ["/none"]})),
        ("invalid_result", "echo nonsense > $ROWLOCK_RESULT_FILE", json!({})),
    ] {
        let name = format!("{want}-{}", jobs.len());
        shell(&lab, &name, line, more).await;
        jobs.push((enqueue(&lab, &name, json!({})).await, want));
    }
    for (id, want) in jobs {
        expect(&lab, id, want).await;
    }
}

/// Out of memory is the job's own fault: it is retried as it may be, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_for_its_memory_has_consumed_an_attempt() {
    let lab = Lab::new("pods-oom").await;
    let memory = json!({"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}});
    shell(&lab, "eat", "x=aaaaaaaa; while true; do x=$x$x; done", json!({"resources": memory, "max_retries": 1})).await;
    let id = enqueue(&lab, "eat", json!({})).await;
    let census = Census::start(&lab);
    let _worker = Worker::start(&lab, 1, &[]);
    within("it waits for its retry", PATIENCE, async || job(&lab, id).await.attempts == 1).await;
    let error = job(&lab, id).await.error.unwrap_or_default();
    assert!(error.contains("out of memory"), "{error}");
    expect(&lab, id, "oom_killed").await;
    assert_eq!(job(&lab, id).await.attempts, 1);
    let pods = census.pods()[&id.to_string()].len();
    assert_eq!(pods, 2, "a Pod for each run");
    println!("oom_killed: attempt 0 consumed, retried in another Pod, failed with attempts = 1");
}

/// Cluster-wide, and so taken away at the end.
struct Priorities<'a>(&'a Lab);

impl Priorities<'_> {
    /// Below all that others run, so that nobody else's Pod is ever in their way.
    async fn new(lab: &Lab) -> Priorities<'_> {
        let all: Api<PriorityClass> = Api::all(lab.client.clone());
        for (name, value) in [("low", -20), ("high", -10)] {
            let name = format!("{}-{name}", lab.namespace);
            let class = serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
            all.create(&PostParams::default(), &class).await.unwrap();
        }
        Priorities(lab)
    }

    fn name(&self, which: &str) -> String {
        format!("{}-{which}", self.0.namespace)
    }
}

impl Drop for Priorities<'_> {
    fn drop(&mut self) {
        let (low, high) = (self.name("low"), self.name("high"));
        let args = ["delete", "priorityclass", &low, &high];
        let _ = Command::new("kubectl").args(args).stdout(Stdio::null()).status();
    }
}

/// One that goes before the job's Pod, on the same node, beside which it will not be.
async fn preempt(lab: &Lab, victim: &Pod, priority: &str) {
    let label = json!({"matchLabels": {"preempt": "me"}});
    let apart = json!([{"labelSelector": label, "topologyKey": "kubernetes.io/hostname"}]);
    let node = json!([{"key": "metadata.name", "operator": "In", "values": [victim.spec.as_ref().unwrap().node_name]}]);
    let pod = json!({"metadata": {"name": "first"}, "spec": {
        "priorityClassName": priority, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": IMAGE, "command": ["/busybox", "sleep", "3000"]}],
        "affinity": {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart},
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": node}]}},
        },
    }});
    lab.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_preempted_or_deleted_pod_costs_its_job_no_attempt() {
    let lab = Lab::new("pods-evict").await;
    let priorities = Priorities::new(&lab).await;
    let pod = json!({"metadata": {"labels": {"preempt": "me"}}, "spec": {"priorityClassName": priorities.name("low")}});
    // Even one that ends with 0 when it is told to end has not succeeded.
    let slow = "trap 'exit 0' TERM; /busybox sleep 3000 & wait";
    shell(&lab, "slow", slow, json!({"pod_template": pod})).await;
    let _worker = Worker::start(&lab, 2, &["--grace=5s"]);
    for want in ["evicted", "preempted", "pod_deleted"] {
        let id = enqueue(&lab, "slow", json!({})).await;
        let name = format!("rowlock-job-{id}");
        let pods = lab.api::<Pod>();
        let running = |p: Option<Pod>| p.and_then(|p| p.status).and_then(|s| s.phase).as_deref() == Some("Running");
        within("its Pod runs", PATIENCE, async || running(pods.get_opt(&name).await.unwrap())).await;
        let before = pods.get(&name).await.unwrap();
        match want {
            "evicted" => drop(pods.evict(&name, &EvictParams::default()).await.unwrap()),
            "preempted" => {
                // It comes again when the other has gone: the scheduler may not look again at a Pod that it refused.
                lab.queue.pause_queue("default").await.unwrap();
                preempt(&lab, &before, &priorities.name("high")).await;
            }
            _ => drop(pods.delete(&name, &DeleteParams::default()).await.unwrap()),
        }
        expect(&lab, id, want).await;
        if want == "preempted" {
            pods.delete("first", &DeleteParams::default()).await.unwrap();
            within("the other has gone", PATIENCE, async || pods.get_opt("first").await.unwrap().is_none()).await;
            lab.queue.resume_queue("default").await.unwrap();
        }
        let again = within("it runs again in another Pod", PATIENCE, async || {
            let pod = pods.get_opt(&name).await.unwrap();
            pod.as_ref().is_some_and(|p| p.metadata.uid != before.metadata.uid) && running(pod)
        })
        .await;
        assert_eq!(job(&lab, id).await.attempts, 0);
        println!("{want}: runs again after {:.1} s more, no attempt consumed", again.as_secs_f64());
        lab.queue.cancel(id).await.unwrap();
        within("it is cancelled", PATIENCE, async || job(&lab, id).await.status == rowlock::Status::Cancelled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_hands_the_job_back_and_it_runs_when_there_is_room() {
    let lab = Lab::new("pods-quota").await;
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})).unwrap();
    let quotas = lab.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    within("the quota counts", PATIENCE, async || {
        quotas.get("none").await.unwrap().status.is_some_and(|s| s.used.is_some())
    })
    .await;
    shell(&lab, "quick", "true", json!({"image": IMAGE})).await;
    let id = enqueue(&lab, "quick", json!({})).await;
    let _worker = Worker::start(&lab, 2, &[]);
    expect(&lab, id, "quota_exceeded").await;
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    let took =
        within("it has completed", Duration::from_secs(40), async || job(&lab, id).await.status.is_terminal()).await;
    assert_eq!(job(&lab, id).await.status, rowlock::Status::Completed);
    println!("quota_exceeded: completed {:.1} s after there was room", took.as_secs_f64());
}
