//! A job's Pod: made, or found as an earlier worker left it; and what follows when the cluster refuses it.

use std::time::{Duration, Instant};

use chrono::Utc;
use k8s_openapi::api::core::v1::Pod;

use super::{
    backoff::NotNow,
    in_the_way::{self, Relation, Step},
    pods::{PodRef, Pods},
    refusal::{self, Class},
    spec,
    status::{PodStatus, classify},
};
use crate::{
    ClaimedJob, Failure, Reason,
    cluster::ClusterError,
    launch::{run::Run, spec::Parts},
    worker::launcher::Outcome,
};

/// The same call is made again for no longer: after that others may be better off.
const MOMENT: Duration = Duration::from_secs(30);
/// A job whose name a strange Pod has comes again after this time.
const STRANGE_RETRY: Duration = Duration::from_secs(60);

/// The Pod that was found or made by one attempt.
enum Attempt {
    Ours(Pod),
    InTheWay(Pod),
    Strange(Pod),
    /// It was there, and then it was not.
    Gone,
}

/// The job's Pod: made, or found as an earlier worker left it.
pub(super) async fn obtain(pods: &Pods, run: &mut Run<'_>) -> Result<Pod, Outcome> {
    let spec = run.plan.spec.clone();
    let Some(parts) = spec.pod.as_ref() else {
        return Err(Outcome::Failed(Failure::of(Reason::NoImage, false, "the job type has no image")));
    };
    let print = spec::fingerprint(&spec, parts);
    let may = pods.backoff().enter(&run.job.job_type, &print, run.job.id, Instant::now());
    if let Err(NotNow { after, reason, text }) = may {
        tracing::debug!(job = %run.job.id, %reason, text, "its type backs off: handed back");
        return Err(Outcome::HandedBack { after: Some(after), error: format!("{reason}: {text}") });
    }
    let (job, host) = (run.job, run.host);
    let (deadline, traceparent) = (run.deadline(), run.traceparent().map(ToOwned::to_owned));
    let made = Wanted { job, spec: &spec, parts, timeout: run.plan.timeout, deadline, traceparent };
    let obtained = tokio::select! {
        obtained = repeat(pods, &made) => obtained,
        // One that was made in this moment is found by its name, by whoever has the job next, or swept.
        _ = run.stops.step(false) => return match run.stops.reason() {
            Some(reason) => Err(run.stopped(reason)),
            None => Err(Outcome::Released),
        },
    };
    match obtained {
        Ok(pod) => {
            host.works();
            host.accepted(&job.job_type);
            Ok(pod)
        }
        Err(NoPod::Refused(error)) => Err(refused(pods, run, &print, &error)),
        Err(NoPod::NotValid(why)) => Err(Outcome::Failed(Failure::of(Reason::InvalidPod, false, why))),
        Err(NoPod::InTheWay { after, text }) => {
            tracing::warn!(job = %job.id, text, "another Pod is in the way: handed back");
            let error = format!("{}: {text}", Reason::PodInTheWay);
            Err(Outcome::HandedBack { after: Some(after), error })
        }
    }
}

/// The parts of the Pod that the job and its type decide.
struct Wanted<'a> {
    job: &'a ClaimedJob,
    spec: &'a crate::launch::spec::Spec,
    parts: &'a Parts,
    timeout: Option<Duration>,
    deadline: Option<String>,
    traceparent: Option<String>,
}

/// The reason for which there is no Pod.
enum NoPod {
    Refused(ClusterError),
    NotValid(String),
    InTheWay { after: Duration, text: String },
}

impl From<ClusterError> for NoPod {
    fn from(error: ClusterError) -> NoPod {
        NoPod::Refused(error)
    }
}

