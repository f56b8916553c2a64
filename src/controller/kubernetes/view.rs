//! One Deployment with its Pods as replicas. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};

use super::pod::{self, State};
use crate::controller::{
    decision::Hold,
    limits::Limits,
    target::{Replica, Scaled},
};

/// Replicas without a Pod for this time are stalled: by a quota, or by an admission plugin.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// A rollout holds scale-ins back for this time at most: one that is stuck must not cost replicas for ever.
const MAX_ROLLOUT_HOLD: Duration = Duration::from_secs(600);

/// The facts that the API's objects do not hold.
pub(super) struct Known<'a> {
    /// The time at which each Pod was ordered, by UID.
    pub ordered: &'a HashMap<String, Instant>,
    /// Pods whose deletion was ordered, by UID, though the API does not show it yet.
    pub stopping: &'a HashMap<String, Instant>,
    /// There are fewer Pods than ordered since this time.
    pub short_since: Instant,
    /// A rollout goes on since this time; none without one.
    pub unsettled_since: Option<Instant>,
    /// The API server did not answer a moment ago.
    pub is_away: bool,
    pub now: Instant,
}

/// Makes the replicas of a Deployment, as many as it is set to, whatever Pods exist: Pods that do not exist yet count
/// as starting, and Pods beyond that number, of a rollout or on their way out, do not count.
pub(super) fn scaled(deployment: &Deployment, pods: &[&Pod], set_to: u32, known: &Known<'_>) -> Scaled {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let mut live: Vec<(bool, bool, Replica)> = Vec::new();
    for pod in pods {
        let key = uid(pod);
        let ready = match pod::state(pod) {
            _ if known.stopping.contains_key(key) => continue,
            State::Leaving | State::Ended => continue,
            State::Ready => (true, false),
            State::Starting { unschedulable } => (false, unschedulable),
        };
        let ordered = known.ordered.get(key).copied().unwrap_or(known.now);
        live.push((ready.0, ready.1, Replica { key: key.to_owned(), group: group(pod), ordered, up: ready.0 }));
    }
    // The ready ones come first, then the oldest.
    live.sort_by_key(|(ready, _, r)| (!ready, r.ordered));
    live.truncate(set_to as usize);
    let missing = set_to - u32::try_from(live.len()).unwrap_or(set_to);
    let stalled = missing > 0 && known.now.saturating_duration_since(known.short_since) > STALLED_AFTER;
    let unschedulable = live.iter().filter(|(_, unschedulable, _)| *unschedulable).count();
    let unschedulable = u32::try_from(unschedulable).unwrap_or(u32::MAX) + if stalled { missing } else { 0 };
    let mut replicas: Vec<Replica> = live.into_iter().map(|(_, _, r)| r).collect();
    replicas.extend((0..missing).map(|n| Replica {
        key: format!("{name}#{n}"),
        group: String::new(),
        ordered: known.short_since,
        up: false,
    }));
    let annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    Scaled { name, limits: Limits::read(&annotations), replicas, unschedulable, hold: hold(deployment, known) }
}

/// Whether all Pods are of the present template: during a rollout only the rollout deletes Pods.
pub(super) fn is_settled(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == status.replicas.unwrap_or(0)
}

/// The reason for which no Pod can be taken away now. During a rollout its controller chooses which Pods of which
/// ReplicaSet go. A rollout that is paused, or that does not end, must not hold for ever: then scale-ins go on, and
/// `scale_in` takes care that no Pod which works is chosen.
fn hold(deployment: &Deployment, known: &Known<'_>) -> Option<Hold> {
    if known.is_away {
        return Some(Hold::TargetAway);
    }
    let is_paused = deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true));
    let since = known.unsettled_since.filter(|_| !is_paused)?;
    (known.now.saturating_duration_since(since) < MAX_ROLLOUT_HOLD).then_some(Hold::Rollout)
}

