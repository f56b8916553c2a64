//! The context of a running job: the way for its handler to report progress and to hear that it has to stop.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use serde_json::Value;
use tokio::sync::Notify;

use super::{progress::Progress, stop::StopReason};
use crate::ClaimedJob;

tokio::task_local! {
    static CURRENT: JobContext;
}

/// The surroundings of a running job, for its handler. Cheap to clone, and may be kept: after the job's end it does
/// nothing.
#[derive(Clone)]
pub struct JobContext(Arc<Inner>);

struct Inner {
    /// None where nobody stores progress.
    progress: Option<Arc<Progress>>,
    stop: OnceLock<StopReason>,
    stopped: Notify,
    deadline: Option<Instant>,
    lease: String,
}

impl JobContext {
    pub(super) fn new(job: &ClaimedJob, progress: Arc<Progress>, deadline: Option<Instant>) -> JobContext {
        JobContext::of(Some(progress), deadline, job.lease())
    }

    /// For a job that is worked by hand: nobody stores its progress or stops it.
    pub(super) fn by_hand() -> JobContext {
        JobContext::of(None, None, String::new())
    }

    fn of(progress: Option<Arc<Progress>>, deadline: Option<Instant>, lease: String) -> JobContext {
        JobContext(Arc::new(Inner { progress, stop: OnceLock::new(), stopped: Notify::new(), deadline, lease }))
    }

    /// The context of the job whose handler runs in this task; the way to it for a [`crate::TypedJob`]. Tasks that the
    /// handler spawns have none: give them a clone.
    ///
    /// ```no_run
    /// use rowlock::worker::JobContext;
    /// if let Some(context) = JobContext::current() {
    ///     context.progress("half way");
    /// }
    /// ```
    pub fn current() -> Option<JobContext> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future in which [`JobContext::current`] answers this context.
    pub(super) async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Reports progress, at most 8 KiB of JSON. The latest is stored, about once a second and at the job's end.
    ///
    /// ```no_run
    /// # fn f(context: rowlock::worker::JobContext) {
    /// context.progress(serde_json::json!({"done": 3, "of": 10}));
    /// # }
    /// ```
    pub fn progress(&self, progress: impl Into<Value>) {
        if let Some(to) = &self.0.progress {
            to.value(progress.into());
        }
    }

    /// Waits until the job has to stop, and answers why. The handler then has until the end of the grace; a handler
    /// that is not done by then is dropped at an await.
    ///
    /// ```no_run
    /// # async fn step() {}
    /// # async fn f(context: rowlock::worker::JobContext) -> Result<(), String> {
    /// tokio::select! {
    ///     () = step() => Ok(()),
    ///     why = context.stopped() => Err(format!("not done: {why:?}")),
    /// }
    /// # }
    /// ```
    pub async fn stopped(&self) -> StopReason {
        loop {
            let mut notified = std::pin::pin!(self.0.stopped.notified());
            notified.as_mut().enable();
            if let Some(reason) = self.stop_reason() {
                return reason;
            }
            notified.await;
        }
    }

    /// Why the job has to stop, if it has to.
    ///
    /// ```no_run
    /// # fn f(context: rowlock::worker::JobContext) -> Result<(), String> {
    /// for part in 0..10 {
    ///     if let Some(why) = context.stop_reason() {
    ///         return Err(format!("stopped at part {part}: {why:?}"));
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.0.stop.get().copied()
    }

    /// When the job's timeout is over, if it has one.
    ///
    /// ```no_run
    /// # fn f(context: rowlock::worker::JobContext) {
    /// let left = context.deadline().map(|at| at.saturating_duration_since(std::time::Instant::now()));
    /// # }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// The lease, to fence the job's effects with: see [`ClaimedJob::lease`]. Empty for a job worked by hand.
    ///
    /// ```no_run
    /// # fn f(context: rowlock::worker::JobContext) {
    /// println!("{}", context.lease());
    /// # }
    /// ```
    pub fn lease(&self) -> &str {
        &self.0.lease
    }

    pub(super) fn stop(&self, reason: StopReason) {
        let _ = self.0.stop.set(reason);
        self.0.stopped.notify_waiters();
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("stop", &self.0.stop.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_is_heard_by_who_waits_and_by_who_asks_later() {
        let context = JobContext::by_hand();
        let waits = tokio::spawn({
            let context = context.clone();
            async move { context.stopped().await }
        });
        tokio::task::yield_now().await;
        context.stop(StopReason::Draining);
        context.stop(StopReason::LeaseLost);
        assert_eq!(waits.await.expect("it does not panic"), StopReason::Draining);
        assert_eq!(context.stopped().await, StopReason::Draining, "the first reason stays");
    }
}
