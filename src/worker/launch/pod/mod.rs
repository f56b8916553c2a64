//! The `pod` launch: a Pod of its own per job.
//!
//! `spec` makes it, with `overlay`; `fate` reads its status; `report` is what the binary in it (`shim`) says; `pods` is the
//! namespace. Here: how one is obtained, attended to and ended.

mod fate;
mod overlay;
mod pods;
mod report;
pub(crate) mod shim;
pub(crate) mod spec;

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

pub(in crate::worker) use self::pods::Pods;
pub(crate) use self::report::is_jobs_own;
use self::{
    fate::{End, Look, Wait, look},
    pods::Seen,
    report::Report,
};
use super::{
    Launch, Outcome, Run, Slot, failure, files,
    orders::{Step, Why},
    progress::Progress,
};
use crate::cluster::ClusterError;

/// Between two looks at what the watch cannot tell: how long it waits, and whether it is still there.
const LOOK: Duration = Duration::from_secs(1);
/// A Pod that the watch does not know is asked for so often.
const ASK: Duration = Duration::from_secs(15);
/// How long a node may take beyond a Pod's grace before it is taken for lost.
const LOST: Duration = Duration::from_secs(30);
/// Until one that was taken away is gone, if nothing is wrong.
const GONE: Duration = Duration::from_secs(10);
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
            Ok(pod) => attend(&pods, run, pod).await,
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

/// What one Pod is known to have waited for, and since when it is on its way out.
#[derive(Default)]
struct Clocks {
    waits: Vec<(Wait, Instant)>,
    leaving: Option<Instant>,
}

impl Clocks {
    fn waited(&mut self, wait: Wait) -> Duration {
        let since = self.waits.iter().find(|(w, _)| *w == wait).map(|(_, since)| *since);
        since
            .unwrap_or_else(|| {
                self.waits.push((wait, Instant::now()));
                Instant::now()
            })
            .elapsed()
    }
}

async fn attend(pods: &Arc<Pods>, run: &mut Run, pod: Pod) -> Outcome {
    let me = Remains::of(&pod);
    let mut attending = pods.attend(&me.uid);
    let (progress, session) = (Arc::new(Progress::default()), run.session.clone());
    let mut following = None;
    let end = {
        let storing = progress.store(&session, &run.job);
        tokio::pin!(storing);
        let (mut clocks, mut asked, mut last) = (Clocks::default(), Instant::now(), Arc::new(pod));
        let end = loop {
            if let Some(end) = now(pods, &attending, &mut clocks, &mut last) {
                break Some(end);
            }
            if following.is_none() && look(&last) == Look::Running {
                let (pods, name, progress) = (pods.clone(), me.name.clone(), progress.clone());
                let follow = async move { pods.follow(&name, &progress).await };
                following = Some(tokio_util::task::AbortOnDropHandle::new(tokio::spawn(follow)));
            }
            tokio::select! {
                step = run.orders.step(false) => {
                    // The job goes on: whoever has it next finds its Pod.
                    if matches!(run.orders.why(), Some(Why::Draining | Why::Lease)) {
                        break None;
                    }
                    let grace = if step == Step::Kill { Some(1) } else { None };
                    if let Err(error) = pods.delete(&me, grace).await {
                        tracing::warn!(%error, "a Pod could not be ended yet");
                    }
                }
                _ = attending.changed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = &mut storing => {}
            }
            if matches!(attending.seen(), Seen::Not) && asked.elapsed() > ASK {
                asked = Instant::now();
                // Between two lists of the watch it may have come and gone.
                if let Ok(found) = pods.get(&me.name).await
                    && found.is_none_or(|p| p.metadata.uid.as_deref() != Some(&me.uid))
                {
                    break Some(fate::gone(Some(&last)));
                }
            }
        };
        drop(following);
        progress.finish(storing).await;
        end
    };
    match (end, run.orders.why()) {
        (None, _) => Outcome::Released,
        (Some(_), Some(why)) => {
            run.remains = Some(me);
            run.ordered(why)
        }
        (Some(end), None) => conclude(pods, run, me, end).await,
    }
}

