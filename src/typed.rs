//! Jobs as Rust types: a trait with a name, defaults and `run`; registering it is all the wiring.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{Enqueued, Error, Failure, Job, JobQueue, NewJob, Status, session::report::Outcome};

/// A job type in Rust. The value is the payload.
///
/// ```
/// use rowlock::TypedJob;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct SendEmail { to: String }
///
/// impl TypedJob for SendEmail {
///     const NAME: &'static str = "send_email";
///     const PRIORITY: i32 = 9;
///     type Output = ();
///     type Error = std::io::Error;
///     async fn run(self, _job: &rowlock::Job) -> Result<(), std::io::Error> {
///         Ok(())
///     }
/// }
/// ```
pub trait TypedJob: Serialize + DeserializeOwned + Send + 'static {
    /// The type's name.
    const NAME: &'static str;
    /// Its queue.
    const QUEUE: Option<&'static str> = None;
    /// How often it may be retried.
    const MAX_RETRIES: i32 = 3;
    /// Its priority, higher first.
    const PRIORITY: i32 = 5;
    /// What it returns, stored as the result.
    type Output: Serialize;
    /// How it fails; the text is kept.
    type Error: std::fmt::Display;

    /// Runs the job.
    ///
    /// ```
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Square { n: i64 }
    ///
    /// impl rowlock::TypedJob for Square {
    ///     const NAME: &'static str = "square";
    ///     type Output = i64;
    ///     type Error = String;
    ///     async fn run(self, _job: &rowlock::Job) -> Result<i64, String> {
    ///         self.n.checked_mul(self.n).ok_or_else(|| format!("{} is too large", self.n))
    ///     }
    /// }
    /// ```
    fn run(self, job: &Job) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// The job to enqueue, with the type's defaults; override per call.
    ///
    /// # Errors
    /// [`Error::Json`] if the value has no JSON form.
    ///
    /// ```
    /// # use rowlock::{Job, TypedJob};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping { host: String }
    /// # impl TypedJob for Ping { const NAME: &'static str = "ping"; type Output = (); type Error = String;
    /// #   async fn run(self, _: &Job) -> Result<(), String> { Ok(()) } }
    /// # fn f() -> Result<(), rowlock::Error> {
    /// let job = Ping { host: "db".into() }.new_job()?.priority(9);
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    fn new_job(&self) -> Result<NewJob, Error> {
        let job = NewJob::new(Self::NAME, self).max_retries(Self::MAX_RETRIES).priority(Self::PRIORITY);
        job.payload()?;
        Ok(match Self::QUEUE {
            Some(queue) => job.queue(queue),
            None => job,
        })
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Option<Box<RawValue>>, String>> + Send>>;

/// The registered types: which code runs a job.
#[derive(Clone, Default)]
pub struct Handler {
    run: HashMap<&'static str, Arc<dyn Fn(Job) -> Running + Send + Sync>>,
}

impl Handler {
    /// Adds a type; a later one of the same name replaces it.
    ///
    /// ```
    /// # use rowlock::{Handler, TypedJob, Job};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping {}
    /// # impl TypedJob for Ping { const NAME: &'static str = "ping"; type Output = (); type Error = String;
    /// #   async fn run(self, _: &Job) -> Result<(), String> { Ok(()) } }
    /// let handler = Handler::default().register::<Ping>();
    /// ```
    pub fn register<J: TypedJob>(mut self) -> Self {
        self.run.insert(
            J::NAME,
            Arc::new(|job| {
                Box::pin(async move {
                    let typed: J = serde_json::from_str(job.payload.get()).map_err(|e| format!("payload: {e}"))?;
                    let output = typed.run(&job).await.map_err(|e| e.to_string())?;
                    serde_json::value::to_raw_value(&output).map(Some).map_err(|e| format!("result: {e}"))
                })
            }),
        );
        self
    }
}

impl JobQueue {
    /// Enqueues a typed job with its type's defaults.
    ///
    /// # Errors
    /// As [`JobQueue::enqueue`].
    ///
    /// ```no_run
    /// # use rowlock::{Job, TypedJob};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping { host: String }
    /// # impl TypedJob for Ping { const NAME: &'static str = "ping"; type Output = (); type Error = String;
    /// #   async fn run(self, _: &Job) -> Result<(), String> { Ok(()) } }
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let id = queue.enqueue_typed(&Ping { host: "db".into() }).await?.id;
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_typed<J: TypedJob + Sync>(&self, job: &J) -> Result<Enqueued, Error> {
        let job = job.new_job()?;
        self.enqueue_job(&job).await
    }

    /// Runs a job that `dequeue` gave out, and completes or fails it by what its type returned. A panic
    /// fails the attempt; a type that is not registered does as well, so that a later deploy catches up.
    /// Answers the job's new status.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]; a failure of the job itself is not an error.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, handler: rowlock::Handler) -> Result<(), rowlock::Error> {
    /// while let Some(job) = queue.dequeue().await? {
    ///     let status = queue.execute_job(&handler, job).await?;
    ///     println!("{}", status.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn execute_job(&self, handler: &Handler, job: Job) -> Result<Status, Error> {
        let (queue, run) = (self.clone(), handler.run.get(&*job.job_type).cloned());
        // A task of its own: a caller that drops the future must not leave a job that runs for ever.
        let task = tokio::spawn(async move {
            let (id, job_type) = (job.id, job.job_type.clone());
            let ended = match run {
                None => Err(format!("unknown job type {job_type}")),
                Some(run) => {
                    let running = std::panic::AssertUnwindSafe(async { run(job).await });
                    running.catch_unwind().await.unwrap_or_else(|_| Err("the job panicked".to_owned()))
                }
            };
            let outcome = ended.map_or_else(|error| Outcome::Failed(Failure::new(error)), Outcome::Completed);
            queue.end_attempt(id, outcome).await
        });
        task.await.unwrap_or_else(|_| Err(Error::Pool("the runtime ended while the job ran".into())))
    }
}
