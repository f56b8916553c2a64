//! A job's Pod, from its type, the job and the worker's settings; pure.
//!
//! Its name is the job's alone: the API server lets no second Pod of that name be, so a job never runs twice while one
//! lives, whoever believes to hold it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Pod, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::overlay;
use crate::{
    ClaimedJob,
    launch::{
        job_pods::JobPods,
        options::PodOptions,
        spec::{Parts, Spec},
    },
};

/// The container of the job.
pub(crate) const CONTAINER: &str = "job";
/// The container that copies this program.
const INIT: &str = "rowlock";
/// Found on every Pod of a job, and on its Secret.
pub(crate) const LABEL: &str = "rowlock.dev/job";
/// Whose the Pod is: the id of the database. Workers of several databases may share a namespace.
pub(super) const DATABASE: &str = "rowlock.dev/database";
pub(super) const RUN: &str = "rowlock.dev/run";
pub(super) const SPEC: &str = "rowlock.dev/spec";
pub(super) const MANAGED: &str = "app.kubernetes.io/managed-by";
/// The containers of a Pod that people ask about: `kubectl logs` and `kubectl exec` take this one.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

// Not /rowlock, which is a file in the image of this program.
const BIN: &str = "/rowlock-job/bin";
const WORK: &str = "/rowlock-job/work";
const PAYLOAD: &str = "/rowlock-job/payload";
/// A Pod may take so long beyond its own bounds until nothing but its deadline ends it.
const SPARE: Duration = Duration::from_secs(60);

/// Kubernetes takes no more seconds.
const LONGEST_DEADLINE: u64 = i32::MAX as u64;

/// Watched, and taken away: the Pods of this database's jobs in the namespace.
pub(super) fn selector(database: Uuid) -> String {
    format!("{MANAGED}=rowlock,{LABEL},{DATABASE}={database}")
}

/// The name of a job's Pod and of the Secret with its payload.
///
/// Made from the job alone.
pub(crate) fn name(job: Uuid) -> String {
    format!("rowlock-job-{job}")
}

/// Which run of the job a Pod is for: put back after a lost worker it is the same, retried it is another.
pub(super) fn run(job: &ClaimedJob) -> String {
    format!("{}-{}", job.attempts, job.execute_at.timestamp_micros())
}

/// Tells two settings of a type apart, over releases of this program. FNV-1a, 64 bits.
pub(super) fn fingerprint(spec: &Spec, parts: &Parts) -> String {
    let text = json!([
        spec.program,
        spec.args,
        spec.env,
        parts.image,
        parts.secrets,
        parts.resources,
        parts.service_account,
        parts.template
    ]);
    let hash = text
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// Kubernetes replaces `$(NAME)` in commands and constants; ours are meant as they stand.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// A Pod is made from these.
pub(super) struct Made<'a> {
    pub job: &'a ClaimedJob,
    pub database: Uuid,
    pub owner: Option<OwnerReference>,
    pub spec: &'a Spec,
    pub parts: &'a Parts,
    pub timeout: Option<Duration>,
    pub deadline: Option<String>,
    pub traceparent: Option<&'a str>,
}

