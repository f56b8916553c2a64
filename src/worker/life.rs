//! One life of a worker, from its registration to its end: the loop that claims, starts and ends jobs.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{
    Shutdown, WorkerOptions, WorkerSummary,
    admit::admit,
    catalog::Catalog,
    drain,
    ends::{Caller, Ends, lost},
    guardian::Guardian,
    io,
    launch::{
        self, Outcome, Run, Slot,
        home::Home,
        orders::{self, Order, Orders, Why},
        pod::Pods,
    },
    lease::{self, Beat},
    leaving::{self, Leaving},
};
use crate::{
    ClaimedJob, Error, JobQueue, keeper,
    listen::{self, Listener},
};

/// An idle worker must have seen nothing for so long, which includes a sweep, to call its queues empty.
const EMPTY_FOR: Duration = Duration::from_millis(600);
/// How long the last word to the database may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two words to the database while jobs end in quick succession.
const GATHER: Duration = Duration::from_millis(5);

/// Lives until told to end, or until nothing is due if asked so.
pub(super) async fn live(
    queue: &JobQueue,
    options: &WorkerOptions,
    shutdown: &Shutdown,
    summary: &mut WorkerSummary,
) -> Result<(), Error> {
    let pods = leaving::pods(options)?;
    let asked = Instant::now();
    let session = Arc::new(lease::register(queue, options).await?);
    tracing::info!(worker = %session.id(), queues = ?options.queues, slots = options.concurrency, "working");
    // Two places a slot: a command may run where a handler waits.
    let home = Arc::new(Home::new(session.id(), 2 * options.concurrency).map_err(|e| io("a place for files", &e))?);
    let beside = CancellationToken::new();
    let _end_beside = beside.clone().drop_guard();
    let (beats, heartbeat) = lease::heartbeat(
        session.clone(),
        asked,
        home.clone(),
        options.facts.clone(),
        shutdown.drain.clone(),
        beside.clone(),
    );
    let guardian = options.guardian.clone().map(|program| Guardian::start(program, session.id(), home.clone()));
    let _guardian = guardian.transpose().map_err(|e| io("the guardian", &e))?;
    let wake = Arc::new(Notify::new());
    let target = listen::target(queue, options.listen_url.as_deref())?;
    let ping = (options.lease / 3).max(Duration::from_millis(200));
    let listener = listen::listen(target, session.id(), ping, wake.clone(), beside.clone());
    let keeps = session.clone();
    let round = move || {
        let session = keeps.clone();
        async move { session.keep().await }
    };
    let keeper = tokio::spawn(keeper::keep(round, beside.clone()));

    let _sweeper = pods.clone().map(|pods| AbortOnDropHandle::new(tokio::spawn(pods.sweep(session.clone()))));
    let mut life = Life {
        catalog: Catalog::load(queue).await?,
        queue: queue.clone(),
        caller: Caller { session: session.clone(), beats: beats.clone() },
        options,
        slots: (0..options.concurrency).map(|n| Slot::new(n, home.clone())).collect(),
        running: HashMap::new(),
        tasks: JoinSet::new(),
        pods,
        leaving: Leaving::default(),
        ends: Ends::default(),
        orders: lease::guard(beats.clone(), options.lease),
        beats,
        draining: None,
        told_at: asked,
        enough: (2 * thread::available_parallelism().map_or(1, usize::from)).min(options.concurrency / 2),
        empty_since: None,
        killed: false,
        summary,
    };
    let result = life.work(&wake, &listener, shutdown).await;
    match &result {
        Ok(()) => life.close().await,
        Err(_) => life.abandon().await,
    }
    // Not waited for: a query of theirs may hang as long as its connection does.
    keeper.abort();
    heartbeat.abort();
    // A courtesy: what is left of a worker is swept up in time.
    if result.is_ok() && !matches!(timeout(FAREWELL, session.stop()).await, Ok(Ok(()))) {
        tracing::warn!("the database was not told that this worker has ended");
    }
    result
}

struct Life<'a> {
    queue: JobQueue,
    caller: Caller,
    options: &'a WorkerOptions,
    catalog: Catalog,
    /// The free ones; the others are with the jobs that run in them.
    slots: Vec<Slot>,
    /// Where running jobs hear orders.
    running: HashMap<Uuid, watch::Sender<Option<Order>>>,
    tasks: JoinSet<(Slot, Run, Outcome)>,
    pods: Option<Arc<Pods>>,
    leaving: Leaving,
    ends: Ends,
    beats: watch::Receiver<Beat>,
    /// Of the lease, to all jobs.
    orders: watch::Receiver<Option<Order>>,
    draining: Option<Instant>,
    told_at: Instant,
    /// Running jobs that keep the processors busy.
    enough: usize,
    empty_since: Option<Instant>,
    /// The guardian has killed what ran.
    killed: bool,
    summary: &'a mut WorkerSummary,
}