/// The hash of the template that a Pod was made from; each ReplicaSet has its own.
fn group(pod: &Pod) -> String {
    pod.metadata.labels.as_ref().and_then(|l| l.get("pod-template-hash")).cloned().unwrap_or_else(|| "none".into())
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, ready: bool) -> Pod {
        let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        serde_json::from_value(
            json!({"metadata": {"uid": uid}, "status": {"phase": "Running", "conditions": conditions}}),
        )
        .unwrap()
    }

    fn deployment(status: Value) -> Deployment {
        let metadata = json!({"name": "mail", "generation": 3, "annotations": {"rowlock.dev/queues": "mail"}});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn see(pods: &[&Pod], set_to: u32, stopping: &[&str], short_for: Duration) -> (Vec<String>, u32) {
        let now = Instant::now() + Duration::from_secs(3600);
        let stopping = stopping.iter().map(|s| ((*s).to_owned(), now)).collect();
        let ordered = HashMap::new();
        let known = Known {
            ordered: &ordered,
            stopping: &stopping,
            short_since: now - short_for,
            unsettled_since: None,
            is_away: false,
            now,
        };
        let scaled = scaled(&deployment(json!({})), pods, set_to, &known);
        assert!(scaled.limits.is_ok());
        (scaled.replicas.into_iter().map(|r| r.key).collect(), scaled.unschedulable)
    }

    #[test]
    fn replicas_are_as_many_as_it_is_set_to() {
        let (a, b, c) = (pod("a", true), pod("b", false), pod("c", true));
        let second = Duration::from_secs(1);
        assert_eq!(see(&[&a, &b, &c], 3, &[], second).0, ["a", "c", "b"]);
        assert_eq!(see(&[&a], 3, &[], second), (vec!["a".into(), "mail#0".into(), "mail#1".into()], 0), "to come");
        assert_eq!(see(&[&a], 3, &[], second * 60).1, 2, "stalled");
        assert_eq!(see(&[&a, &b, &c], 2, &[], second).0, ["a", "c"], "the one too many is not ready");
        assert_eq!(see(&[&a, &b, &c], 2, &["a"], second).0, ["c", "b"], "a was stopped");
        let mut gone = pod("d", true);
        gone.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(see(&[&a, &gone], 1, &[], second).0, ["a"]);
    }

    #[test]
    fn a_rollout_holds_scale_ins_back_until_it_is_paused_or_has_lasted_too_long() {
        let now = Instant::now() + Duration::from_secs(3600);
        let (ordered, stopping) = (HashMap::new(), HashMap::new());
        let held = |paused: bool, since: Option<Duration>, is_away: bool| {
            let mut deployment = deployment(json!({}));
            deployment.spec =
                Some(serde_json::from_value(json!({"paused": paused, "selector": {}, "template": {}})).unwrap());
            let unsettled_since = since.map(|s| now - s);
            let known =
                Known { ordered: &ordered, stopping: &stopping, short_since: now, unsettled_since, is_away, now };
            scaled(&deployment, &[], 0, &known).hold
        };
        let minute = Duration::from_secs(60);
        assert_eq!(held(false, None, false), None);
        assert_eq!(held(false, Some(minute), false), Some(Hold::Rollout));
        assert_eq!(held(true, Some(minute), false), None, "a pause may last for days");
        assert_eq!(held(false, Some(minute * 11), false), None, "it is stuck");
        assert_eq!(held(false, None, true), Some(Hold::TargetAway));
    }

    #[test]
    fn a_rollout_is_not_settled() {
        for (status, want) in [
            (json!({"observedGeneration": 3, "replicas": 4, "updatedReplicas": 4}), true),
            (json!({"observedGeneration": 3}), true),
            (json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 4}), false),
            (json!({"observedGeneration": 3, "replicas": 5, "updatedReplicas": 1}), false),
            (Value::Null, false),
        ] {
            assert_eq!(is_settled(&deployment(status.clone())), want, "{status}");
        }
    }
}