/// The Pod; an error is a sentence about `pod_template`.
pub(super) fn pod(made: &Made<'_>, options: &PodOptions) -> Result<Pod, String> {
    let job = made.job;
    let name = name(job.id);
    // Of this claim alone: the Secret of a Pod before may be on its way out under its own name.
    let secret = format!("{name}-{}", job.receipt());
    let labels = labels(job.id, made.database);
    let grace = options.grace.as_secs().max(2);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "labels": labels,
            "annotations": {
                RUN: run(job), SPEC: fingerprint(made.spec, made.parts),
                "rowlock.dev/type": job.job_type, "rowlock.dev/lease": job.lease(),
                "rowlock.dev/queue": job.queue, DEFAULT_CONTAINER: CONTAINER,
                // A node is not emptied to save money while a job runs on it.
                "karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        },
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [{
                "name": INIT, "image": options.image, "args": ["install", BIN], "securityContext": locked(),
                "volumeMounts": [{"name": "rowlock-bin", "mountPath": BIN}],
            }],
            "containers": [container(made, &options.job_pods, grace)],
            "volumes": [
                {"name": "rowlock-bin", "emptyDir": {"sizeLimit": "256Mi"}}, {"name": "rowlock-work", "emptyDir": {}},
                // Any user the image runs as must be able to read it; nobody else is in the Pod.
                {"name": "rowlock-payload", "secret": {"secretName": secret, "defaultMode": 0o444}},
            ],
        },
    });
    if let Some(owner) = &made.owner {
        pod["metadata"]["ownerReferences"] = json!([owner]);
    }
    let job_pods = &options.job_pods;
    let policy = job_pods.program_pull_policy.as_ref().or(job_pods.pull_policy.as_ref());
    if let Some(policy) = policy {
        pod["spec"]["initContainers"][0]["imagePullPolicy"] = json!(policy);
    }
    let spec = &mut pod["spec"];
    if let Some(account) = &made.parts.service_account {
        spec["serviceAccountName"] = json!(account);
    }
    if let Some(timeout) = made.timeout {
        // The command's time is measured beside it; this is for a Pod that nobody could end otherwise.
        let bounds = [options.grace, options.pull, options.pending, SPARE];
        let most = bounds.into_iter().fold(timeout, Duration::saturating_add);
        spec["activeDeadlineSeconds"] = json!(most.as_secs().min(LONGEST_DEADLINE - 1) + 1);
    }
    lay(&mut pod, &job_pods.overlay(), made.parts.template.as_ref())?;
    serde_json::from_value(pod).map_err(|e| format!("pod_template: {e}"))
}

fn locked() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

fn labels(job: Uuid, database: Uuid) -> Value {
    json!({MANAGED: "rowlock", LABEL: job, DATABASE: database})
}

fn container(made: &Made<'_>, job_pods: &JobPods, grace: u64) -> Value {
    let (job, spec) = (made.job, made.spec);
    let constants: BTreeMap<&str, String> = spec.env.iter().map(|(k, v)| (k.as_str(), literal(v))).collect();
    let has = |name: &str| constants.contains_key(name) || made.parts.secrets.iter().any(|s| s.variable == name);
    let mut env: Vec<Value> = job_pods.env(has).cloned().collect();
    env.extend(constants.iter().map(|(k, v)| json!({"name": k, "value": v})));
    env.extend(
        made.parts
            .secrets
            .iter()
            .map(|s| json!({"name": s.variable, "valueFrom": {"secretKeyRef": {"name": s.name, "key": s.key}}})),
    );
    // Last, so that they win.
    env.extend(
        [
            ("ROWLOCK_JOB_ID", job.id.to_string()),
            ("ROWLOCK_JOB_TYPE", literal(&job.job_type)),
            ("ROWLOCK_QUEUE", literal(&job.queue)),
            ("ROWLOCK_ATTEMPT", job.attempts.to_string()),
            ("ROWLOCK_LEASE", job.lease()),
            ("ROWLOCK_DEADLINE", made.deadline.clone().unwrap_or_default()),
            ("TRACEPARENT", literal(made.traceparent.unwrap_or_default())),
            ("ROWLOCK_PAYLOAD_FILE", format!("{PAYLOAD}/payload.json")),
            ("ROWLOCK_RESULT_FILE", format!("{WORK}/result")),
            ("ROWLOCK_PROGRESS_FILE", format!("{WORK}/progress")),
        ]
        .map(|(name, value)| json!({"name": name, "value": value})),
    );
    let mut command = vec![format!("{BIN}/rowlock"), "pod-run".into(), format!("--grace={grace}s")];
    command.extend(made.timeout.map(|t| format!("--timeout={}ms", t.as_millis())));
    command.push("--".into());
    command.extend(std::iter::once(&spec.program).chain(&spec.args).map(|word| literal(word)));
    let mut container = json!({
        "name": CONTAINER, "image": made.parts.image, "command": command, "env": env, "securityContext": locked(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "rowlock-bin", "mountPath": BIN, "readOnly": true},
            {"name": "rowlock-work", "mountPath": WORK},
            {"name": "rowlock-payload", "mountPath": PAYLOAD, "readOnly": true},
        ],
    });
    if let Some(resources) = made.parts.resources.as_ref().or(job_pods.resources.as_ref()) {
        container["resources"] = resources.clone();
    }
    if let Some(policy) = &job_pods.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