impl Life<'_> {
    async fn work(&mut self, wake: &Notify, listener: &Listener, shutdown: &Shutdown) -> Result<(), Error> {
        loop {
            if shutdown.drain.is_cancelled() && self.draining.is_none() {
                tracing::info!(running = self.running.len(), "draining");
                self.draining = Some(Instant::now());
            }
            let marked = self.beats.borrow().draining;
            let draining = self.draining.is_some() || marked.is_some();
            self.gather().await;
            let claimed = self.flush(draining).await?;
            let idle = self.running.is_empty() && self.ends.is_empty();
            if idle && (drain::leaves(self.draining, marked, Instant::now()) || self.is_empty(claimed)) {
                return Ok(());
            }
            if claimed > 0 {
                continue;
            }
            let asleep = idle && !draining && listener.connected() && !self.options.stop_when_empty;
            if asleep {
                // Registered first, then looked once more: a job committed in between is not missed.
                self.caller.call(|| self.caller.session.sleep()).await?;
                if self.flush(false).await? > 0 {
                    self.caller.call(|| self.caller.session.wake()).await?;
                    continue;
                }
            }
            let pause = self.pause(idle, shutdown);
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(ended),
                Some(slot) = self.leaving.next() => self.slots.push(slot),
                () = wake.notified(), if !draining => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.drain.cancelled(), if self.draining.is_none() => {}
                () = shutdown.hurry.cancelled(), if !shutdown.hurry.is_cancelled() => {}
                Ok(()) = self.beats.changed() => {}
            }
            while let Some(ended) = self.tasks.try_join_next() {
                self.end(ended);
            }
            self.obey()?;
            if asleep {
                self.caller.call(|| self.caller.session.wake()).await?;
            }
        }
    }

    /// Waits a moment for more jobs to end, if many do: one call for several costs the database less. Enough
    /// of them go on to keep the processors busy, and after a pause it waits for nothing.
    async fn gather(&mut self) {
        let until = tokio::time::Instant::from_std(self.told_at + GATHER);
        while !self.ends.is_empty() && self.running.len() > self.enough {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(ended),
                () = tokio::time::sleep_until(until) => break,
            }
        }
        self.told_at = Instant::now();
    }

    /// How long nothing may happen; meanwhile what is due to draining jobs is ordered.
    fn pause(&self, idle: bool, shutdown: &Shutdown) -> Duration {
        let Some(since) = self.draining else {
            return if self.options.stop_when_empty && idle { Duration::from_millis(100) } else { self.options.poll };
        };
        match drain::order(since, self.options.grace, shutdown.hurry.is_cancelled(), Instant::now()) {
            Ok(what) => {
                self.order_all(what);
                self.options.poll
            }
            Err(wait) => wait,
        }
    }

    /// Whether the queues may be called empty, if that is asked.
    fn is_empty(&mut self, claimed: usize) -> bool {
        if claimed > 0 || !self.options.stop_when_empty {
            self.empty_since = None;
            return false;
        }
        self.empty_since.get_or_insert_with(Instant::now).elapsed() > EMPTY_FOR
    }

    /// What the heartbeat brought: jobs to cancel, or the end of the lease.
    fn obey(&mut self) -> Result<(), Error> {
        let beat = self.beats.borrow_and_update().clone();
        for id in &beat.cancelled {
            if let Some(job) = self.running.get(id) {
                orders::give(job, Order { why: Why::Cancelled, kill_at: Instant::now() + self.options.grace });
            }
        }
        if beat.lost || self.killed || Instant::now() >= beat.deadline { Err(lost()) } else { Ok(()) }
    }

    fn order_all(&self, what: Order) {
        self.running.values().for_each(|job| orders::give(job, what));
    }

    /// Ends the handlers that wait.
    async fn close(&mut self) {
        let patience = drain::farewell(self.draining, self.options.grace, Instant::now());
        self.slots.extend(self.leaving.all(patience.min(Duration::from_secs(5))).await);
        // One that is dropped is killed.
        let _ = timeout(patience, futures_util::future::join_all(self.slots.drain(..).map(Slot::close))).await;
    }

    /// Ends every process before the worker goes on: others may start these jobs.
    async fn abandon(&mut self) {
        self.order_all(Order { why: Why::Lease, kill_at: Instant::now() });
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(5), all).await.is_err() {
            tracing::error!("processes did not end within 5 s of SIGKILL");
        }
        self.slots.clear();
    }

    fn end(&mut self, ended: Result<(Slot, Run, Outcome), tokio::task::JoinError>) {
        let (slot, Run { job, remains, .. }, mut outcome) = match ended {
            Ok(ended) => ended,
            // A bug, and a job that would be held for ever: let the lease go.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        // The guardian was faster than a worker that had no processor: not the job's failure.
        if matches!(outcome, Outcome::Failed(_)) && slot.is_killed() {
            (self.killed, outcome) = (true, Outcome::Released);
        }
        self.slots.extend(self.leaving.keep(slot, remains));
        self.running.remove(&job.id);
        self.ends.add(job, outcome);
    }

    /// Tells the database what ended and claims for the free slots. Answers how many jobs it claimed.
    async fn flush(&mut self, draining: bool) -> Result<usize, Error> {
        let free = if draining { 0 } else { self.slots.len() };
        let jobs = self.ends.tell(&self.caller, self.summary, free).await?;
        let claimed = jobs.len();
        self.leaving.go(self.pods.as_ref());
        let at = Instant::now();
        for job in jobs {
            self.start(job, at).await?;
        }
        Ok(claimed)
    }

    async fn start(&mut self, job: ClaimedJob, claimed: Instant) -> Result<(), Error> {
        let job_type = self.catalog.get(&self.queue, &job.job_type, claimed).await?;
        let plan = match admit(&job, job_type.as_deref(), &self.options.launch) {
            Ok(plan) => plan,
            Err(failure) => {
                self.ends.add(job, Outcome::Failed(failure));
                return Ok(());
            }
        };
        let wanted = (plan.kind == launch::Kind::Resident).then_some(&*plan.spec);
        let mut slot = self.slots.remove(launch::choose(self.slots.iter().map(Slot::warm), wanted));
        let (orders, heard) = watch::channel(None);
        self.running.insert(job.id, orders);
        let orders = Orders::new(heard, self.orders.clone(), self.options.grace);
        let session = self.caller.session.clone();
        let mut run = Run { job, plan, orders, session, pods: self.pods.clone(), remains: None };
        self.tasks.spawn(async move {
            let outcome = launch::run(&mut slot, &mut run).await;
            (slot, run, outcome)
        });
        Ok(())
    }
}
