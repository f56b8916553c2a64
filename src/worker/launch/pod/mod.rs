//! The `pod` launch: a Pod of its own per job.
//!
//! `spec` makes it, with `overlay`; `fate` reads its status; `report` is what the binary in it (`shim`) says; `pods` is the
//! namespace. Here: how one is obtained, attended to and ended.

mod attend;
mod fate;
mod overlay;
mod pods;
mod report;
pub(crate) mod shim;
pub(crate) mod spec;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use self::fate::{Look, look};
pub(in crate::worker) use self::pods::Pods;
pub(crate) use self::report::is_jobs_own;
use super::{Launch, Outcome, Run, Slot, failure};
use crate::cluster::ClusterError;

/// A quota that is full now.
const QUOTA: Duration = Duration::from_secs(10);

/// How a worker makes Pods.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// The image that holds this program; an init container copies it into each Pod.
    pub image: String,
    /// What a job has to end in when its Pod is taken away.
    pub grace: Duration,
    /// How long a Pod may find no node, or not start, before its job goes back.
    pub pending: Duration,
    /// How long its image may not be found before its job has failed.
    pub pull: Duration,
}

impl Default for PodOptions {
    fn default() -> Self {
        PodOptions {
            image: String::new(),
            grace: Duration::from_secs(30),
            pending: Duration::from_secs(300),
            pull: Duration::from_secs(90),
        }
    }
}

/// What a type says of its Pods.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) struct Parts {
    pub image: String,
    pub secrets: Vec<SecretValue>,
    pub resources: Option<Value>,
    pub service_account: Option<String>,
    pub template: Option<Value>,
}

/// A variable from a Secret.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(in crate::worker) struct SecretValue {
    pub variable: String,
    pub name: String,
    pub key: String,
}

/// A Pod, to be taken away: this one, whatever is made under its name later.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Remains {
    pub name: String,
    pub uid: String,
}

impl Remains {
    fn of(pod: &Pod) -> Remains {
        Remains {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
impl Parts {
    fn of_image(image: &str) -> Parts {
        Parts { image: image.into(), secrets: Vec::new(), resources: None, service_account: None, template: None }
    }
}

pub(super) struct PodPerJob;

impl Launch for PodPerJob {
    async fn run(_: &mut Slot, run: &mut Run) -> Outcome {
        let Some(pods) = run.pods.clone() else {
            return Outcome::Failed(failure("unsupported_launch", true, "this worker makes no Pods"));
        };
        match obtain(&pods, run).await {
            Ok(pod) => attend::attend(&pods, run, pod).await,
            Err(outcome) => outcome,
        }
    }
}

/// The job's Pod: made, or found as an earlier worker left it.
async fn obtain(pods: &Pods, run: &mut Run) -> Result<Pod, Outcome> {
    let (spec, timeout) = (run.plan.spec.clone(), run.plan.timeout);
    let Some(parts) = spec.pod.as_ref() else {
        return Err(Outcome::Failed(failure("no_image", false, "the job type has no image")));
    };
    let (deadline, traceparent) = (run.deadline(), run.traceparent().map(ToOwned::to_owned));
    let made = spec::Made { job: &run.job, spec: &spec, parts, timeout, deadline, traceparent: traceparent.as_deref() };
    let wanted = spec::pod(&made, &pods.options).map_err(|e| Outcome::Failed(failure("invalid_pod", false, e)))?;
    let obtaining = async {
        let mut pause = Duration::from_millis(200);
        let until = Instant::now() + pods.options.pending;
        loop {
            match make(pods, &run.job, &wanted).await {
                Ok(Some(pod)) => return Ok(pod),
                Ok(None) => {}
                Err(error) if error.is_away() && Instant::now() < until => {
                    tracing::warn!(%error, job = %run.job.id, "no Pod yet, trying again");
                }
                Err(error) => return Err(refused(&error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    };
    tokio::select! {
        obtained = obtaining => obtained,
        // One that was made in this moment is found by its name, by whoever has the job next, or swept.
        _ = run.orders.step(false) => match run.orders.why() {
            Some(why) => Err(run.ordered(why)),
            None => Err(Outcome::Released),
        }
    }
}

/// One attempt to have the Pod; none if another is in its way still.
async fn make(pods: &Pods, job: &crate::ClaimedJob, wanted: &Pod) -> Result<Option<Pod>, ClusterError> {
    let name = spec::name(job.id);
    let pod = match pods.create(&name, wanted).await {
        Ok(pod) => pod,
        Err(ClusterError::Exists(_)) => match pods.get(&name).await? {
            Some(found) if is_ours(&found, wanted) => {
                tracing::info!(job = %job.id, pod = name, "its Pod is there already: adopted");
                found
            }
            Some(other) => {
                pods.delete(&Remains::of(&other), None).await?;
                return Ok(None);
            }
            None => return Ok(None),
        },
        Err(e) => return Err(e),
    };
    if !matches!(look(&pod), Look::Ended(_))
        && let Some(secret) = spec::secret(job, &pod)
    {
        pods.create_secret(&secret).await?;
    }
    Ok(Some(pod))
}

/// Whether a Pod found under the name is this run of the job, as its type has it now; one that has ended is, whatever its
/// type says by now.
fn is_ours(found: &Pod, wanted: &Pod) -> bool {
    let of = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key).cloned());
    let same = |key: &str| of(found, key).is_some() && of(found, key) == of(wanted, key);
    let ended = matches!(look(found), Look::Ended(_));
    same(spec::RUN) && (ended || same(spec::SPEC) && found.metadata.deletion_timestamp.is_none())
}

/// What follows from a refused creation.
fn refused(error: &ClusterError) -> Outcome {
    let text = error.to_string();
    let back = |reason: &str, after| Outcome::HandedBack { after: Some(after), error: format!("{reason}: {text}") };
    match error {
        ClusterError::Forbidden { message, .. } if message.contains("exceeded quota") => back("quota_exceeded", QUOTA),
        ClusterError::Forbidden { message, .. } if message.contains("being terminated") => {
            back("namespace_ends", QUOTA)
        }
        ClusterError::Forbidden { message, .. } if message.contains("violates PodSecurity") => {
            Outcome::Failed(failure("admission_refused", false, text))
        }
        ClusterError::Refused { message, .. } if message.contains("admission webhook") => {
            Outcome::Failed(failure("admission_refused", true, text))
        }
        ClusterError::Refused { code: 422, .. } => Outcome::Failed(failure("invalid_pod", false, text)),
        e if e.is_away() => back("api_away", QUOTA),
        _ => Outcome::Failed(failure("pod_refused", true, text)),
    }
}
