//! Jobs as Rust types: a trait with a name, defaults and `run`; registering it is all the wiring.

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Enqueued, Error, Job, JobQueue, NewJob};

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
///     const PRIORITY: Option<i32> = Some(9);
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
    /// Its queue; by default the type's own in the catalogue, as for the rest.
    const QUEUE: Option<&'static str> = None;
    /// How often it may be retried.
    const MAX_RETRIES: Option<i32> = None;
    /// Its priority, higher first.
    const PRIORITY: Option<i32> = None;
    /// How long a worker in this process lets it run, unless a job has a timeout of its own.
    const TIMEOUT: Option<Duration> = None;
    /// The value it returns, stored as the result.
    type Output: Serialize;
    /// How it fails; the text is kept.
    type Error: std::fmt::Display;

    /// Runs the job. In a worker, [`crate::worker::JobContext::current`] has the way to report progress and to hear
    /// that the job has to stop.
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
        let mut job = NewJob::new(Self::NAME, self);
        job.payload()?;
        if let Some(queue) = Self::QUEUE {
            job = job.queue(queue);
        }
        if let Some(max_retries) = Self::MAX_RETRIES {
            job = job.max_retries(max_retries);
        }
        if let Some(priority) = Self::PRIORITY {
            job = job.priority(priority);
        }
        Ok(job)
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
}
