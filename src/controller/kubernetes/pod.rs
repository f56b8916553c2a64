//! The meaning of a Pod's state. Pure: the API's objects in, one word out.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// If a Pod has several containers, the one with this name is the worker's.
const WORKER_CONTAINER: &str = "worker";

/// A Pod's place in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is not ready yet.
    Starting {
        /// No node has room for it, says the scheduler.
        unschedulable: bool,
    },
    /// Its containers are ready.
    Ready,
    /// It was told to end. Its containers may run until it is gone.
    Leaving,
    /// Nothing runs in it any more, and nothing will run.
    Ended,
}

/// Classifies a Pod by its status. A node that cannot be reached says nothing: its Pods stay as they were, or are
/// leaving, and their leases decide.
pub(super) fn state(pod: &Pod) -> State {
    let status = pod.status.as_ref();
    match status.and_then(|s| s.phase.as_deref()) {
        // This includes Pods that were evicted, preempted, refused by the node, or given up with their node.
        Some("Failed" | "Succeeded") => return State::Ended,
        _ if pod.metadata.deletion_timestamp.is_some() => return State::Leaving,
        _ => {}
    }
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str, value: &str| conditions.iter().find(|c| c.type_ == kind && c.status == value);
    if is("Ready", "True").is_some() {
        return State::Ready;
    }
    let unschedulable = is("PodScheduled", "False").is_some_and(|c| c.reason.as_deref() == Some("Unschedulable"));
    State::Starting { unschedulable }
}

/// The start of the container that runs in the Pod now, or the end of the last one, if it is not the first. A worker
/// that started before has ended. The time is in whole seconds, rounded down.
pub(super) fn restarted(pod: &Pod) -> Option<DateTime<Utc>> {
    let containers = pod.status.as_ref()?.container_statuses.as_deref()?;
    let worker = match containers {
        [one] => one,
        many => many.iter().find(|c| c.name == WORKER_CONTAINER)?,
    };
    let state = worker.state.as_ref();
    if let Some(ended) = state.and_then(|s| s.terminated.as_ref()) {
        return instant(ended.finished_at.as_ref()?);
    }
    if worker.restart_count == 0 {
        return None;
    }
    match state.and_then(|s| s.running.as_ref()) {
        Some(running) => instant(running.started_at.as_ref()?),
        None => instant(last_end(worker)?),
    }
}

fn last_end(container: &ContainerStatus) -> Option<&Time> {
    container.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()
}

fn instant(time: &Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(time.0.as_millisecond())
}

/// The time at which a Pod was ordered: its creation, or now if it was created just now.
pub(super) fn ordered(pod: &Pod) -> Instant {
    let now = Instant::now();
    let made = pod.metadata.creation_timestamp.as_ref().and_then(instant);
    let age = made.and_then(|made| (Utc::now() - made).to_std().ok()).unwrap_or_default();
    // The API's times are whole seconds, by another clock.
    if age < Duration::from_secs(5) { now } else { now.checked_sub(age).unwrap_or(now) }
}

/// The Deployment that a Pod belongs to: its ReplicaSet is named after the Deployment and the hash of its template.
pub(super) fn deployment(pod: &Pod) -> Option<&str> {
    let hash = pod.metadata.labels.as_ref()?.get("pod-template-hash")?;
    let owners = pod.metadata.owner_references.as_deref()?;
    let set = owners.iter().find(|o| o.controller == Some(true) && o.kind == "ReplicaSet")?;
    set.name.strip_suffix(hash.as_str())?.strip_suffix('-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": status})).unwrap()
    }

    fn leaving(status: Value) -> Pod {
        let mut pod = pod(status);
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        pod
    }

    #[test]
    fn the_states_of_a_life() {
        let ready = |value| json!([{"type": "Ready", "status": value}]);
        let refused = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
        for (pod, want) in [
            (Pod::default(), State::Starting { unschedulable: false }),
            (pod(json!({"phase": "Pending", "conditions": refused})), State::Starting { unschedulable: true }),
            (pod(json!({"phase": "Pending", "conditions": ready("False")})), State::Starting { unschedulable: false }),
            (pod(json!({"phase": "Running", "conditions": ready("True")})), State::Ready),
            (
                pod(json!({"phase": "Running", "conditions": ready("Unknown")})),
                State::Starting { unschedulable: false },
            ),
            (leaving(json!({"phase": "Running", "conditions": ready("True")})), State::Leaving),
            (pod(json!({"phase": "Failed", "reason": "Evicted"})), State::Ended),
            (pod(json!({"phase": "Failed", "reason": "NodeAffinity"})), State::Ended),
            (leaving(json!({"phase": "Failed"})), State::Ended),
            (pod(json!({"phase": "Succeeded"})), State::Ended),
            // The node is silent: the API does not know.
            (pod(json!({"phase": "Unknown"})), State::Starting { unschedulable: false }),
        ] {
            assert_eq!(state(&pod), want, "{:?}", pod.status);
        }
    }

    fn container(name: &str, restarts: i32, state: Value, last: Value) -> Value {
        json!({"name": name, "restartCount": restarts, "state": state, "lastState": last,
               "image": "i", "imageID": "i", "ready": false})
    }

    #[test]
    fn a_container_that_was_restarted_tells_since_when() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:20Z"}});
        let killed =
            json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:10Z"}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let seconds =
            |containers: Value| restarted(&pod(json!({"containerStatuses": containers}))).map(|t| t.timestamp() % 60);
        let (none, name) = (json!({}), "main");
        assert_eq!(seconds(json!([container(name, 0, running.clone(), none.clone())])), None);
        assert_eq!(seconds(json!([container(name, 1, running.clone(), killed.clone())])), Some(20));
        assert_eq!(seconds(json!([container(name, 1, waiting.clone(), killed.clone())])), Some(10));
        assert_eq!(seconds(json!([container(name, 0, killed.clone(), none.clone())])), Some(10));
        // A sidecar's restart says nothing of the worker.
        let sidecar = container("proxy", 3, running.clone(), killed.clone());
        assert_eq!(seconds(json!([container(name, 0, running.clone(), none.clone()), sidecar])), None);
        assert_eq!(seconds(json!([sidecar, container(WORKER_CONTAINER, 0, running.clone(), none)])), None);
        assert_eq!(seconds(json!([sidecar, container(WORKER_CONTAINER, 1, running, killed)])), Some(20));
        assert_eq!(restarted(&Pod::default()), None);
    }

    #[test]
    fn a_pod_belongs_to_the_deployment_of_its_replica_set() {
        let owned = |set: &str, hash: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {
                "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": "x",
                 "controller": true}],
            }}))
            .unwrap()
        };
        assert_eq!(deployment(&owned("mail-7f9", "7f9")), Some("mail"));
        assert_eq!(deployment(&owned("mail-extra-7f9", "7f9")), Some("mail-extra"));
        assert_eq!(deployment(&owned("mail", "7f9")), None);
        assert_eq!(deployment(&Pod::default()), None);
    }
}