/// Lays the worker's settings over it, then the type's template; what makes it a job's Pod stays.
fn lay(pod: &mut Value, settings: &Value, template: Option<&Value>) -> Result<(), String> {
    let ours = pod.clone();
    overlay::merge(pod, settings);
    if let Some(template) = template {
        overlay::merge(pod, template);
    }
    if let Some(part) = ["metadata", "spec"].into_iter().find(|part| !pod[*part].is_object()) {
        return Err(format!("pod_template: {part}: expected an object"));
    }
    for (part, key) in [("metadata", "name"), ("metadata", "ownerReferences"), ("spec", "restartPolicy")] {
        if let Some(mine) = ours[part].get(key) {
            pod[part][key] = mine.clone();
        }
    }
    for at in ["labels", "annotations"] {
        overlay::merge(&mut pod["metadata"][at], &ours["metadata"][at]);
    }
    let mine = &ours["spec"]["containers"][0];
    let job = pod["spec"]["containers"].as_array_mut().into_iter().flatten().find(|c| c["name"] == CONTAINER);
    if let Some(job) = job {
        for key in ["command", "env", "volumeMounts"] {
            overlay::merge(job, &json!({key: mine[key]}));
        }
        if let Some(job) = job.as_object_mut() {
            job.remove("args");
        }
    }
    share_resources(&mut pod["spec"]);
    Ok(())
}

/// Gives the container that copies the program the resources of the job's container, unless a template says otherwise.
/// So a Pod needs no more than its job does, and no limit range or quota lets the one in and refuses the other.
fn share_resources(spec: &mut Value) {
    let named = |list: &Value, name: &str| list.as_array()?.iter().find(|c| c["name"] == name).cloned();
    let Some(resources) = named(&spec["containers"], CONTAINER).and_then(|c| c.get("resources").cloned()) else {
        return;
    };
    let all = spec["initContainers"].as_array_mut().into_iter().flatten();
    if let Some(init) = all.into_iter().find(|c| c["name"] == INIT && c.get("resources").is_none()) {
        init["resources"] = resources;
    }
}

