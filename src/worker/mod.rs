//! A worker: claims jobs up to its free slots, runs them, ends them, and keeps its lease meanwhile.
//!
//! One task owns the loop and is the only one that claims and ends jobs; the heartbeat, the keeper and the
//! listener are tasks beside it. A job's task owns nothing but its process.

mod beside;
mod catalog;
mod process;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::catalog::Catalog;
use crate::{ClaimedJob, Error, Failure, JobQueue, Session, SessionOptions, Target};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The queues served; the first goes first at equal priority, in turn.
    pub queues: Vec<String>,
    /// Jobs at once.
    pub concurrency: usize,
    /// How long its right to its jobs lasts without a heartbeat.
    pub lease: Duration,
    /// How often it looks for jobs when nothing wakes it.
    pub poll: Duration,
    /// How long running jobs may take to end when it is asked to stop.
    pub grace: Duration,
    /// End when no job is due and none runs.
    pub stop_when_empty: bool,
    /// The name people see; by default the Pod's, or host and process id.
    pub name: Option<String>,
    /// A direct connection for LISTEN, where the usual one goes through a pooler.
    pub listen_url: Option<String>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            queues: vec!["default".into()],
            concurrency: 10,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            stop_when_empty: false,
            name: None,
            listen_url: None,
        }
    }
}

/// What a worker did in its life.
#[derive(Debug, Default, Clone, Copy, serde::Serialize)]
#[allow(missing_docs)]
pub struct WorkerSummary {
    pub completed: u64,
    pub failed: u64,
    pub retried: u64,
    pub released: u64,
}

/// How a job's run ended.
enum Outcome {
    Completed(Option<Box<RawValue>>),
    Failed(Failure),
    /// It was stopped before its end and goes back, no attempt consumed.
    Released,
}

/// An idle worker must have seen nothing for so long, which includes a sweep, to call its queues empty.
const EMPTY_FOR: Duration = Duration::from_millis(600);

/// Works until `stop` is cancelled (then drains within the grace), or until nothing is due if asked so.
///
/// # Errors
/// The database's, when the worker cannot start; [`Error::LeaseLost`] when its lease ended under it: its
/// jobs were stopped, start anew.
///
/// ```no_run
/// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
/// use rowlock::worker::{WorkerOptions, run};
/// let options = WorkerOptions { queues: vec!["mail".into()], stop_when_empty: true, ..Default::default() };
/// let summary = run(queue, options, tokio_util::sync::CancellationToken::new()).await?;
/// println!("{} completed", summary.completed);
/// # Ok(()) }
/// ```
pub async fn run(queue: JobQueue, options: WorkerOptions, stop: CancellationToken) -> Result<WorkerSummary, Error> {
    let defaults = SessionOptions::default();
    let session = Arc::new(
        queue
            .session(SessionOptions {
                name: options.name.clone().unwrap_or(defaults.name),
                queues: options.queues.clone(),
                slots: i32::try_from(options.concurrency).unwrap_or(i32::MAX),
                lease: options.lease,
                identity: defaults.identity,
            })
            .await?,
    );
    tracing::info!(worker = %session.id(), queues = ?options.queues, slots = options.concurrency, "working");
    let wake = Arc::new(Notify::new());
    let beside = CancellationToken::new();
    let listen = match &options.listen_url {
        Some(url) => Target::parse(url)?,
        None => queue.target().clone(),
    };
    let listener = beside::listen(listen, wake.clone(), beside.clone());
    let keeper = tokio::spawn(beside::keep(session.clone(), beside.clone()));
    let (beat, heartbeat) = beside::heartbeat(session.clone(), stop.clone(), beside.clone());

    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut worker = Worker {
        catalog: Catalog::load(&queue).await?,
        queue,
        session: session.clone(),
        options,
        running: HashMap::new(),
        done: Vec::new(),
        failed: Vec::new(),
        released: Vec::new(),
        ended,
        empty_since: None,
        summary: WorkerSummary::default(),
    };
    let result = worker.work(&mut endings, &wake, &listener, beat, &stop).await;
    if result.is_err() {
        worker.abandon(&mut endings).await;
    }
    beside.cancel();
    let _ = tokio::join!(keeper, heartbeat);
    if result.is_ok() {
        session.stop().await?;
    }
    result.map(|()| worker.summary)
}

struct Worker {
    queue: JobQueue,
    session: Arc<Session>,
    options: WorkerOptions,
    catalog: Catalog,
    running: HashMap<Uuid, Running>,
    /// Ended, and not yet told to the database.
    done: Vec<(ClaimedJob, Option<Box<RawValue>>)>,
    failed: Vec<(ClaimedJob, Failure)>,
    released: Vec<ClaimedJob>,
    ended: mpsc::UnboundedSender<(Uuid, Outcome)>,
    empty_since: Option<Instant>,
    summary: WorkerSummary,
}

struct Running {
    job: ClaimedJob,
    stop: process::StopHandle,
}

