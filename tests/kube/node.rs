//! The node's kubelet is killed, and away for minutes: its containers run on, and the API believes otherwise.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::Harness,
    lab::{Controller, Lab, eventually, within},
    pods::{Worker, enqueue, job, shell},
    pods_causes::expect,
};

/// Of a worker, unless it is told another.
const LEASE: Duration = Duration::from_secs(30);
const PROMPT: Duration = Duration::from_secs(2);
/// A minute until the node is taken for lost, and what follows.
const LOST: Duration = Duration::from_secs(120);

/// A lost node's Pods are told to end after seconds, instead of minutes.
fn tolerations() -> Value {
    let of = |taint: &str| {
        let key = format!("node.kubernetes.io/{taint}");
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5})
    };
    json!([of("unreachable"), of("not-ready")])
}

fn in_a_pod() -> Value {
    json!({"queue": "pods", "pod_template": {"spec": {"tolerations": tolerations()}}})
}

/// What was asked of warm workers.
struct Work<'a> {
    lab: &'a Lab,
    enqueued: i64,
}

impl Work<'_> {
    async fn long(&mut self, jobs: i32) -> Vec<Uuid> {
        let sql = "SELECT (rowlock.enqueue('long', priority => 9)).id FROM generate_series(1, $1)";
        let ids: Vec<Uuid> = self.lab.sql.query(sql, &[&jobs]).await.unwrap().iter().map(|r| r.get(0)).collect();
        self.enqueued += i64::from(jobs);
        eventually("the long jobs run", || async { ids.iter().all(|id| self.lab.ledger.runs_of(*id).len() == 1) })
            .await;
        ids
    }

    /// Short jobs again and again, until the answer is yes; how many they were.
    async fn short_until(&mut self, what: &str, mut ask: impl AsyncFnMut() -> bool) -> i64 {
        const OPEN: &str =
            "SELECT coalesce(sum(running + pending), 0)::int8 FROM rowlock.demand() WHERE type = 'short'";
        let (started, before) = (Instant::now(), self.enqueued);
        loop {
            let n = 20;
            self.lab.sql.query("SELECT rowlock.enqueue('short') FROM generate_series(1, $1)", &[&n]).await.unwrap();
            self.enqueued += i64::from(n);
            within("queued jobs go on", Duration::from_secs(20), || async {
                self.lab.one::<i64>(OPEN, &[]).await == 0
            })
            .await;
            if ask().await {
                return self.enqueued - before;
            }
            assert!(started.elapsed() < LOST, "waited {LOST:?} in vain until {what}");
        }
    }
}

async fn pods_of_workers(lab: &Lab) -> Vec<Pod> {
    lab.pods().await.into_iter().filter(|p| p.metadata.name.as_ref().unwrap().starts_with("mail-")).collect()
}

