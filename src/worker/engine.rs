//! The engine: the loop of one registered worker, which claims jobs, starts them, and reports how they ended.

mod wait;

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::timeout,
};
use uuid::Uuid;

use super::{
    drain,
    launcher::{Ended, Launcher, Outcome},
    options::{Shutdown, WorkerOptions, WorkerSummary},
    progress::Progress,
    stop::{LeaseStops, StopReason, StopRequest, Stops, request_stop},
    suspects::Suspects,
    until_lease_ends::{UntilLeaseEnds, lease_lost},
};
use crate::{
    ClaimedJob, Error, Session,
    listen::Listener,
    session::{Wanted, heartbeat::Beat, report::Report},
};

/// An idle worker must have seen nothing for so long, which includes a sweep, to call its queues empty.
const EMPTY_FOR: Duration = Duration::from_millis(600);
/// Between two calls to the database while jobs end in quick succession.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// How long killed jobs may take to end, and cleanups when the worker ends.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The state of one registered worker.
pub(super) struct Engine<'a, L> {
    caller: UntilLeaseEnds,
    options: &'a WorkerOptions,
    launcher: Arc<L>,
    /// The way to ask each running job to stop.
    running: HashMap<Uuid, watch::Sender<Option<StopRequest>>>,
    suspects: Suspects,
    tasks: JoinSet<(ClaimedJob, Ended)>,
    /// Cleanups of jobs whose outcome the database does not know yet.
    unreported_cleanups: Vec<BoxFuture<'static, ()>>,
    cleanups: JoinSet<()>,
    report: Report,
    beats: watch::Receiver<Beat>,
    lease_stops: LeaseStops,
    draining: Option<Instant>,
    flushed_at: Instant,
    /// So many running jobs keep the processors busy.
    enough: usize,
    empty_since: Option<Instant>,
    /// It was woken by name, and has not slept since.
    woken: bool,
    /// Somebody else has killed what ran: this registration is over.
    killed: bool,
    summary: &'a mut WorkerSummary,
}