/// The payload's Secret, as its Pod calls it; none if the Pod has no such volume. It belongs to the Pod and goes with
/// it; nothing else is in it, since a payload may be as large as a Secret.
pub(super) fn secret(job: &ClaimedJob, database: Uuid, pod: &Pod) -> Option<Secret> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|v| v.name == "rowlock-payload")?;
    let name = volume.secret.as_ref()?.secret_name.clone()?;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid});
    let labels = labels(job.id, database);
    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]}, "immutable": true,
    }))
    .expect("these are a Secret's fields");
    let payload = k8s_openapi::ByteString(job.payload.get().as_bytes().to_vec());
    secret.data = Some(BTreeMap::from([("payload.json".to_owned(), payload)]));
    Some(secret)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::launch::spec::SecretValue;

    pub(in super::super) fn job() -> ClaimedJob {
        crate::job::claimed::tests::job(7)
    }

    const DB: Uuid = Uuid::from_u128(11);

    fn made(template: Option<Value>) -> Value {
        with(&PodOptions::default(), template, None)
    }

    fn with(options: &PodOptions, template: Option<Value>, resources: Option<Value>) -> Value {
        let spec = Spec {
            program: "/job".into(),
            args: vec!["$(HOME)".into(), "a b".into()],
            env: vec![("A".into(), "$(B)".into()), ("ROWLOCK_JOB_ID".into(), "mine".into())],
            pod: None,
        };
        let secrets = vec![SecretValue { variable: "TOKEN".into(), name: "s".into(), key: "k".into() }];
        let parts = Parts { image: "i".into(), secrets, resources, service_account: Some("sa".into()), template };
        let (job, timeout) = (job(), Some(Duration::from_millis(1500)));
        serde_json::to_value(pod(&Made { timeout, ..of(&job, &spec, &parts) }, options).unwrap()).unwrap()
    }

    fn of<'a>(job: &'a ClaimedJob, spec: &'a Spec, parts: &'a Parts) -> Made<'a> {
        let owner = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}));
        let (database, owner) = (DB, owner.unwrap());
        Made { job, database, owner, spec, parts, timeout: None, deadline: None, traceparent: None }
    }

    #[test]
    fn a_pod_carries_its_job_but_never_the_payload() {
        let pod = made(None);
        assert!(!pod.to_string().contains("secret\\\""), "{pod}");
        assert_eq!(pod["metadata"]["name"], "rowlock-job-00000000-0000-0000-0000-000000000007");
        assert_eq!(pod["metadata"]["annotations"][RUN], "2-0");
        assert_eq!(pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "job");
        assert_eq!(pod["metadata"]["labels"][DATABASE], DB.to_string());
        assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "o");
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["spec"]["serviceAccountName"], "sa");
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        let job = &pod["spec"]["containers"][0];
        let command: Vec<&str> = job["command"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        assert_eq!(command[1..], ["pod-run", "--grace=30s", "--timeout=1500ms", "--", "/job", "$$(HOME)", "a b"]);
        let env = job["env"].as_array().unwrap();
        let of = |name: &str| env.iter().rev().find(|e| e["name"] == name).unwrap();
        assert_eq!(of("A")["value"], "$$(B)");
        assert_eq!(of("ROWLOCK_JOB_ID")["value"], "00000000-0000-0000-0000-000000000007");
        assert_eq!(of("TOKEN")["valueFrom"]["secretKeyRef"]["key"], "k");
        assert!(pod["spec"]["activeDeadlineSeconds"].as_i64().unwrap() > 30);
    }

    #[test]
    fn a_timeout_of_any_length_makes_a_pod_that_kubernetes_takes() {
        let spec = Spec { program: "a".into(), args: vec![], env: vec![], pod: None };
        let (job, parts) = (job(), Parts::of_image("i"));
        for timeout in [Duration::from_secs(8_600_000_000_000), Duration::MAX] {
            let timeout = Some(timeout);
            let made = Made { timeout, ..of(&job, &spec, &parts) };
            let pod = pod(&made, &PodOptions::default()).unwrap();
            assert_eq!(pod.spec.unwrap().active_deadline_seconds, Some(i32::MAX.into()));
        }
    }

    #[test]
    fn a_template_adds_to_the_pod_and_cannot_take_the_job_out_of_it() {
        let pod = made(Some(json!({
            "metadata": {"name": "x", "labels": {"team": "a", LABEL: "none"}},
            "spec": {"restartPolicy": "Always", "nodeSelector": {"d": "e"},
                "containers": [{"name": "job", "command": ["sh"],
                    "env": [{"name": "ROWLOCK_JOB_ID", "value": "x"}, {"name": "C", "value": "1"}]}]},
        })));
        assert_eq!(pod["metadata"]["name"], "rowlock-job-00000000-0000-0000-0000-000000000007");
        assert_eq!(pod["metadata"]["labels"]["team"], "a");
        assert_eq!(pod["metadata"]["labels"][LABEL], "00000000-0000-0000-0000-000000000007");
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["spec"]["nodeSelector"]["d"], "e");
        let job = &pod["spec"]["containers"][0];
        assert_eq!(job["command"][1], "pod-run");
        let env = job["env"].as_array().unwrap();
        assert!(env.iter().any(|e| e["name"] == "C"));
        assert!(env.iter().all(|e| e["value"] != "x"));
        let nulls = json!({"metadata": {"name": null, "ownerReferences": null}, "spec": {"restartPolicy": null}});
        let pod = made(Some(nulls));
        assert_eq!(
            (&pod["spec"]["restartPolicy"], &pod["metadata"]["ownerReferences"][0]["name"]),
            (&json!("Never"), &json!("o"))
        );
    }

    #[test]
    fn a_template_that_is_none_is_refused_with_its_part() {
        let spec = Spec { program: "a".into(), args: vec![], env: vec![], pod: None };
        for template in [json!({"metadata": "x"}), json!({"spec": null}), json!([])] {
            let parts = Parts { template: Some(template), ..Parts::of_image("i") };
            let refused = pod(&of(&job(), &spec, &parts), &PodOptions::default()).unwrap_err();
            assert!(refused.starts_with("pod_template: "), "{refused}");
        }
    }

    #[test]
    fn the_release_reaches_the_pod_and_the_type_goes_before_it() {
        let text = r#"{"imagePullSecrets": [{"name": "registry"}], "pullPolicy": "Always", "programPullPolicy": "Never",
            "nodeSelector": {"pool": "jobs", "disk": "any"}, "tolerations": [{"key": "jobs"}],
            "priorityClassName": "low", "labels": {"team": "a", "rowlock.dev/database": "none"},
            "annotations": {"a": "b"}, "env": [{"name": "HTTPS_PROXY", "value": "p"}, {"name": "A", "value": "no"}],
            "resources": {"requests": {"cpu": "50m"}}}"#;
        let options = PodOptions { job_pods: text.parse().unwrap(), ..PodOptions::default() };
        let pod = with(&options, None, None);
        let spec = &pod["spec"];
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
        assert_eq!((&spec["nodeSelector"]["pool"], &spec["priorityClassName"]), (&json!("jobs"), &json!("low")));
        assert_eq!(spec["tolerations"], json!([{"key": "jobs"}]));
        assert_eq!(
            (&pod["metadata"]["labels"]["team"], &pod["metadata"]["annotations"]["a"]),
            (&json!("a"), &json!("b"))
        );
        assert_eq!(pod["metadata"]["labels"][DATABASE], DB.to_string(), "whose it is cannot be said otherwise");
        let (init, job) = (&spec["initContainers"][0], &spec["containers"][0]);
        assert_eq!((&init["imagePullPolicy"], &job["imagePullPolicy"]), (&json!("Never"), &json!("Always")));
        assert_eq!((&init["resources"], &job["resources"]["requests"]["cpu"]), (&job["resources"], &json!("50m")));
        let env = job["env"].as_array().unwrap();
        let values =
            |name: &str| env.iter().filter(|e| e["name"] == name).map(|e| e["value"].clone()).collect::<Vec<_>>();
        assert_eq!((values("HTTPS_PROXY"), values("A")), (vec![json!("p")], vec![json!("$$(B)")]));
        let job = json!({"name": "job", "imagePullPolicy": "IfNotPresent"});
        let spec = json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [], "priorityClassName": null,
            "containers": [job]});
        let own = json!({"metadata": {"ownerReferences": []}, "spec": spec});
        let pod = with(&options, Some(own), Some(json!({"limits": {"memory": "1Gi"}})));
        let spec = &pod["spec"];
        assert_eq!(spec["nodeSelector"], json!({"pool": "jobs", "disk": "ssd"}));
        assert!(spec["tolerations"] == json!([]) && spec.get("priorityClassName").is_none());
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(spec["containers"][0]["resources"], json!({"limits": {"memory": "1Gi"}}));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "o");
    }

    #[test]
    fn what_rowlock_adds_has_the_resources_of_the_job() {
        let job = json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}});
        let of = |template: Option<Value>, resources: Option<Value>| {
            with(&PodOptions::default(), template, resources)["spec"]["initContainers"][0]["resources"].clone()
        };
        assert_eq!(of(None, Some(job.clone())), job);
        assert_eq!(of(None, None), Value::Null, "then a limit range's defaults are for both");
        let by_template = json!({"spec": {"containers": [{"name": "job", "resources": job}]}});
        assert_eq!(of(Some(by_template), None), job);
        let own = json!({"requests": {"cpu": "1m"}});
        let both = json!({"spec": {"initContainers": [{"name": "rowlock", "resources": own}]}});
        assert_eq!(of(Some(both), Some(job)), own);
    }

    #[test]
    fn a_retried_job_is_another_run_and_a_changed_type_another_spec() {
        let (a, mut b) = (job(), job());
        b.hold = std::sync::Arc::new(crate::job::holds::Holds::default()).hold(5, b.id);
        assert_eq!(run(&a), run(&b), "put back after a lost worker, it is the same");
        b.execute_at += chrono::Duration::seconds(1);
        assert_ne!(run(&a), run(&b));
        let spec = Spec { program: "a".into(), args: vec![], env: vec![], pod: None };
        let one = Parts::of_image("i");
        assert_eq!(fingerprint(&spec, &one), fingerprint(&spec, &Parts::of_image("i")));
        assert_ne!(fingerprint(&spec, &one), fingerprint(&spec, &Parts::of_image("j")));
    }

    #[test]
    fn the_secret_holds_the_payload_and_goes_with_the_pod() {
        let spec = Spec { program: "a".into(), args: vec![], env: vec![], pod: None };
        let (job, parts) = (job(), Parts::of_image("i"));
        let mut pod = pod(&of(&job, &spec, &parts), &PodOptions::default()).unwrap();
        pod.metadata.uid = Some("u".into());
        let secret = secret(&job, DB, &pod).unwrap();
        assert_eq!(secret.metadata.labels.as_ref().unwrap()[DATABASE], DB.to_string());
        assert_eq!(secret.metadata.name.unwrap(), format!("{}-4", name(job.id)));
        assert_eq!(secret.data.unwrap()["payload.json"].0, b"{\"secret\": 1}");
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "u");
    }
}
