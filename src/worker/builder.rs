//! A worker in the caller's own process: handlers in Rust on the engine of `rowlock worker`.

use std::{fmt, pin::pin, time::Duration};

use serde::Serialize;

use super::{Handler, JobContext, Shutdown, TypedJob, WorkerOptions, WorkerSummary, handlers::Handlers};
use crate::{Error, Failure, Job, JobQueue, Target};

/// A worker that runs handlers in this process. It registers, sleeps until NOTIFY wakes it, extends its lease, obeys
/// cancellations and drains as `rowlock worker` does, and the controller counts it as any other.
///
/// ```no_run
/// use rowlock::{JobQueue, worker::Worker};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = JobQueue::connect("postgres://localhost/app").await?;
/// let worker = Worker::builder(&queue)
///     .queue("mail")
///     .concurrency(20)
///     .handler("resize", |job, ctx| async move {
///         println!("{} {}", job.id, job.payload);
///         ctx.progress("half way");
///         Ok::<_, std::io::Error>(())
///     })
///     .build()?;
/// # let shutdown = std::future::pending();
/// let summary = worker.run(shutdown).await?;
/// println!("{} completed", summary.completed);
/// # Ok(()) }
/// ```
pub struct Worker {
    queue: JobQueue,
    options: WorkerOptions,
    handlers: Handler,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worker { options, handlers, .. } = self;
        f.debug_struct("Worker").field("options", options).field("handlers", handlers).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts to describe a worker.
    ///
    /// ```no_run
    /// # fn f(queue: rowlock::JobQueue) {
    /// let builder = rowlock::worker::Worker::builder(&queue).queue("mail");
    /// # }
    /// ```
    pub fn builder(queue: &JobQueue) -> WorkerBuilder {
        WorkerBuilder {
            queue: queue.clone(),
            options: WorkerOptions { queues: Vec::new(), ..WorkerOptions::default() },
            handlers: Handler::default(),
            last: None,
            mistake: None,
            listen_url: None,
        }
    }

    /// Works until `shutdown` is ready, then drains: it claims no more, waits for running jobs within the grace, asks
    /// the rest to stop, and hands back what did not end; no attempt is consumed. A worker that loses its lease stops
    /// its jobs and goes on as another one. If this future is dropped, its jobs are, and the database gives them to
    /// others when their lease has ended.
    ///
    /// # Errors
    /// The database's, when the worker cannot start or is refused (once it has worked, it keeps trying while the
    /// database is away); [`Error::LeaseLost`] when its lease ended while it drained.
    ///
    /// ```no_run
    /// # async fn f(worker: rowlock::worker::Worker, done: tokio::sync::oneshot::Receiver<()>)
    /// # -> Result<(), rowlock::Error> {
    /// let summary = worker.run(async { drop(done.await) }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<WorkerSummary, Error> {
        let told = Shutdown::default();
        let mut working = pin!(super::run(&self.queue, &self.options, Handlers::new(self.handlers), &told));
        tokio::select! {
            ended = &mut working => return ended,
            () = shutdown => told.drain.cancel(),
        }
        working.await
    }
}

/// Describes a [`Worker`].
#[must_use]
pub struct WorkerBuilder {
    queue: JobQueue,
    options: WorkerOptions,
    handlers: Handler,
    /// The type that was added last.
    last: Option<String>,
    /// The first thing that is wrong.
    mistake: Option<&'static str>,
    listen_url: Option<String>,
}

impl WorkerBuilder {
    /// A queue to serve; repeat for more. The first goes first at equal priority. By default `default`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.options.queues.push(queue.into());
        self
    }

    /// Jobs at once, by default 10.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.options.concurrency = jobs;
        self
    }

    /// How long the worker's right to its jobs lasts without a heartbeat, by default 30 seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// How long the worker may take to end, and a job that has to stop, by default 30 seconds.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// How often it looks for jobs when nothing wakes it, by default every second.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.options.poll = poll;
        self
    }

    /// A direct connection for LISTEN, where the queue's own goes through a pooler.
    pub fn listen_url(mut self, url: impl Into<String>) -> Self {
        self.listen_url = Some(url.into());
        self
    }

    /// The name people see; by default the Pod's, or host and process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// End when no job is due and none runs.
    pub fn stop_when_empty(mut self) -> Self {
        self.options.stop_when_empty = true;
        self
    }

    /// Adds a typed job; a later one of the same name replaces it.
    pub fn register<J: TypedJob>(mut self) -> Self {
        self.handlers = self.handlers.register::<J>();
        self.last = Some(J::NAME.to_owned());
        self
    }

    /// Adds a handler for jobs of a type; a later one of the same name replaces it.
    ///
    /// `Ok` completes the job with its value as the result, also if the job was asked to stop meanwhile. `Err` fails
    /// the attempt, which is retried; return a [`Failure`] to say otherwise. After a request to stop, `Err` hands the
    /// job back, or ends it as cancelled or timed out. A panic fails the attempt. The handler runs on the caller's
    /// runtime: work that blocks belongs into `tokio::task::spawn_blocking`.
    pub fn handler<F, R, T, E>(mut self, job_type: &str, run: F) -> Self
    where
        F: Fn(Job, JobContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Failure>,
    {
        self.handlers.add(job_type, None, run);
        self.last = Some(job_type.to_owned());
        self
    }

    /// The timeout of the handler or typed job that was added last; a job's own timeout goes before it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        match self.last.as_deref().and_then(|name| self.handlers.timeout_mut(name)) {
            Some(of_last) => *of_last = Some(timeout),
            None => self.mistake = Some("timeout: expected after the handler that it is for"),
        }
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// [`Error::Config`] without a handler, and for a setting out of range.
    ///
    /// ```no_run
    /// # fn f(queue: rowlock::JobQueue) {
    /// assert!(rowlock::worker::Worker::builder(&queue).build().is_err(), "it has no handler");
    /// # }
    /// ```
    pub fn build(mut self) -> Result<Worker, Error> {
        if self.options.queues.is_empty() {
            self.options.queues = WorkerOptions::default().queues;
        }
        let mistake = if self.handlers.is_empty() {
            Some("worker: expected a handler: add one by .handler(type, …) or .register::<T>()")
        } else if self.options.concurrency == 0 {
            Some("concurrency: expected at least 1")
        } else {
            self.mistake
        };
        self.options.listen = self.listen_url.as_deref().map(Target::parse).transpose()?;
        match mistake {
            Some(mistake) => Err(Error::Config(mistake.into())),
            None => Ok(Worker { queue: self.queue, options: self.options, handlers: self.handlers }),
        }
    }
}
