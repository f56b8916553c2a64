//! One Pod of a job: watched until it has ended or its job is to; and what its end means for the job.

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;

use super::{
    Remains,
    fate::{self, End, Look, Wait, look},
    pods::{Attending, Pods, Seen},
    report::Report,
};
use crate::worker::launch::{
    Outcome, Run, failure, files,
    orders::{Step, Why},
    progress::Progress,
};

/// Between two looks at what the watch cannot tell: how long it waits, and whether it is still there.
const LOOK: Duration = Duration::from_secs(1);
/// A Pod that the watch does not know is asked for so often.
const ASK: Duration = Duration::from_secs(15);
/// How long a node may take beyond a Pod's grace before it is taken for lost.
const LOST: Duration = Duration::from_secs(30);

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

pub(super) async fn attend(pods: &Arc<Pods>, run: &mut Run, pod: Pod) -> Outcome {
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
fn now(pods: &Pods, attending: &Attending<'_>, clocks: &mut Clocks, last: &mut Arc<Pod>) -> Option<End> {
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
            pods.remove(&me, reason == "node_lost").await;
            return Outcome::HandedBack { after, error: format!("{reason}: {text}") };
        }
    };
    run.remains = Some(me);
    outcome
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