impl Worker {
    async fn work(
        &mut self,
        endings: &mut mpsc::UnboundedReceiver<(Uuid, Outcome)>,
        wake: &Notify,
        listener: &beside::Listener,
        mut beat: tokio::sync::watch::Receiver<beside::Beat>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut draining_since: Option<Instant> = None;
        loop {
            if stop.is_cancelled() && draining_since.is_none() {
                tracing::info!(running = self.running.len(), "draining");
                draining_since = Some(Instant::now());
            }
            // Taken out first: the guard of a watch must not live across an await.
            let (deadline, told_to_drain) = (beat.borrow().deadline, beat.borrow().draining);
            let draining = draining_since.is_some() || told_to_drain;
            let claimed = self.flush(draining, deadline).await?;
            let idle = self.running.is_empty() && self.done.is_empty();
            if draining && idle {
                return Ok(());
            }
            if claimed > 0 {
                self.empty_since = None;
                continue;
            }
            if idle && self.options.stop_when_empty {
                let since = *self.empty_since.get_or_insert_with(Instant::now);
                if since.elapsed() > EMPTY_FOR {
                    return Ok(());
                }
            }
            if draining_since.is_some_and(|t| t.elapsed() >= self.options.grace) {
                self.stop_all(process::Stop::Release);
            }
            let poll = match draining_since {
                Some(t) => self.options.grace.saturating_sub(t.elapsed()).max(Duration::from_millis(50)),
                None if self.options.stop_when_empty && idle => Duration::from_millis(100),
                None => self.options.poll,
            };
            let asleep = idle && !draining && listener.connected() && !self.options.stop_when_empty;
            if asleep {
                // Registered first, then looked once more: a job committed in between is not missed.
                self.session.sleep().await?;
                if self.flush(false, deadline).await? > 0 {
                    self.session.wake().await?;
                    continue;
                }
            }
            tokio::select! {
                Some((id, outcome)) = endings.recv() => self.end(id, outcome),
                () = wake.notified(), if !draining => {}
                () = tokio::time::sleep(poll) => {}
                () = stop.cancelled(), if draining_since.is_none() => {}
                Ok(()) = beat.changed() => {}
            }
            while let Ok((id, outcome)) = endings.try_recv() {
                self.end(id, outcome);
            }
            self.obey(&beat.borrow_and_update())?;
            if asleep {
                self.session.wake().await?;
            }
        }
    }

    /// What the heartbeat brought: jobs to cancel, or the end of the lease.
    fn obey(&mut self, beat: &beside::Beat) -> Result<(), Error> {
        for id in &beat.cancelled {
            if let Some(running) = self.running.get(id) {
                running.stop.send(process::Stop::Cancel);
            }
        }
        if beat.lost || Instant::now() >= beat.deadline {
            return Err(Error::LeaseLost(
                "the worker could not extend its lease in time; its jobs were stopped".into(),
            ));
        }
        Ok(())
    }

    fn stop_all(&self, how: process::Stop) {
        self.running.values().for_each(|r| r.stop.send(how));
    }

    /// Ends every process before the worker itself goes: another worker may start these jobs.
    async fn abandon(&mut self, endings: &mut mpsc::UnboundedReceiver<(Uuid, Outcome)>) {
        self.stop_all(process::Stop::Now);
        let all = async {
            while !self.running.is_empty() {
                match endings.recv().await {
                    Some((id, _)) => self.running.remove(&id),
                    None => return,
                };
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            tracing::error!("processes did not end within 5 s of SIGKILL");
        }
    }

    fn end(&mut self, id: Uuid, outcome: Outcome) {
        let Some(Running { job, .. }) = self.running.remove(&id) else { return };
        match outcome {
            Outcome::Completed(result) => self.done.push((job, result)),
            Outcome::Failed(failure) => {
                tracing::info!(job = %id, job_type = job.job_type, reason = failure.reason, "attempt failed");
                self.failed.push((job, failure));
            }
            Outcome::Released => self.released.push(job),
        }
    }

    /// Tells the database what ended and claims for the free slots; repeats while the database is away
    /// and the lease lasts. Answers how many jobs it claimed.
    async fn flush(&mut self, draining: bool, deadline: Instant) -> Result<usize, Error> {
        if !self.failed.is_empty() {
            let told = persist(deadline, || self.session.try_fail(&self.failed)).await?;
            for (id, status) in told {
                match &*status {
                    "pending" => self.summary.retried += 1,
                    "lease lost" => tracing::warn!(job = %id, "lease lost: its failure was refused"),
                    _ => self.summary.failed += 1,
                }
            }
            self.failed.clear();
        }
        if !self.released.is_empty() {
            self.summary.released += self.released.len() as u64;
            self.session.release(std::mem::take(&mut self.released), None).await?;
        }
        let free = if draining { 0 } else { self.options.concurrency - self.running.len() };
        if free == 0 && self.done.is_empty() {
            return Ok(0);
        }
        let (jobs, refused) = persist(deadline, || self.session.try_work(&self.done, free)).await?;
        for id in &refused {
            tracing::warn!(job = %id, "lease lost: its completion was refused");
        }
        self.summary.completed += (self.done.len() - refused.len()) as u64;
        self.done.clear();
        let claimed = jobs.len();
        for job in jobs {
            self.start(job).await?;
        }
        Ok(claimed)
    }

    async fn start(&mut self, job: ClaimedJob) -> Result<(), Error> {
        let job_type = self.catalog.get(&self.queue, &job.job_type).await?;
        let stop = process::start(&job, job_type, self.options.grace, self.ended.clone());
        self.running.insert(job.id, Running { job, stop });
        Ok(())
    }
}

/// Repeats a call while the database is away, until the lease ends.
async fn persist<T, F: Future<Output = Result<T, Error>>>(deadline: Instant, call: impl Fn() -> F) -> Result<T, Error> {
    let mut wait = Duration::from_millis(50);
    loop {
        match call().await {
            Err(error) if error.is_transient() && Instant::now() + wait < deadline => {
                tracing::warn!(%error, "the database is away, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            other => return other,
        }
    }
}