impl<'a, L: Launcher> Engine<'a, L> {
    pub(super) fn new(
        caller: UntilLeaseEnds,
        options: &'a WorkerOptions,
        launcher: Arc<L>,
        summary: &'a mut WorkerSummary,
    ) -> Engine<'a, L> {
        Engine {
            lease_stops: LeaseStops::of(&caller.beats, options.lease),
            beats: caller.beats.clone(),
            caller,
            options,
            launcher,
            running: HashMap::new(),
            suspects: Suspects::new(Instant::now()),
            tasks: JoinSet::new(),
            unreported_cleanups: Vec::new(),
            cleanups: JoinSet::new(),
            report: Report::default(),
            draining: None,
            flushed_at: Instant::now(),
            enough: (2 * thread::available_parallelism().map_or(1, usize::from)).min(options.concurrency / 2),
            empty_since: None,
            woken: false,
            killed: false,
            summary,
        }
    }

    /// The loop. It ends when the worker was told to end or the queues are empty, and with an error when its lease is
    /// over.
    pub(super) async fn work(&mut self, wake: &Notify, listener: &Listener, shutdown: &Shutdown) -> Result<(), Error> {
        loop {
            if self.draining.is_none() {
                self.draining = self.caller.draining_since();
                if self.draining.is_some() {
                    tracing::info!(running = self.running.len(), "draining");
                }
            }
            let marked = self.beats.borrow().draining;
            let draining = self.draining.is_some() || marked.is_some();
            self.batch_outcomes().await;
            let may_sleep = self.may_sleep(draining, listener);
            let free = self.free_places();
            let was_subscribed = self.caller.session.is_subscribed();
            let mut claimed = self.flush_and_claim(draining, may_sleep).await?;
            let idle = self.running.is_empty() && self.report.is_empty();
            if idle && (drain::should_exit(self.draining, marked, Instant::now()) || self.is_empty(claimed)) {
                return Ok(());
            }
            if idle && may_sleep && self.caller.session.is_subscribed() && !was_subscribed {
                // A job that was committed beside the subscription is not missed.
                claimed = self.flush_and_claim(false, false).await?;
            }
            if self.caller.session.is_subscribed() && (claimed > 0 || !may_sleep) {
                self.caller.call(|| self.caller.session.unsubscribe()).await?;
            }
            // Of those who were woken each has what it was woken for. What was claimed beside a suspect goes back at
            // once.
            if claimed > 0 && (claimed == free || !self.woken || !self.report.is_empty()) {
                continue;
            }
            let pause = self.pause(idle, shutdown);
            self.wait(pause, draining, (wake, listener), shutdown).await?;
        }
    }

    /// Waits a moment for more jobs to end, if many do: one call for several costs the database less. Enough
    /// of them go on to keep the processors busy, and after a pause it waits for nothing.
    async fn batch_outcomes(&mut self) {
        let until = tokio::time::Instant::from_std(self.flushed_at + BATCH_INTERVAL);
        while !self.report.is_empty() && self.running.len() > self.enough {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(ended),
                () = tokio::time::sleep_until(until) => break,
            }
        }
        self.flushed_at = Instant::now();
    }

    /// Tells the database what ended and claims for the free places. Answers how many jobs it claimed. If there was
    /// none, it may subscribe.
    async fn flush_and_claim(&mut self, draining: bool, may_subscribe: bool) -> Result<usize, Error> {
        let (idle, now) = (self.running.is_empty(), Instant::now());
        if draining {
            self.suspects.give_up().into_iter().for_each(|job| self.report.add(job, Outcome::Released));
        } else if let Some(suspect) = self.suspects.due(idle, now) {
            self.start(suspect);
        }
        let max = if draining { 0 } else { self.free_places() };
        let wanted = Wanted { max, alone: self.suspects.are_wanted(idle, now), subscribe: may_subscribe };
        let jobs = self.caller.flush_and_claim(&mut self.report, wanted).await;
        self.summary.count(self.report.take_verdicts());
        let jobs = jobs?;
        let claimed = jobs.len();
        // Every outcome is in the database now.
        for cleanup in self.unreported_cleanups.drain(..) {
            self.cleanups.spawn(cleanup);
        }
        let is_suspect = |job: &ClaimedJob| job.suspect && self.launcher.runs_beside_the_worker(job);
        let sorted = self.suspects.sort(jobs, idle, now, is_suspect);
        sorted.release.into_iter().for_each(|job| self.report.add(job, Outcome::Released));
        sorted.start.into_iter().for_each(|job| self.start(job));
        Ok(claimed)
    }

    /// A place is taken from the claim until the cleanup has ended.
    fn free_places(&self) -> usize {
        if self.suspects.are_here() || self.launcher.paused_until().is_some() {
            return 0;
        }
        let taken = self.running.len() + self.unreported_cleanups.len() + self.cleanups.len();
        self.options.concurrency.saturating_sub(taken)
    }

    fn start(&mut self, job: ClaimedJob) {
        let (own, heard) = watch::channel(None);
        self.running.insert(job.id, own);
        let stops = Stops::new(heard, self.lease_stops.clone(), self.options.grace);
        let (launcher, session) = (self.launcher.clone(), self.caller.session.clone());
        self.tasks.spawn(async move {
            let ended = run_job(&*launcher, &session, &job, stops).await;
            (job, ended)
        });
    }

    fn end(&mut self, ended: Result<(ClaimedJob, Ended), JoinError>) {
        // A bug in a launcher, and the job would be held for ever: end with it, and let the lease go.
        let (job, Ended { mut outcome, afterwards }) = no_panic(ended);
        // The guardian was faster than a worker that had no processor: not the job's failure.
        if matches!(outcome, Outcome::Failed(_)) && self.launcher.was_killed() {
            (self.killed, outcome) = (true, Outcome::Released);
        }
        self.unreported_cleanups.extend(afterwards);
        self.running.remove(&job.id);
        self.suspects.ended(job.id);
        self.report.add(job, outcome);
    }

    /// Whether the queues may be called empty, if that is asked.
    fn is_empty(&mut self, claimed: usize) -> bool {
        if claimed > 0 || !self.options.stop_when_empty || self.launcher.paused_until().is_some() {
            self.empty_since = None;
            return false;
        }
        self.empty_since.get_or_insert_with(Instant::now).elapsed() > EMPTY_FOR
    }

    /// Cancels jobs, or ends with the lease, as the last heartbeat says.
    fn apply_heartbeat(&mut self) -> Result<(), Error> {
        let beat = self.beats.borrow_and_update().clone();
        for id in &beat.cancelled {
            if let Some(job) = self.running.get(id) {
                let kill_at = Instant::now() + self.options.grace;
                request_stop(job, StopRequest { reason: StopReason::Cancelled, kill_at });
            }
        }
        if beat.lost || self.killed || Instant::now() >= beat.deadline { Err(lease_lost()) } else { Ok(()) }
    }

    fn stop_all(&self, request: StopRequest) {
        self.running.values().for_each(|job| request_stop(job, request));
    }

    /// Ends what is left when no job runs any more.
    pub(super) async fn close(&mut self) {
        let within = drain::close_timeout(self.draining, self.options.grace, Instant::now());
        let cleaned = async { while self.cleanups.join_next().await.is_some() {} };
        if timeout(within.min(KILL_TIMEOUT), cleaned).await.is_err() {
            tracing::warn!("the worker ends before it has cleaned up after some of its jobs");
        }
        self.launcher.close(within).await;
    }

    /// Ends every job before the worker goes on: others may start these jobs.
    pub(super) async fn kill_all(&mut self) {
        self.stop_all(StopRequest { reason: StopReason::LeaseLost, kill_at: Instant::now() });
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(KILL_TIMEOUT, all).await.is_err() {
            tracing::error!("some jobs did not end within {KILL_TIMEOUT:?} of being killed");
        }
        self.launcher.close(Duration::ZERO).await;
    }
}

/// Runs a job to its end, and stores its progress meanwhile.
async fn run_job<L: Launcher>(launcher: &L, session: &Session, job: &ClaimedJob, stops: Stops) -> Ended {
    let progress = Arc::new(Progress::default());
    let mut storing = std::pin::pin!(progress.store(session, job));
    let mut running = std::pin::pin!(launcher.run(job, stops, &progress));
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running => break ended,
            () = &mut storing => {}
        }
    };
    progress.finish(storing).await;
    ended
}

fn no_panic<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
