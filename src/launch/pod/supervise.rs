//! Supervises the Pod of one job until the Pod has ended or the job has to stop, and turns its end into an outcome.

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use tokio_util::task::AbortOnDropHandle;

use super::{
    backoff, cleanup,
    pods::{PodRef, PodWatch, Pods, Seen},
    report::Report,
    spec,
    status::{self, End, PodStatus, Wait, classify},
};
use crate::{
    ClaimedJob, Failure, Reason,
    launch::{files, run::Run},
    worker::{
        launcher::{Ended, Outcome},
        stop::{Step, StopReason},
    },
};

/// The watch cannot tell how long a Pod waits: that is looked at so often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The API server is asked so often for a Pod that the watch does not know.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(15);
/// How long a node may take beyond a Pod's grace before it counts as lost.
const NODE_LOST_AFTER: Duration = Duration::from_secs(30);
/// A Pod of which nobody says anything is left to whoever can see it after this time.
const UNSEEN_FOR: Duration = Duration::from_secs(600);
/// Between two attempts to read a report from the log.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// Since when one Pod has waited, for each thing it waited for, since when it is being deleted, and since when nobody
/// says how it is.
#[derive(Default)]
struct Clocks {
    waits: Vec<(Wait, Instant)>,
    deleted: Option<Instant>,
    unseen: Option<Instant>,
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

/// How the worker and the Pod part.
enum Parting {
    /// The worker lets go of the job. The job goes on: whoever has it next finds its Pod.
    LetGo,
    /// Nobody has said anything of the Pod for long. It may run.
    Unseen(String),
    Ended(End, Arc<Pod>),
}

pub(super) async fn supervise(pods: &Arc<Pods>, run: &mut Run<'_>, pod: Pod) -> Ended {
    let pod_ref = PodRef::of(&pod);
    let (end, last) = match until_end(pods, run, &pod_ref, pod).await {
        Parting::LetGo => return Outcome::Released.into(),
        Parting::Unseen(why) => {
            run.host.failed(&format!("job {}: {why}", run.job.id));
            return Outcome::HandedBack { after: None, error: format!("{}: {why}", Reason::ApiAway) }.into();
        }
        Parting::Ended(end, last) => (end, last),
    };
    learn(pods, run, &end);
    let outcome = match (end, run.stops.reason()) {
        (_, Some(reason)) => run.stopped(reason),
        (End::Back { reason, after, text }, None) => {
            tracing::warn!(job = %run.job.id, %reason, text, "no fault of the job's: handed back");
            let after = back_off(pods, run, reason, &text).or(after);
            // First the Pod goes, then its job: else the next worker would find it and hand the job back again.
            pods.remove(&pod_ref, reason == Reason::NodeLost).await;
            return Outcome::HandedBack { after, error: format!("{reason}: {text}") }.into();
        }
        (end, None) => outcome_of(pods, run, &pod_ref, end).await,
    };
    let stays =
        matches!(outcome, Outcome::Failed(_)) && status::has_failed(&last) && !pods.options.keep_failed.is_zero();
    // The sweep takes it away when its time is over.
    Ended { outcome, afterwards: (!stays).then(|| cleanup::afterwards(pods.clone(), pod_ref)) }
}

/// Remembers what one Pod's end says of others.
fn learn(pods: &Pods, run: &Run<'_>, end: &End) {
    match end {
        End::Reported(_) | End::Bare { .. } => pods.backoff().started(&run.job.job_type),
        End::Failed { reason, text, .. } => drop(back_off(pods, run, *reason, text)),
        End::Back { reason: Reason::PodDeleted | Reason::PodGone, .. } => pods.owner.forget(),
        End::Back { .. } => {}
    }
}

/// The pause of the job, if others of its type would end as its Pod did.
fn back_off(pods: &Pods, run: &Run<'_>, reason: Reason, text: &str) -> Option<Duration> {
    let (job, spec) = (run.job, &run.plan.spec);
    let print = spec::fingerprint(spec, spec.pod.as_ref().filter(|_| backoff::is_of_type(reason))?);
    Some(pods.backoff().refused(&job.job_type, &print, job.id, (reason, text), Instant::now()))
}

/// Watches the Pod to its end, until the worker lets go of it, or until nobody knows of it.
async fn until_end(pods: &Arc<Pods>, run: &mut Run<'_>, pod_ref: &PodRef, pod: Pod) -> Parting {
    let mut watch = pods.supervise(&pod_ref.uid);
    let mut following = None;
    let (mut clocks, mut asked, mut last) = (Clocks::default(), Instant::now(), Arc::new(pod));
    loop {
        if let Some(end) = end_by_now(pods, run.job, &watch, &mut clocks, &mut last) {
            return Parting::Ended(end, last);
        }
        if following.is_none() && classify(&last) == PodStatus::Running {
            pods.backoff().started(&run.job.job_type);
            pods.backoff().left(&run.job.job_type, run.job.id);
            let (pods, name, progress) = (pods.clone(), pod_ref.name.clone(), run.progress.clone());
            let follow = async move { pods.follow(&name, &progress).await };
            following = Some(AbortOnDropHandle::new(tokio::spawn(follow)));
        }
        tokio::select! {
            step = run.stops.step(false) => {
                if matches!(run.stops.reason(), Some(StopReason::Draining | StopReason::LeaseLost)) {
                    return Parting::LetGo;
                }
                let grace = if step == Step::Kill { Some(1) } else { None };
                if let Err(error) = pods.delete(pod_ref, grace).await {
                    tracing::warn!(%error, "a Pod could not be ended yet");
                }
            }
            _ = watch.changed.changed() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        // Between two lists of the watch it may have come and gone, and a watch that is broken says nothing.
        let unknown = matches!(watch.seen(), Seen::Not) || !pods.watched.is_well();
        if unknown && asked.elapsed() > LOOKUP_INTERVAL {
            asked = Instant::now();
            if let Some(parting) = look_up(pods, pod_ref, &mut clocks, &mut last).await {
                return parting;
            }
        }
        if !unknown {
            clocks.unseen = None;
        }
    }
}

/// Asks for a Pod of which the watch does not know.
async fn look_up(pods: &Pods, pod_ref: &PodRef, clocks: &mut Clocks, last: &mut Arc<Pod>) -> Option<Parting> {
    match pods.get(&pod_ref.name).await {
        Ok(Some(pod)) if pod.metadata.uid.as_deref() == Some(&pod_ref.uid) => {
            (clocks.unseen, *last) = (None, Arc::new(pod));
            None
        }
        Ok(_) => Some(Parting::Ended(status::classify_deleted(Some(last)), last.clone())),
        Err(error) => {
            let since = *clocks.unseen.get_or_insert_with(Instant::now);
            tracing::warn!(%error, pod = pod_ref.name, "nobody says how a Pod is");
            let over = since.elapsed() > UNSEEN_FOR;
            over.then(|| Parting::Unseen(format!("Pod {} was not seen for {UNSEEN_FOR:?}: {error}", pod_ref.name)))
        }
    }
}

/// The end of the Pod, if it has ended by now.
fn end_by_now(
    pods: &Pods,
    job: &ClaimedJob,
    watch: &PodWatch<'_>,
    clocks: &mut Clocks,
    last: &mut Arc<Pod>,
) -> Option<End> {
    match watch.seen() {
        Seen::Not => {}
        // What was asked for is newer than what a broken watch has.
        Seen::There(pod) if clocks.unseen.is_some() || !pods.watched.is_well() => drop(pod),
        Seen::There(pod) => *last = pod,
        Seen::Gone(pod) => return Some(status::classify_deleted(Some(&pod))),
    }
    if let Some(grace) = last.metadata.deletion_grace_period_seconds
        && last.metadata.deletion_timestamp.is_some()
    {
        let since = *clocks.deleted.get_or_insert_with(Instant::now);
        if since.elapsed() > NODE_LOST_AFTER + Duration::from_secs(grace.unsigned_abs()) {
            return Some(status::not_gone(last));
        }
    }
    let PodStatus::Waiting(wait, text) = classify(last) else {
        return match classify(last) {
            PodStatus::Ended(end) => Some(end),
            PodStatus::Running | PodStatus::Waiting(..) => None,
        };
    };
    let waited = clocks.waited(wait);
    if let Some(end) = status::overdue(wait, &text, waited, &pods.options) {
        return Some(end);
    }
    let stuck = backoff::is_stuck(wait, waited) && !pods.backoff().may_wait(&job.job_type, job.id, pods.places);
    stuck.then(|| status::makes_room(wait, text))
}

/// The outcome of a Pod that ended by itself, or that waited too long.
async fn outcome_of(pods: &Pods, run: &Run<'_>, pod: &PodRef, end: End) -> Outcome {
    match end {
        End::Reported(report) => reported(pods, run, pod, *report).await,
        End::Failed { reason, retryable, text } => Outcome::Failed(Failure::of(reason, retryable, text)),
        End::Bare { code, text } => {
            let status = ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 });
            Outcome::Failed(run.ended_badly("no report, ", status, &text))
        }
        End::Back { after, text, .. } => Outcome::HandedBack { after, error: text },
    }
}

