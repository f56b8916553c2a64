//! Pods of jobs on a cluster that others use and keep: other databases, policies, limits, rights, finalizers, drains.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{LimitRange, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use rowlock::Status;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    lab::{Lab, kubectl, within},
    pods::{Census, PATIENCE, Worker, enqueue, job, nothing_left, running, shell},
};

async fn ends(lab: &Lab, id: Uuid, status: Status, patience: Duration) -> Duration {
    let took = within("it has ended", patience, async || job(lab, id).await.status.is_terminal()).await;
    assert_eq!(job(lab, id).await.status, status, "{:?}", job(lab, id).await.error);
    took
}

async fn result(lab: &Lab, id: Uuid) -> Option<Value> {
    job(lab, id).await.result.map(|result| serde_json::from_str(result.get()).unwrap())
}

async fn goes_back(lab: &Lab, id: Uuid, reason: &str) {
    within(&format!("it goes back with {reason}"), PATIENCE, async || {
        let job = job(lab, id).await;
        assert!(!job.status.is_terminal(), "{:?}", job.error);
        job.status == Status::Pending && job.error.is_some_and(|e| e.starts_with(reason))
    })
    .await;
}

fn apply(file: &str) {
    let mut child =
        Command::new("kubectl").args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(file.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kubectl apply:\n{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_two_databases_leave_each_others_pods_alone() {
    let lab = Lab::new("pods-two").await;
    let other = lab.beside().await;
    shell(&lab, "slow", "/busybox sleep 20", json!({})).await;
    shell(&other, "slow", "/busybox sleep 12", json!({})).await;
    let jobs = [enqueue(&lab, "slow", json!({})).await, enqueue(&lab, "slow", json!({})).await];
    let census = Census::start(&lab);
    let _first = Worker::start(&lab, 2, &[]);
    within("two Pods run", PATIENCE, async || running(&lab).await == 2).await;
    let _second = Worker::start(&other, 2, &[]);
    // Longer than two sweeps of the second worker.
    let third = enqueue(&other, "slow", json!({})).await;
    ends(&other, third, Status::Completed, PATIENCE).await;
    for id in jobs {
        ends(&lab, id, Status::Completed, PATIENCE).await;
        assert_eq!(job(&lab, id).await.attempts, 0);
    }
    let pods = census.pods();
    assert!(pods.len() == 3 && pods.values().all(|uids| uids.len() == 1), "{pods:?}");
    println!("two databases in one namespace: 3 jobs, 3 Pods");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_what_it_began_with_when_its_type_changes() {
    let lab = Lab::new("pods-changed").await;
    let line = |word: &str| format!("/busybox sleep 15; echo '\"{word}\"' > \"$ROWLOCK_RESULT_FILE\"");
    shell(&lab, "slow", &line("old"), json!({})).await;
    let id = enqueue(&lab, "slow", json!({})).await;
    let census = Census::start(&lab);
    let first = Worker::start(&lab, 1, &["--lease=3s"]);
    within("its Pod runs", PATIENCE, async || running(&lab).await == 1).await;
    first.kill();
    shell(&lab, "slow", &line("new"), json!({})).await;
    let _second = Worker::start(&lab, 1, &["--lease=3s"]);
    ends(&lab, id, Status::Completed, PATIENCE).await;
    assert_eq!(result(&lab, id).await, Some(json!("old")));
    assert_eq!(census.pods()[&id.to_string()].len(), 1);
    let next = enqueue(&lab, "slow", json!({})).await;
    ends(&lab, next, Status::Completed, PATIENCE).await;
    assert_eq!(result(&lab, next).await, Some(json!("new")), "the change holds from the next attempt");
}

/// Cluster-wide, and so taken away at the end.
struct Policy(String);

impl Policy {
    /// Refuses Pods of the type `refused` in the namespace, with the reason that a policy has by default.
    fn new(lab: &Lab) -> Policy {
        let name = lab.namespace.clone();
        apply(&format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  validations:
    - {{expression: "object.metadata.annotations['rowlock.dev/type'] != 'refused'", message: not this type}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
"#
        ));
        Policy(name)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let args = ["delete", kind, &self.0, "--ignore-not-found"];
            let _ = Command::new("kubectl").args(args).stdout(Stdio::null()).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_refusal_is_final_for_no_job_and_holds_no_other_type_up() {
    let lab = Lab::new("pods-policy").await;
    let policy = Policy::new(&lab);
    shell(&lab, "refused", "true", json!({})).await;
    shell(&lab, "quick", "true", json!({})).await;
    // A policy takes a moment to be in force.
    within("the policy is in force", PATIENCE, async || {
        let pod = json!({"metadata": {"name": "x", "annotations": {"rowlock.dev/type": "refused"}},
            "spec": {"containers": [{"name": "x", "image": "x"}]}});
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        lab.api::<Pod>().create(&dry, &serde_json::from_value(pod).unwrap()).await.is_err()
    })
    .await;
    let _worker = Worker::start(&lab, 2, &[]);
    let id = enqueue(&lab, "refused", json!({})).await;
    goes_back(&lab, id, "admission_refused").await;
    let quick = enqueue(&lab, "quick", json!({})).await;
    ends(&lab, quick, Status::Completed, PATIENCE).await;
    drop(policy);
    let took = ends(&lab, id, Status::Completed, PATIENCE).await;
    assert_eq!(job(&lab, id).await.attempts, 0);
    println!("a policy's refusal: completed {:.1} s after the policy went, no attempt consumed", took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_range_that_lets_the_job_in_lets_its_pod_in() {
    let lab = Lab::new("pods-limits").await;
    let range: LimitRange = serde_json::from_value(json!({"metadata": {"name": "least"}, "spec": {"limits": [
        {"type": "Container", "min": {"cpu": "50m", "memory": "32Mi"}}]}}))
    .unwrap();
    lab.api::<LimitRange>().create(&PostParams::default(), &range).await.unwrap();
    let enough = json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi", "cpu": "1"}});
    shell(&lab, "fits", "true", json!({"resources": enough})).await;
    shell(&lab, "small", "true", json!({"resources": {"requests": {"cpu": "1m"}}})).await;
    let (fits, small) = (enqueue(&lab, "fits", json!({})).await, enqueue(&lab, "small", json!({})).await);
    let _worker = Worker::start(&lab, 2, &[]);
    ends(&lab, fits, Status::Completed, PATIENCE).await;
    goes_back(&lab, small, "limit_range").await;
    assert_eq!(job(&lab, small).await.attempts, 0);
}

/// A kubeconfig of a service account with the rights that the documentation lists for a worker that makes Pods.
fn launcher(lab: &Lab) -> PathBuf {
    let docs = include_str!("../../docs/kubernetes.md");
    let section = docs.split("\n## ").find(|s| s.starts_with("Workers in any image")).unwrap();
    let rules: Vec<&str> = section.lines().filter(|l| l.starts_with("  - {apiGroups: ")).collect();
    let namespace = &lab.namespace;
    apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: launcher, namespace: {namespace}}}\nrules:\n{}\n",
        rules.join("\n")
    ));
    kubectl(&["-n", namespace, "create", "serviceaccount", "launcher"]);
    kubectl(&["-n", namespace, "create", "configmap", "rowlock-job-pods"]);
    bind(lab);
    let token = kubectl(&["-n", namespace, "create", "token", "launcher", "--duration=1h"]);
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let path = std::env::temp_dir().join(format!("{namespace}.launcher.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn bind(lab: &Lab) {
    let account = format!("--serviceaccount={}:launcher", lab.namespace);
    kubectl(&["-n", &lab.namespace, "create", "rolebinding", "launcher", "--role=launcher", &account]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_rights_for_a_while_fails_no_job() {
    let lab = Lab::new("pods-rights").await;
    let config = launcher(&lab);
    shell(&lab, "quick", "true", json!({})).await;
    let worker = Worker::start(&lab, 5, &["--kubeconfig", config.to_str().unwrap(), "--pod-owner=rowlock-job-pods"]);
    let first = enqueue(&lab, "quick", json!({})).await;
    ends(&lab, first, Status::Completed, PATIENCE).await;
    kubectl(&["-n", &lab.namespace, "delete", "rolebinding", "launcher"]);
    let mut jobs = Vec::new();
    for n in 0..20 {
        jobs.push(enqueue(&lab, "quick", json!({"n": n})).await);
    }
    within("some were refused", PATIENCE, async || {
        lab.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE error LIKE 'forbidden: %' AND attempts = 0", &[]).await
            > 0
    })
    .await;
    bind(&lab);
    let back = Instant::now();
    for id in jobs {
        ends(&lab, id, Status::Completed, PATIENCE).await;
        assert_eq!(job(&lab, id).await.attempts, 0);
    }
    println!("20 of 20 completed {:.1} s after the rights were back", back.elapsed().as_secs_f64());
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_go_holds_its_job_up_and_says_so() {
    let lab = Lab::new("pods-finalizer").await;
    let held = json!({"metadata": {"finalizers": ["rowlock.test/held"]}});
    let line = "[ \"$ROWLOCK_ATTEMPT\" = 1 ] || exit 3";
    shell(&lab, "held", line, json!({"pod_template": held, "max_retries": 1})).await;
    let id = enqueue(&lab, "held", json!({})).await;
    let _worker = Worker::start(&lab, 1, &["--grace=2s"]);
    goes_back(&lab, id, "pod_in_the_way").await;
    let error = job(&lab, id).await.error.unwrap();
    assert!(error.contains("rowlock.test/held"), "{error}");
    let free = async || {
        let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        for pod in lab.pods().await {
            let name = pod.metadata.name.unwrap();
            if pod.metadata.deletion_timestamp.is_some() {
                let _ = lab.api::<Pod>().patch_metadata(&name, &PatchParams::default(), &none).await;
            }
        }
    };
    within("its second attempt has completed", PATIENCE, async || {
        free().await;
        job(&lab, id).await.status.is_terminal()
    })
    .await;
    assert_eq!((job(&lab, id).await.status, job(&lab, id).await.attempts), (Status::Completed, 1));
    within("nothing is left", PATIENCE, async || {
        free().await;
        lab.pods().await.is_empty()
    })
    .await;
}

fn drain(node: &str, selector: &str) -> std::process::Output {
    let args = ["drain", node, "--delete-emptydir-data", "--dry-run=client", "--pod-selector", selector];
    Command::new("kubectl").args(args).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_jobs_pod_can_be_drained_and_the_pods_go_with_their_owner() {
    let lab = Lab::new("pods-drain").await;
    shell(&lab, "slow", "/busybox sleep 3000", json!({})).await;
    let id = enqueue(&lab, "slow", json!({})).await;
    let worker = Worker::start(&lab, 1, &[]);
    within("its Pod runs", PATIENCE, async || running(&lab).await == 1).await;
    let pod = lab.pods().await.remove(0);
    let (node, labels) = (pod.spec.unwrap().node_name.unwrap(), pod.metadata.labels.unwrap());
    assert_eq!(pod.metadata.annotations.unwrap()["kubectl.kubernetes.io/default-container"], "job");
    let said = drain(&node, &format!("rowlock.dev/job={}", labels["rowlock.dev/job"]));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    worker.kill();
    let owner = pod.metadata.owner_references.unwrap().remove(0);
    kubectl(&["-n", &lab.namespace, "delete", &owner.kind.to_lowercase(), &owner.name]);
    let took = nothing_left(&lab).await;
    println!(
        "job {id}: its node can be drained, its Pod and its Secret went {:.1} s after their owner",
        took.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_no_node_can_run_do_not_take_the_places_of_the_others() {
    let lab = Lab::new("pods-line").await;
    shell(&lab, "huge", "true", json!({"resources": {"requests": {"cpu": "500"}}})).await;
    shell(&lab, "small", "true", json!({})).await;
    for n in 0..30 {
        enqueue(&lab, "huge", json!({"n": n})).await;
    }
    let mut small = Vec::new();
    for n in 0..3 {
        small.push(enqueue(&lab, "small", json!({"n": n})).await);
    }
    let _worker = Worker::start(&lab, 6, &["--pod-pending=60s"]);
    let started = Instant::now();
    for id in small {
        ends(&lab, id, Status::Completed, Duration::from_secs(50)).await;
    }
    let waits = lab.api::<Pod>().list(&ListParams::default()).await.unwrap().items.len();
    assert!(waits > 0, "a cluster that grows has to see what waits");
    println!("3 small jobs behind 30 that no node can run: completed after {:.1} s", started.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_a_job_that_failed_can_be_kept_to_look_into() {
    let lab = Lab::new("pods-kept").await;
    shell(&lab, "fails", "echo why; exit 3", json!({})).await;
    shell(&lab, "quick", "true", json!({})).await;
    let _worker = Worker::start(&lab, 2, &["--pod-keep-failed=15s"]);
    let (failed, good) = (enqueue(&lab, "fails", json!({})).await, enqueue(&lab, "quick", json!({})).await);
    ends(&lab, failed, Status::Failed, PATIENCE).await;
    ends(&lab, good, Status::Completed, PATIENCE).await;
    let name = format!("rowlock-job-{failed}");
    within("the other Pod is gone", PATIENCE, async || lab.pods().await.len() == 1).await;
    assert_eq!(logs(&lab.namespace, &name), "why\n");
    let took = nothing_left(&lab).await;
    println!("kept for {:.1} s, then gone", took.as_secs_f64());
}

fn logs(namespace: &str, pod: &str) -> String {
    kubectl(&["-n", namespace, "logs", pod])
}

/// The settings of the release reach the Pods.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_worker_was_given_reaches_the_pods_it_makes() {
    let lab = Lab::new("pods-given").await;
    shell(&lab, "proxy", "echo \"\\\"$HTTPS_PROXY\\\"\" > \"$ROWLOCK_RESULT_FILE\"; /busybox sleep 5", json!({})).await;
    let given = json!({"imagePullSecrets": [{"name": "registry"}], "pullPolicy": "IfNotPresent",
        "nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"key": "jobs", "operator": "Exists"}],
        "labels": {"team": "a"}, "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.test"}]});
    let _worker = Worker::start(&lab, 1, &["--job-pods", &given.to_string()]);
    let id = enqueue(&lab, "proxy", json!({})).await;
    within("its Pod runs", PATIENCE, async || running(&lab).await == 1).await;
    let pod = serde_json::to_value(lab.pods().await.remove(0)).unwrap();
    assert_eq!(pod["metadata"]["labels"]["team"], "a");
    assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "registry");
    assert_eq!(pod["spec"]["nodeSelector"]["kubernetes.io/os"], "linux");
    assert!(pod["spec"]["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "jobs"));
    ends(&lab, id, Status::Completed, PATIENCE).await;
    assert_eq!(result(&lab, id).await, Some(json!("http://proxy.test")));
}