/// Whether it has ended by now.
fn now(pods: &Pods, attending: &pods::Attending<'_>, clocks: &mut Clocks, last: &mut Arc<Pod>) -> Option<End> {
    match attending.seen() {
        Seen::Not => {}
        Seen::There(pod) => *last = pod,
        Seen::Gone(pod) => return Some(fate::gone(Some(&pod))),
    }
    if let Some(grace) = last.metadata.deletion_grace_period_seconds
        && last.metadata.deletion_timestamp.is_some()
    {
        let since = *clocks.leaving.get_or_insert_with(Instant::now);
        if since.elapsed() > LOST + Duration::from_secs(grace.unsigned_abs()) {
            let text = "its node did not say that the Pod has ended".to_owned();
            return Some(End::Back { reason: "node_lost", after: None, text });
        }
    }
    match look(last) {
        Look::Running => None,
        Look::Ended(end) => Some(end),
        Look::Waiting(wait, text) => fate::overdue(wait, &text, clocks.waited(wait), &pods.options),
    }
}

/// The outcome of a Pod that ended by itself, or that waited too long.
async fn conclude(pods: &Pods, run: &mut Run, me: Remains, end: End) -> Outcome {
    let outcome = match end {
        End::Reported(report) => reported(pods, run, &me, *report).await,
        End::Failed { reason, retryable, text } => Outcome::Failed(failure(reason, retryable, text)),
        End::Bare { code, text } => {
            let status = ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 });
            Outcome::Failed(run.ended_badly("no report, ", status, &text))
        }
        End::Back { reason, after, text } => {
            tracing::warn!(job = %run.job.id, reason, text, "no fault of the job's: handed back");
            // First it goes, then its job: else the next worker would find it and hand the job back again.
            take_away(pods, &me, reason == "node_lost").await;
            return Outcome::HandedBack { after, error: format!("{reason}: {text}") };
        }
    };
    run.remains = Some(me);
    outcome
}

async fn take_away(pods: &Pods, pod: &Remains, by_force: bool) {
    let attending = pods.attend(&pod.uid);
    let mut changed = attending.changed.clone();
    let going = async {
        while let Err(error) = pods.delete(pod, by_force.then_some(0)).await {
            tracing::warn!(%error, "a Pod could not be taken away yet");
            tokio::time::sleep(LOOK).await;
        }
        while let Seen::There(_) = attending.seen() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(GONE, going).await.is_err() {
        tracing::warn!(pod = pod.name, "a Pod is not gone yet; the next worker waits for it");
    }
}

async fn reported(pods: &Pods, run: &Run, me: &Remains, short: Report) -> Outcome {
    let report = match short.on_log {
        None => short,
        Some(bytes) => match on_log(pods, me, bytes).await {
            Ok(whole) => whole,
            Err(why) if short.code == Some(0) => {
                return Outcome::Failed(failure("result_lost", true, format!("result: not on the Pod's log: {why}")));
            }
            Err(_) => short,
        },
    };
    if report.timed_out {
        return run.ordered(Why::Timeout);
    }
    if let Some(why) = report.not_started {
        return Outcome::Failed(failure("spawn_failed", true, why));
    }
    if let Some((reason, text)) = report.bad_result {
        let reason =
            ["output_too_large", "invalid_utf8"].into_iter().find(|r| *r == reason).unwrap_or("invalid_result");
        return Outcome::Failed(failure(reason, true, text));
    }
    match (report.code, report.result) {
        (Some(0), None) => Outcome::Completed(None),
        (Some(0), Some(result)) => {
            files::parse("result file", result.into_bytes()).map_or_else(Outcome::Failed, Outcome::Completed)
        }
        (code, _) => {
            let status = ExitStatus::from_raw(code.map_or_else(|| report.signal.unwrap_or_default(), |c| c << 8));
            Outcome::Failed(run.ended_badly("", status, &report.stderr))
        }
    }
}

/// Asked some times: the node may be busy.
async fn on_log(pods: &Pods, me: &Remains, bytes: usize) -> Result<Report, String> {
    let mut why = String::new();
    for _ in 0..4 {
        match pods.report(&me.name, bytes).await {
            Ok(Some(report)) => return Ok(report),
            Ok(None) => "parts of it are missing".clone_into(&mut why),
            Err(e) => why = e.to_string(),
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(why)
}
