//! Reads a Pod's status as the state of its job; pure. A fault of the infrastructure hands the job back, a fault of the
//! job fails it, each with a reason of its own.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus as ApiStatus};

use super::{report::Report, spec::CONTAINER};
use crate::{Reason, launch::options::PodOptions};

/// A Secret that is not there yet, or a cache of the kubelet's that is not, looks like a mistake for a moment.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);

/// The thing a Pod waits for before its job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Node,
    Start,
    Image,
    Config,
}

#[derive(Debug, PartialEq)]
pub(super) enum PodStatus {
    Waiting(Wait, String),
    Running,
    Ended(End),
}

#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The binary in the Pod says how it ended.
    Reported(Box<Report>),
    Failed {
        reason: Reason,
        retryable: bool,
        text: String,
    },
    /// Not the job's doing: no attempt is consumed.
    Back {
        reason: Reason,
        after: Option<Duration>,
        text: String,
    },
    /// Nothing but an exit code, and what was last on the log.
    Bare {
        code: i32,
        text: String,
    },
}

fn failed(reason: Reason, retryable: bool, text: String) -> End {
    End::Failed { reason, retryable, text }
}

fn back(reason: Reason, after: Option<Duration>, text: String) -> End {
    End::Back { reason, after, text }
}

/// A Pod as it is. One that is being taken away has not ended before its job's container has.
pub(super) fn classify(pod: &Pod) -> PodStatus {
    let Some(status) = &pod.status else { return PodStatus::Waiting(Wait::Start, "no status yet".into()) };
    let job = status.container_statuses.iter().flatten().find(|c| c.name == CONTAINER);
    let state = job.and_then(|c| c.state.as_ref());
    let over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let ended = state.is_some_and(|s| s.terminated.is_some());
    if over || ended {
        return PodStatus::Ended(end(pod, status, state));
    }
    if state.is_some_and(|s| s.running.is_some()) {
        return PodStatus::Running;
    }
    waiting(status)
}

/// The end of a Pod that somebody else took away, by what was seen of it last.
pub(super) fn classify_deleted(last: Option<&Pod>) -> End {
    match last.map(classify) {
        Some(PodStatus::Ended(end)) => end,
        _ => match last.and_then(|pod| disruption(pod.status.as_ref()?)) {
            Some(end) => end,
            None => back(Reason::PodGone, None, "the Pod was taken away before its end was seen".into()),
        },
    }
}

/// The end of a Pod that was deleted and does not go.
pub(super) fn not_gone(last: &Pod) -> End {
    let is_placed = last.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|node| !node.is_empty()));
    if is_placed {
        back(Reason::NodeLost, None, "its node did not say that the Pod has ended".into())
    } else {
        let finalizers = last.metadata.finalizers.clone().unwrap_or_default().join(", ");
        back(
            Reason::PodDeleted,
            None,
            format!("somebody deleted its Pod, which stays for its finalizers: {finalizers}"),
        )
    }
}

/// Whether the job of a Pod has failed in it, and nothing runs in it any more.
pub(super) fn has_failed(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let mut ended = status.container_statuses.iter().flatten().map(|c| c.state.as_ref()?.terminated.as_ref());
    let job = status.container_statuses.iter().flatten().find(|c| c.name == CONTAINER);
    let failed = job.and_then(|c| c.state.as_ref()?.terminated.as_ref()).is_some_and(|t| t.exit_code != 0);
    status.phase.as_deref() == Some("Failed") || failed && ended.all(|t| t.is_some())
}