/// Repeats what may succeed in a moment, and waits for what is in the way, both within a bound.
async fn repeat(pods: &Pods, wanted: &Wanted<'_>) -> Result<Pod, NoPod> {
    let mut pause = Duration::from_millis(200);
    let until = Instant::now() + MOMENT.min(pods.options.pending);
    let mut way = Way::default();
    loop {
        let done = match attempt(pods, wanted).await {
            Ok(Attempt::Ours(pod)) => return Ok(pod),
            Ok(Attempt::Strange(pod)) => {
                return Err(NoPod::InTheWay { after: STRANGE_RETRY, text: in_the_way::strange(&pod) });
            }
            Ok(Attempt::InTheWay(pod)) => clear(pods, wanted.job, &pod, &mut way).await,
            Ok(Attempt::Gone) => Ok(()),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(NoPod::Refused(error)) if Instant::now() < until && refusal::read(&error).class == Class::Moment => {
                tracing::warn!(%error, job = %wanted.job.id, "no Pod yet, trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// The state of a Pod in the way.
#[derive(Default)]
struct Way {
    going_since: Option<Instant>,
    forced: bool,
}

/// Does the next thing about a Pod in the way.
async fn clear(pods: &Pods, job: &ClaimedJob, pod: &Pod, way: &mut Way) -> Result<(), NoPod> {
    let name = pod.metadata.name.as_deref();
    if pod.metadata.deletion_timestamp.is_some() && way.going_since.is_none() {
        tracing::info!(job = %job.id, pod = name, "waits until its earlier Pod is gone");
        way.going_since = Some(Instant::now());
    }
    let seen_for = way.going_since.map_or(Duration::ZERO, |since| since.elapsed());
    match in_the_way::step(pod, seen_for, way.forced, Utc::now()) {
        Step::Wait => {}
        Step::Delete => pods.delete(&PodRef::of(pod), None).await?,
        Step::DeleteByForce => {
            tracing::warn!(job = %job.id, pod = name, "its earlier Pod is deleted without a word of its node");
            way.forced = true;
            pods.delete(&PodRef::of(pod), Some(0)).await?;
        }
        Step::GiveUp(after) => return Err(NoPod::InTheWay { after, text: in_the_way::text(pod) }),
    }
    Ok(())
}

/// One attempt to have the Pod, with its Secret.
async fn attempt(pods: &Pods, wanted: &Wanted<'_>) -> Result<Attempt, NoPod> {
    let (job, owner) = (wanted.job, pods.owner.find(&pods.cluster).await?);
    let made = spec::Made {
        job,
        database: pods.database,
        owner,
        spec: wanted.spec,
        parts: wanted.parts,
        timeout: wanted.timeout,
        deadline: wanted.deadline.clone(),
        traceparent: wanted.traceparent.as_deref(),
    };
    let wanted = spec::pod(&made, &pods.options).map_err(NoPod::NotValid)?;
    let name = spec::name(job.id);
    let pod = match pods.create(&name, &wanted).await {
        Ok(pod) => pod,
        Err(ClusterError::Exists(_)) => match pods.get(&name).await? {
            None => return Ok(Attempt::Gone),
            Some(found) => match in_the_way::relation(&found, &wanted, pods.database) {
                Relation::Strange => return Ok(Attempt::Strange(found)),
                Relation::Replaced => return Ok(Attempt::InTheWay(found)),
                Relation::ThisRun => {
                    tracing::info!(job = %job.id, pod = name, "its Pod is there already: adopted");
                    found
                }
            },
        },
        Err(error) => return Err(error.into()),
    };
    if !matches!(classify(&pod), PodStatus::Ended(_))
        && let Some(secret) = spec::secret(job, pods.database, &pod)
        && let Err(error) = pods.create_secret(&secret).await
    {
        // The Pod would wait for its Secret for ever.
        if refusal::read(&error).class != Class::Moment {
            pods.remove(&PodRef::of(&pod), false).await;
        }
        return Err(error.into());
    }
    Ok(Attempt::Ours(pod))
}

/// The outcome of a job whose Pod was refused.
fn refused(pods: &Pods, run: &Run<'_>, print: &str, error: &ClusterError) -> Outcome {
    let (job, text) = (run.job, error.to_string());
    let refusal = refusal::read(error);
    let reason = refusal.reason;
    let why = format!("{reason}: {text}");
    match refusal.class {
        Class::Final => Outcome::Failed(Failure::of(reason, false, text)),
        // At its old place and time, so that a Pod that is there already is the same run.
        Class::Moment | Class::Worker => {
            run.host.failed(&format!("no Pod can be made: {text}"));
            Outcome::HandedBack { after: None, error: why }
        }
        Class::Type => {
            tracing::warn!(job = %job.id, %reason, text, "its Pod was refused: handed back, and its type backs off");
            let after = pods.backoff().refused(&job.job_type, print, job.id, (reason, &text), Instant::now());
            // A quota that this worker's own Pods fill is no fault.
            if reason != Reason::QuotaExceeded || pods.supervised().is_empty() {
                run.host.refused(&job.job_type, &text);
            }
            Outcome::HandedBack { after: Some(after), error: why }
        }
    }
}
