//! Workers that give each job a Pod, on a real cluster: results, adoption, what is left.
//!
//! Needs the image rowlock.test/rowlock-pods:dev on the nodes: this program, static, as /rowlock, and a static /busybox.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lab::{Lab, program, within};

pub const IMAGE: &str = "rowlock.test/rowlock-pods:dev";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A worker of this machine, killed at the end.
pub struct Worker(Child);

impl Worker {
    pub fn start(lab: &Lab, slots: u32, more: &[&str]) -> Worker {
        let log = File::create(std::env::temp_dir().join(format!("{}.worker.{}.log", lab.namespace, Uuid::now_v7())))
            .unwrap();
        let child = program()
            .args(["worker", "--launch=pod", "--http=127.0.0.1:0", "--log-format=text", "-n", &lab.namespace])
            .args([&format!("--pod-image={IMAGE}"), &format!("--concurrency={slots}")])
            .args(more)
            .env("DATABASE_URL", &lab.url)
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Worker(child)
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace that admits what is restricted, and nothing else.
pub async fn restricted(lab: &Lab) {
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let all: Api<Namespace> = Api::all(lab.client.clone());
    all.patch_metadata(&lab.namespace, &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
}

/// A type that runs a line of shell in a Pod; `more` adds columns.
pub async fn shell(lab: &Lab, name: &str, line: &str, more: Value) {
    let mut row = json!({
        "name": name, "launch": "pod", "image": IMAGE, "command": ["/busybox", "sh", "-c", line], "max_retries": 0,
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.sql.query("SELECT rowlock.put_job_type($1)", &[&row]).await.unwrap();
}

pub async fn enqueue(lab: &Lab, job_type: &str, payload: Value) -> Uuid {
    lab.one("SELECT id FROM rowlock.enqueue($1, $2)", &[&job_type, &payload]).await
}

pub async fn job(lab: &Lab, id: Uuid) -> rowlock::Job {
    lab.queue.get_job(id).await.unwrap().expect("it is kept")
}

pub async fn nothing_left(lab: &Lab) -> Duration {
    within("no Pod and no Secret is left", PATIENCE, async || {
        let secrets = lab.api::<Secret>().list(&ListParams::default().labels("rowlock.dev/job")).await.unwrap();
        lab.pods().await.is_empty() && secrets.items.is_empty()
    })
    .await
}

/// The UIDs of each job's Pods.
pub type PodsOfJobs = BTreeMap<String, BTreeSet<String>>;

/// Which Pods there were, by job, and the most at once; looked at until it is dropped.
pub struct Census {
    seen: Arc<Mutex<(PodsOfJobs, usize)>>,
    task: tokio::task::JoinHandle<()>,
}

impl Census {
    pub fn start(lab: &Lab) -> Census {
        let seen = Arc::new(Mutex::new((PodsOfJobs::new(), 0)));
        let (pods, kept) = (lab.api::<Pod>(), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok(list) = pods.list(&ListParams::default()).await else { continue };
                {
                    let mut seen = kept.lock().unwrap();
                    let lives = |p: &&Pod| {
                        !matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
                    };
                    seen.1 = seen.1.max(list.items.iter().filter(lives).count());
                    for pod in list.items {
                        let job = pod.metadata.labels.unwrap_or_default()["rowlock.dev/job"].clone();
                        seen.0.entry(job).or_default().insert(pod.metadata.uid.unwrap());
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Census { seen, task }
    }

    pub fn pods(&self) -> PodsOfJobs {
        self.seen.lock().unwrap().0.clone()
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_jobs_twenty_pods_at_a_time_where_only_restricted_pods_may_be() {
    let lab = Lab::new("pods").await;
    restricted(&lab).await;
    shell(&lab, "echo", "/busybox cat \"$ROWLOCK_PAYLOAD_FILE\" > \"$ROWLOCK_RESULT_FILE\"", json!({})).await;
    lab.sql
        .query(
            "SELECT count(*) FROM generate_series(1, 200) n, rowlock.enqueue('echo', jsonb_build_object('n', n))",
            &[],
        )
        .await
        .unwrap();
    let (census, started) = (Census::start(&lab), Instant::now());
    let _worker = Worker::start(&lab, 20, &[]);
    within("all have ended", Duration::from_secs(400), async || {
        lab.one::<i64>("SELECT count(*) FROM rowlock.history", &[]).await == 200
    })
    .await;
    let took = started.elapsed();
    let right: i64 =
        lab.one("SELECT count(*) FROM rowlock.history WHERE status = 'completed' AND result = payload", &[]).await;
    assert_eq!(right, 200);
    let left = nothing_left(&lab).await;
    let (pods, most) = (census.pods(), census.seen.lock().unwrap().1);
    assert!(most <= 20, "{most} Pods at once");
    assert!(pods.values().all(|uids| uids.len() == 1), "a job had two Pods");
    println!(
        "200 jobs: {:.1} s, at most {most} Pods at once, all results right, 0 Pods and Secrets left {:.1} s later",
        took.as_secs_f64(),
        left.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_pods_are_adopted_and_none_runs_twice() {
    let lab = Lab::new("pods-adopt").await;
    // What a second run would leave: the name of the container's own Pod counts.
    shell(&lab, "slow", "/busybox sleep 15; echo \"\\\"$ROWLOCK_JOB_ID\\\"\" > \"$ROWLOCK_RESULT_FILE\"", json!({}))
        .await;
    for n in 0..6 {
        enqueue(&lab, "slow", json!({"n": n})).await;
    }
    let census = Census::start(&lab);
    let first = Worker::start(&lab, 6, &["--lease=3s"]);
    within("six Pods run", PATIENCE, async || running(&lab).await == 6).await;
    first.kill();
    let killed = Instant::now();
    let _second = Worker::start(&lab, 6, &["--lease=3s"]);
    within("all have completed", PATIENCE, async || {
        lab.one::<i64>("SELECT count(*) FROM rowlock.history WHERE status = 'completed' AND attempts = 0 AND result #>> '{}' = id::text", &[]).await == 6
    })
    .await;
    let took = killed.elapsed();
    nothing_left(&lab).await;
    let pods = census.pods();
    assert_eq!(pods.len(), 6);
    assert!(pods.values().all(|uids| uids.len() == 1), "{pods:?}");
    println!(
        "worker killed with 6 Pods: all adopted, 6 UIDs for 6 jobs, completed {:.1} s after, no attempt consumed",
        took.as_secs_f64()
    );
}

pub async fn running(lab: &Lab) -> usize {
    let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone());
    lab.pods().await.iter().filter(|p| phase(p).as_deref() == Some("Running")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_job_was_cancelled_meanwhile_is_removed() {
    let lab = Lab::new("pods-sweep").await;
    shell(&lab, "slow", "/busybox sleep 300", json!({})).await;
    let id = enqueue(&lab, "slow", json!({})).await;
    let first = Worker::start(&lab, 1, &["--lease=3s"]);
    within("its Pod runs", PATIENCE, async || running(&lab).await == 1).await;
    first.kill();
    // Rescued by hand and cancelled before anybody has it.
    within("it was rescued", PATIENCE, async || {
        lab.sql.query("SELECT rowlock.maintain_v1(gen_random_uuid())", &[]).await.unwrap();
        job(&lab, id).await.status == rowlock::Status::Pending
    })
    .await;
    lab.queue.cancel(id).await.unwrap();
    let _other = Worker::start(&lab, 1, &[]);
    let took = within("the Pod is gone", Duration::from_secs(30), async || lab.pods().await.is_empty()).await;
    println!("a leaseless Pod was removed within {:.1} s of a worker's start", took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_payload_comes_back_progress_is_seen_and_logs_are_read() {
    let lab = Lab::new("pods-large").await;
    let line = "echo 'half way' >> \"$ROWLOCK_PROGRESS_FILE\"; echo said; /busybox cat > \"$ROWLOCK_RESULT_FILE\"; /busybox sleep 5";
    shell(&lab, "echo", line, json!({})).await;
    let text = "x".repeat(1_048_576 - r#"{"a": ""}"#.len());
    let id = enqueue(&lab, "echo", json!({"a": text})).await;
    let _worker = Worker::start(&lab, 1, &[]);
    within("progress is stored", PATIENCE, async || job(&lab, id).await.progress == Some(json!("half way"))).await;
    let logs = program()
        .args(["jobs", "logs", &id.to_string(), "-n", &lab.namespace])
        .env("DATABASE_URL", &lab.url)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(logs.stdout).unwrap(), "said\n");
    within("it has ended", PATIENCE, async || job(&lab, id).await.status.is_terminal()).await;
    let done = job(&lab, id).await;
    assert_eq!(done.status, rowlock::Status::Completed, "{:?}", done.error);
    let same: bool = lab.one("SELECT result = payload FROM rowlock.history WHERE id = $1", &[&id]).await;
    assert!(same);
    println!("a payload of 1 MiB went in by a Secret and came back as the result");
}
