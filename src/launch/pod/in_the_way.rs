//! A Pod that has the name of a job's Pod already: whose it is, and what is done about it; pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use uuid::Uuid;

use super::{
    spec::{DATABASE, RUN, SPEC},
    status::{PodStatus, classify},
};

/// A Pod that was deleted is gone so long after its grace, if nothing is wrong with its node.
const NODE_LOST_AFTER: Duration = Duration::from_secs(30);
/// A Pod that is deleted without its node is gone within this time.
const FORCED_WITHIN: Duration = Duration::from_secs(10);
/// A job comes back to a Pod that does not go after this time at least, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// The relation of a Pod to a job that wants its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The run that the worker wants: it goes on.
    ThisRun,
    /// Another run of the job, or one that has not begun and would begin otherwise now.
    Replaced,
    /// Not a Pod of this database's jobs.
    Strange,
}

/// Compares a Pod that was found with the one that was to be made. What runs, or has ended, keeps what it began with,
/// whatever its type says by now: the change holds from the next attempt.
pub(super) fn relation(found: &Pod, wanted: &Pod, database: Uuid) -> Relation {
    let labels = found.metadata.labels.as_ref();
    if labels.and_then(|l| l.get(DATABASE)).is_none_or(|of| *of != database.to_string()) {
        return Relation::Strange;
    }
    let of = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key).cloned());
    let same = |key: &str| of(found, key).is_some() && of(found, key) == of(wanted, key);
    let goes = found.metadata.deletion_timestamp.is_some();
    let fits = match classify(found) {
        PodStatus::Ended(_) => true,
        PodStatus::Running => !goes,
        PodStatus::Waiting(..) => !goes && same(SPEC),
    };
    if same(RUN) && fits { Relation::ThisRun } else { Relation::Replaced }
}

/// The next thing that is done about a Pod that is to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Delete,
    Wait,
    /// Its node does not say that it has ended.
    DeleteByForce,
    /// Nothing that this worker does helps. The job comes again after the pause.
    GiveUp(Duration),
}

/// Decides by how long the Pod was seen to go, and whether it was deleted by force already. A finalizer is somebody's
/// who has to remove it: force does not help.
pub(super) fn step(found: &Pod, seen_for: Duration, forced: bool, now: DateTime<Utc>) -> Step {
    let Some(deleted) = &found.metadata.deletion_timestamp else { return Step::Delete };
    let grace = found.metadata.deletion_grace_period_seconds.unwrap_or_default().unsigned_abs();
    let bound = NODE_LOST_AFTER + Duration::from_secs(grace);
    // By two clocks, so only a long time counts: then somebody has waited for it before.
    let since = DateTime::from_timestamp_millis(deleted.0.as_millisecond());
    let overdue = since.and_then(|at| (now - at).to_std().ok()).unwrap_or_default();
    let held = found.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    let again = overdue.clamp(AGAIN.0, AGAIN.1);
    if held && (seen_for >= bound || overdue >= 2 * bound) {
        Step::GiveUp(again)
    } else if held || seen_for < bound {
        Step::Wait
    } else if !forced {
        Step::DeleteByForce
    } else if seen_for < bound + FORCED_WITHIN {
        Step::Wait
    } else {
        Step::GiveUp(again)
    }
}

/// Says what is in the way, for the job's error.
pub(super) fn text(found: &Pod) -> String {
    let name = found.metadata.name.as_deref().unwrap_or_default();
    let finalizers = found.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.is_empty() {
        format!("Pod {name} of an earlier run was deleted and is still there; look at its node")
    } else {
        let finalizers = finalizers.join(", ");
        format!("Pod {name} of an earlier run was deleted and is still there; its finalizers are {finalizers}")
    }
}

/// Says whose a strange Pod is.
pub(super) fn strange(found: &Pod) -> String {
    let name = found.metadata.name.as_deref().unwrap_or_default();
    let of = found.metadata.labels.as_ref().and_then(|l| l.get(DATABASE));
    let whose = of.map_or_else(|| "nobody that Rowlock knows".to_owned(), |id| format!("database {id}"));
    format!("Pod {name} is of {whose}; give this database's workers another namespace, or delete that Pod")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(more: Value, status: Value) -> Pod {
        let mut metadata = json!({"name": "p", "labels": {DATABASE: Uuid::from_u128(1)},
            "annotations": {RUN: "0-5", SPEC: "old"}});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn job(state: Value) -> Value {
        json!({"phase": "Running", "containerStatuses": [
            {"name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    #[test]
    fn what_runs_keeps_what_it_began_with() {
        let wanted = pod(json!({"annotations": {RUN: "0-5", SPEC: "new"}}), json!({}));
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let other_run = json!({"annotations": {RUN: "1-5", SPEC: "new"}});
        let (runs, ended) = (job(json!({"running": {}})), job(json!({"terminated": {"exitCode": 0}})));
        for (found, want) in [
            (pod(json!({}), runs.clone()), Relation::ThisRun),
            (pod(json!({}), ended.clone()), Relation::ThisRun),
            (pod(gone.clone(), ended.clone()), Relation::ThisRun),
            (pod(gone.clone(), runs.clone()), Relation::Replaced),
            (pod(json!({}), json!({"phase": "Pending"})), Relation::Replaced),
            (pod(json!({"annotations": {RUN: "0-5", SPEC: "new"}}), json!({"phase": "Pending"})), Relation::ThisRun),
            (pod(other_run.clone(), runs.clone()), Relation::Replaced),
            (pod(other_run, ended.clone()), Relation::Replaced),
            (pod(json!({"labels": {DATABASE: Uuid::from_u128(2)}}), runs), Relation::Strange),
            (pod(json!({"labels": {}}), ended), Relation::Strange),
        ] {
            assert_eq!(relation(&found, &wanted, Uuid::from_u128(1)), want, "{found:?}");
        }
    }

    #[test]
    fn a_wait_for_a_pod_that_does_not_go_has_an_end() {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        let going = |more: Value| {
            let mut metadata = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5});
            metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            pod(metadata, json!({}))
        };
        let free = going(json!({}));
        assert_eq!(step(&pod(json!({}), json!({})), SECOND, false, at), Step::Delete);
        assert_eq!(step(&free, 34 * SECOND, false, at), Step::Wait);
        assert_eq!(step(&free, 35 * SECOND, false, at), Step::DeleteByForce);
        assert_eq!(step(&free, 36 * SECOND, true, at), Step::Wait);
        assert_eq!(step(&free, 45 * SECOND, true, at), Step::GiveUp(AGAIN.0));
        let held = going(json!({"finalizers": ["example.com/f"]}));
        assert_eq!(step(&held, 34 * SECOND, false, at), Step::Wait);
        assert_eq!(step(&held, 35 * SECOND, false, at), Step::GiveUp(AGAIN.0));
        assert_eq!(step(&held, SECOND, false, at + 100 * SECOND), Step::GiveUp(100 * SECOND), "waited for before");
        assert_eq!(step(&held, SECOND, false, at + 9999 * SECOND), Step::GiveUp(AGAIN.1));
        assert_eq!(step(&free, SECOND, false, at + 9999 * SECOND), Step::Wait, "force by no clock of ours");
        assert!(text(&held).contains("example.com/f") && strange(&held).contains("database"));
    }
}