fn end(pod: &Pod, status: &ApiStatus, state: Option<&ContainerState>) -> End {
    if let Some(end) = disruption(status) {
        return end;
    }
    let text = status.message.clone().unwrap_or_default();
    match status.reason.as_deref() {
        None | Some("") => {}
        Some("DeadlineExceeded") => return failed(Reason::Timeout, true, format!("its Pod's deadline: {text}")),
        // The node's need is a disruption, told above; this is the Pod's own limit.
        Some("Evicted") => return failed(Reason::StorageLimit, true, text),
        Some("NodeShutdown" | "Shutdown" | "Terminated") => return back(Reason::NodeShutdown, None, text),
        Some("NodeLost") => return back(Reason::NodeLost, None, text),
        Some("Preempting") => return back(Reason::Preempted, None, text),
        Some(other) => return back(Reason::NodeRefused, Some(Duration::from_secs(5)), format!("{other}: {text}")),
    }
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let Some(ended) = state.and_then(|s| s.terminated.as_ref()) else {
        return never_started(status, deleted);
    };
    let reason = ended.reason.as_deref().unwrap_or_default();
    let message = ended.message.clone().unwrap_or_default();
    let report = Report::read(&message);
    // The kernel may have killed a part of the job only, which then went on to its end.
    if reason == "OOMKilled" && ended.exit_code != 0 {
        let tail = report.map(|r| r.stderr).unwrap_or_default();
        return failed(Reason::OomKilled, true, with_tail("out of memory: raise resources.limits.memory", &tail));
    }
    match report {
        Some(report) if report.told => back(Reason::PodDeleted, None, "somebody ended its Pod".into()),
        Some(report) => End::Reported(Box::new(report)),
        None if deleted => back(Reason::PodDeleted, None, "somebody ended its Pod".into()),
        None if matches!(reason, "StartError" | "ContainerCannotRun") => failed(Reason::StartFailed, true, message),
        None => End::Bare { code: ended.exit_code, text: message },
    }
}

fn never_started(status: &ApiStatus, deleted: bool) -> End {
    let failed_init = status.init_container_statuses.iter().flatten().find_map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref().filter(|t| t.exit_code != 0)?;
        Some((c.name.clone(), ended))
    });
    match failed_init {
        Some((name, ended)) => {
            let message = ended.message.clone().unwrap_or_default();
            failed(
                Reason::StartFailed,
                true,
                format!("init container {name}: exit code {}: {message}", ended.exit_code),
            )
        }
        None if deleted => back(Reason::PodDeleted, None, "somebody ended its Pod before it started".into()),
        None => back(
            Reason::NotStarted,
            Some(Duration::from_secs(5)),
            "its Pod ended before the job's container started".into(),
        ),
    }
}

fn disruption(status: &ApiStatus) -> Option<End> {
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True")?;
    let reason = match condition.reason.as_deref().unwrap_or_default() {
        "PreemptionByScheduler" => Reason::Preempted,
        "DeletionByTaintManager" | "DeletionByPodGC" => Reason::NodeLost,
        _ => Reason::Evicted,
    };
    let text = condition.message.clone().or_else(|| status.message.clone()).unwrap_or_default();
    Some(back(reason, None, text))
}

fn waiting(status: &ApiStatus) -> PodStatus {
    let all = || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for (name, reason, text) in all().filter_map(stuck) {
        let text = format!("container {name}: {text}");
        match reason {
            "InvalidImageName" => return PodStatus::Ended(failed(Reason::InvalidImageName, false, text)),
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "ImageInspectError" | "RegistryUnavailable" => {
                return PodStatus::Waiting(Wait::Image, text);
            }
            "CreateContainerConfigError" | "CreateContainerError" => return PodStatus::Waiting(Wait::Config, text),
            _ => {}
        }
    }
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    match unscheduled {
        Some(c) => PodStatus::Waiting(Wait::Node, c.message.clone().unwrap_or_default()),
        None => PodStatus::Waiting(Wait::Start, "its containers are being made".into()),
    }
}

fn stuck(container: &ContainerStatus) -> Option<(&str, &str, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    Some((&container.name, reason, format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default())))
}

/// The end of a Pod that waits where others could run.
pub(super) fn makes_room(wait: Wait, text: String) -> End {
    let reason = match wait {
        Wait::Node => Reason::Unschedulable,
        Wait::Start => Reason::NotStarted,
        Wait::Image => Reason::ImagePull,
        Wait::Config => Reason::ContainerConfig,
    };
    back(reason, None, text)
}

/// The end of a Pod that has waited too long, if it has.
pub(super) fn overdue(wait: Wait, text: &str, waited: Duration, options: &PodOptions) -> Option<End> {
    let (bound, end) = match wait {
        Wait::Node | Wait::Start => (options.pending, makes_room(wait, text.to_owned())),
        Wait::Image => (options.pull, failed(Reason::ImagePull, true, text.to_owned())),
        Wait::Config => (CONFIG_TIMEOUT, failed(Reason::ContainerConfig, true, text.to_owned())),
    };
    (waited >= bound).then_some(end)
}