async fn reported(pods: &Pods, run: &Run<'_>, pod: &PodRef, short: Report) -> Outcome {
    let report = match short.on_log {
        None => short,
        Some(bytes) => match on_log(pods, pod, bytes).await {
            Ok(whole) => whole,
            Err(why) if short.code == Some(0) => {
                return Outcome::Failed(Failure::of(
                    Reason::ResultLost,
                    true,
                    format!("result: not on the Pod's log: {why}"),
                ));
            }
            Err(_) => short,
        },
    };
    if report.timed_out {
        return run.stopped(StopReason::Timeout);
    }
    if let Some(why) = report.not_started {
        return Outcome::Failed(Failure::of(Reason::SpawnFailed, true, why));
    }
    if let Some((reason, text)) = report.bad_result {
        let reason = [Reason::OutputTooLarge, Reason::InvalidUtf8].into_iter().find(|r| r.as_str() == reason);
        return Outcome::Failed(Failure::of(reason.unwrap_or(Reason::InvalidResult), true, text));
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
async fn on_log(pods: &Pods, pod: &PodRef, bytes: usize) -> Result<Report, String> {
    let mut why = String::new();
    for _ in 0..4 {
        match pods.report(&pod.name, bytes).await {
            Ok(Some(report)) => return Ok(report),
            Ok(None) => "parts of it are missing".clone_into(&mut why),
            Err(e) => why = e.to_string(),
        }
        tokio::time::sleep(LOG_RETRY).await;
    }
    Err(why)
}
