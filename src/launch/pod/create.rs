//! A job's Pod: made, or found as an earlier worker left it; and what follows when the cluster refuses it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{
    pods::{PodRef, Pods},
    spec,
    status::{PodStatus, classify},
};
use crate::{ClaimedJob, Failure, Reason, cluster::ClusterError, launch::run::Run, worker::launcher::Outcome};

/// How long a job waits for a quota that is full now.
const QUOTA_RETRY: Duration = Duration::from_secs(10);

/// The job's Pod: made, or found as an earlier worker left it.
pub(super) async fn obtain(pods: &Pods, run: &mut Run<'_>) -> Result<Pod, Outcome> {
    let (spec, timeout) = (run.plan.spec.clone(), run.plan.timeout);
    let Some(parts) = spec.pod.as_ref() else {
        return Err(Outcome::Failed(Failure::of(Reason::NoImage, false, "the job type has no image")));
    };
    let (deadline, traceparent) = (run.deadline(), run.traceparent().map(ToOwned::to_owned));
    let made = spec::Made { job: run.job, spec: &spec, parts, timeout, deadline, traceparent: traceparent.as_deref() };
    let wanted =
        spec::pod(&made, &pods.options).map_err(|e| Outcome::Failed(Failure::of(Reason::InvalidPod, false, e)))?;
    let obtaining = async {
        let mut pause = Duration::from_millis(200);
        let until = Instant::now() + pods.options.pending;
        loop {
            match make(pods, run.job, &wanted).await {
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
        _ = run.stops.step(false) => match run.stops.reason() {
            Some(reason) => Err(run.stopped(reason)),
            None => Err(Outcome::Released),
        }
    }
}

/// One attempt to have the Pod; none if another is in its way still.
async fn make(pods: &Pods, job: &ClaimedJob, wanted: &Pod) -> Result<Option<Pod>, ClusterError> {
    let name = spec::name(job.id);
    let pod = match pods.create(&name, wanted).await {
        Ok(pod) => pod,
        Err(ClusterError::Exists(_)) => match pods.get(&name).await? {
            Some(found) if is_ours(&found, wanted) => {
                tracing::info!(job = %job.id, pod = name, "its Pod is there already: adopted");
                found
            }
            Some(other) => {
                pods.delete(&PodRef::of(&other), None).await?;
                return Ok(None);
            }
            None => return Ok(None),
        },
        Err(e) => return Err(e),
    };
    if !matches!(classify(&pod), PodStatus::Ended(_))
        && let Some(secret) = spec::secret(job, &pod)
    {
        pods.create_secret(&secret).await?;
    }
    Ok(Some(pod))
}

/// Whether a Pod found under the name is this run of the job, as its type has it now. A Pod that has ended is, whatever
/// its type says by now.
fn is_ours(found: &Pod, wanted: &Pod) -> bool {
    let of = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key).cloned());
    let same = |key: &str| of(found, key).is_some() && of(found, key) == of(wanted, key);
    let ended = matches!(classify(found), PodStatus::Ended(_));
    same(spec::RUN) && (ended || same(spec::SPEC) && found.metadata.deletion_timestamp.is_none())
}

/// The outcome of a job whose Pod was refused.
fn refused(error: &ClusterError) -> Outcome {
    let text = error.to_string();
    let back = |reason: Reason, after| Outcome::HandedBack { after: Some(after), error: format!("{reason}: {text}") };
    match error {
        ClusterError::Forbidden { message, .. } if message.contains("exceeded quota") => {
            back(Reason::QuotaExceeded, QUOTA_RETRY)
        }
        ClusterError::Forbidden { message, .. } if message.contains("being terminated") => {
            back(Reason::NamespaceEnds, QUOTA_RETRY)
        }
        ClusterError::Forbidden { message, .. } if message.contains("violates PodSecurity") => {
            Outcome::Failed(Failure::of(Reason::AdmissionRefused, false, text))
        }
        ClusterError::Refused { message, .. } if message.contains("admission webhook") => {
            Outcome::Failed(Failure::of(Reason::AdmissionRefused, true, text))
        }
        ClusterError::Refused { code: 422, .. } => Outcome::Failed(Failure::of(Reason::InvalidPod, false, text)),
        e if e.is_away() => back(Reason::ApiAway, QUOTA_RETRY),
        _ => Outcome::Failed(Failure::of(Reason::PodRefused, true, text)),
    }
}