pub(super) fn with_tail(what: &str, tail: &str) -> String {
    if tail.trim().is_empty() { what.to_owned() } else { format!("{what}: {}", tail.trim_end()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn of_job(phase: &str, state: Value) -> Value {
        json!({"phase": phase, "containerStatuses": [
            {"name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    fn ended(state: Value) -> Value {
        of_job("Failed", json!({"terminated": state}))
    }

    fn waits(reason: &str) -> Value {
        of_job("Pending", json!({"waiting": {"reason": reason}}))
    }

    fn word(status: &PodStatus) -> &'static str {
        match status {
            PodStatus::Ended(End::Failed { reason, .. } | End::Back { reason, .. }) => reason.as_str(),
            PodStatus::Ended(End::Reported(_)) => "reported",
            PodStatus::Ended(End::Bare { .. }) => "bare",
            PodStatus::Running => "running",
            PodStatus::Waiting(..) => "waiting",
        }
    }

    fn disrupted(by: &str, mut status: Value) -> Value {
        status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": by, "message": "m"}]);
        status
    }

    #[test]
    fn causes_of_death_are_told_apart() {
        let good = r#"{"rowlock":1,"code":0}"#;
        let told = r#"{"rowlock":1,"code":0,"told":true}"#;
        for (status, want) in [
            (ended(json!({"exitCode": 0, "message": good})), "reported"),
            (ended(json!({"exitCode": 0, "message": told})), "pod_deleted"),
            (ended(json!({"exitCode": 137, "reason": "OOMKilled"})), "oom_killed"),
            (ended(json!({"exitCode": 0, "reason": "OOMKilled", "message": good})), "reported"),
            (ended(json!({"exitCode": 128, "reason": "StartError"})), "start_failed"),
            (ended(json!({"exitCode": 137, "reason": "Error"})), "bare"),
            (disrupted("EvictionByEvictionAPI", ended(json!({"exitCode": 0, "message": good}))), "evicted"),
            (disrupted("TerminationByKubelet", json!({"phase": "Failed", "reason": "Evicted"})), "evicted"),
            (disrupted("PreemptionByScheduler", json!({"phase": "Failed"})), "preempted"),
            (disrupted("DeletionByTaintManager", json!({"phase": "Failed"})), "node_lost"),
            (json!({"phase": "Failed", "reason": "Evicted", "message": "exceeds the limit"}), "storage_limit"),
            (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), "timeout"),
            (json!({"phase": "Succeeded", "reason": "Terminated"}), "node_shutdown"),
            (json!({"phase": "Failed", "reason": "OutOfcpu"}), "node_refused"),
            (json!({"phase": "Failed"}), "not_started"),
            (waits("InvalidImageName"), "invalid_image_name"),
            (waits("ErrImagePull"), "waiting"),
            (disrupted("EvictionByEvictionAPI", waits("ContainerCreating")), "waiting"),
        ] {
            assert_eq!(word(&classify(&pod(status.clone()))), want, "{status}");
        }
    }

    #[test]
    fn what_waits_too_long_has_its_reason() {
        let options = PodOptions::default();
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes"});
        let scheduled = json!({"phase": "Pending", "conditions": [condition]});
        for (status, bound, want) in [
            (scheduled, options.pending, "unschedulable"),
            (waits("ContainerCreating"), options.pending, "not_started"),
            (waits("ImagePullBackOff"), options.pull, "image_pull"),
            (waits("CreateContainerConfigError"), CONFIG_TIMEOUT, "container_config"),
        ] {
            let PodStatus::Waiting(wait, text) = classify(&pod(status)) else { panic!("{want}") };
            assert!(overdue(wait, &text, bound - Duration::from_millis(1), &options).is_none());
            assert_eq!(word(&PodStatus::Ended(overdue(wait, &text, bound, &options).unwrap())), want);
        }
    }

    #[test]
    fn one_that_is_gone_is_what_was_seen_of_it_last() {
        let evicted = disrupted("EvictionByEvictionAPI", json!({"phase": "Running"}));
        assert!(matches!(classify_deleted(Some(&pod(evicted))), End::Back { reason: Reason::Evicted, .. }));
        assert!(matches!(classify_deleted(None), End::Back { reason: Reason::PodGone, .. }));
        let report = ended(json!({"exitCode": 0, "message": r#"{"rowlock":1,"code":0}"#}));
        assert!(matches!(classify_deleted(Some(&pod(report))), End::Reported(_)));
    }
}