async fn identities(lab: &Lab) -> Vec<String> {
    let sql = "SELECT identity FROM rowlock.workers WHERE name LIKE 'mail-%' ORDER BY 1";
    lab.sql.query(sql, &[]).await.unwrap().iter().map(|r| r.get(0)).collect()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap()
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The first process of a Pod's worker, on this machine.
fn process(pod: &str) -> i32 {
    let read = |process: &Path, file: &str| std::fs::read_to_string(process.join(file)).unwrap_or_default();
    let is_first = |process: &Path| {
        read(process, "cgroup").contains(&format!("pod{pod}/"))
            && read(process, "cmdline").starts_with("/rowlock\0worker\0")
            && read(process, "status").lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"))
    };
    let found = std::fs::read_dir("/proc").unwrap().map(|p| p.unwrap().path()).find(|p| is_first(p));
    found.expect("the worker's process").file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// Two warm workers, and a job in a Pod of its own.
struct Scene {
    lab: Lab,
    _controller: Controller,
    _worker: Worker,
    /// The first workers' identities.
    workers: Vec<String>,
    in_pod: Uuid,
}

impl Scene {
    async fn new() -> Scene {
        let lab = Lab::new("node").await;
        lab.job_type("short", 50, false).await;
        lab.job_type("long", 20_000, true).await;
        lab.deployment("mail", "default", 12, json!({"rowlock.dev/pin-replicas": "2"}), "256Mi").await;
        lab.patch_pods("mail", json!({"tolerations": tolerations()})).await;
        let controller = lab.controller(None, "rowlock=debug");
        let worker = Worker::start(&lab, 1, &["--queue=pods", "--grace=5s"]);
        eventually("two workers are there", || async { identities(&lab).await.len() == 2 }).await;
        shell(&lab, "pod", "/busybox sleep 3000", in_a_pod()).await;
        let in_pod = enqueue(&lab, "pod", json!({})).await;
        let workers = identities(&lab).await;
        let scene = Scene { lab, _controller: controller, _worker: worker, workers, in_pod };
        eventually("the job's Pod runs", || async { scene.pod_of_job().await.is_some_and(|p| is_ready(&p)) }).await;
        scene
    }

    async fn pod_of_job(&self) -> Option<Pod> {
        self.lab.api::<Pod>().get_opt(&format!("rowlock-job-{}", self.in_pod)).await.unwrap()
    }

    async fn declared_lost(&self, work: &mut Work<'_>, stopped: Instant) {
        let long = work.long(4).await;
        let lost = async || {
            let node: Node = Api::all(self.lab.client.clone()).get("node1").await.unwrap();
            let conditions = node.status.unwrap().conditions.unwrap();
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown")
        };
        let jobs = work.short_until("the node is declared lost", lost).await;
        println!("without a kubelet: lost after {:?}, {jobs} jobs done until then", stopped.elapsed());
        let leaving = async || {
            let pods = pods_of_workers(&self.lab).await;
            self.workers.iter().all(|w| pods.iter().any(|p| w.starts_with(uid(p)) && is_leaving(p)))
        };
        let jobs = work.short_until("its Pods are told to end", leaving).await;
        println!("its Pods were told to end after {:?}, {jobs} more jobs done until then", stopped.elapsed());
        let others = async || pods_of_workers(&self.lab).await.len() == 4;
        let jobs = work.short_until("others are made, which no node takes", others).await;
        println!("{jobs} more jobs done in Pods that end, for all that the API says");
        assert_eq!(identities(&self.lab).await, self.workers, "the same workers live");
        let ran = |id: &Uuid| self.lab.ledger.runs_of(*id)[0].end.is_some();
        assert!(long.iter().all(ran), "what ran when the kubelet ended has ended meanwhile");
    }

    /// The API shows nothing of it: its jobs run again when its lease is over.
    async fn one_dies(&self, work: &mut Work<'_>) {
        const HELD: &str = "SELECT id, worker FROM rowlock.jobs WHERE type = 'long' AND status = 'running' AND worker =
            (SELECT max(worker) FROM rowlock.jobs WHERE type = 'long' AND status = 'running')";
        let ledger = &self.lab.ledger;
        work.long(6).await;
        let held = self.lab.sql.query(HELD, &[]).await.unwrap();
        let pod = self.lab.api::<Pod>().get(held[0].get(1)).await.unwrap();
        kill(process(uid(&pod)));
        let ids: Vec<Uuid> = held.iter().map(|r| r.get(0)).collect();
        let again = || async { ids.iter().all(|id| ledger.runs_of(*id).len() == 2) };
        within("its jobs run again", LEASE + 5 * PROMPT, again).await;
        let times = ids.iter().map(|id| ledger.runs_of(*id)).map(|runs| runs[1].begin - runs[0].died.expect("it died"));
        let slowest = times.max().unwrap();
        println!("a worker died there: its {} jobs ran again {slowest:?} after, by the lease", ids.len());
        assert!(slowest <= LEASE + PROMPT);
        work.short_until("the other works on", async || true).await;
    }

    /// Nobody can say whether it runs there still; at some time its job goes back.
    async fn pod_is_given_up(&self, first: &Pod, stopped: Instant) {
        expect(&self.lab, self.in_pod, "node_lost").await;
        println!("the job in a Pod of its own was handed back {:?} after the kubelet stopped", stopped.elapsed());
        let other = || async { self.pod_of_job().await.is_some_and(|p| uid(&p) != uid(first)) };
        eventually("its job has another Pod", other).await;
    }

    async fn is_well(&self) {
        let back = Instant::now();
        eventually("two new workers are there, and no other", || async {
            let (pods, now) = (pods_of_workers(&self.lab).await, identities(&self.lab).await);
            pods.len() == 2
                && pods.iter().all(is_ready)
                && now.len() == 2
                && now.iter().all(|w| !self.workers.contains(w))
        })
        .await;
        println!("two new workers were there {:?} after the node was ready", back.elapsed());
        eventually("all jobs are done", || async {
            let open = "SELECT coalesce(sum(running + pending), 0)::int8 FROM rowlock.queues";
            self.lab.one::<i64>(open, &[]).await == 0
        })
        .await;
        let in_pod = job(&self.lab, self.in_pod).await;
        assert_eq!((in_pod.status, in_pod.attempts), (rowlock::Status::Completed, 0), "{:?}", in_pod.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_lost_node_work_on_and_one_that_dies_there_is_known_by_its_lease() {
    let Some(harness) = Harness::find() else { return };
    let scene = Scene::new().await;
    let mut work = Work { lab: &scene.lab, enqueued: 0 };
    let first = scene.pod_of_job().await.unwrap();
    let kubelet = harness.kill("kubelet");
    let stopped = Instant::now();
    // Its next Pod will not take as long.
    shell(&scene.lab, "pod", "true", in_a_pod()).await;
    scene.declared_lost(&mut work, stopped).await;
    scene.one_dies(&mut work).await;
    scene.pod_is_given_up(&first, stopped).await;
    // Those are told to end when it is back, with their worker.
    work.long(2).await;
    let back = Instant::now();
    drop(kubelet);
    println!("the node was ready {:?} after its kubelet was started", back.elapsed());
    scene.is_well().await;
    scene.lab.ledger.judge(&scene.lab, work.enqueued).await;
}
