//! The builder that [`JobQueue::enqueue`] returns: set more, then await the builder.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::JobQueue;
use crate::{Enqueued, Error, NewJob};

/// A job on its way in: set what differs, then await it.
#[must_use = "nothing is enqueued until it is awaited"]
pub struct Enqueue<'a> {
    queue: &'a JobQueue,
    job: NewJob,
}

impl<'a> Enqueue<'a> {
    pub(super) fn new(queue: &'a JobQueue, job: NewJob) -> Self {
        Enqueue { queue, job }
    }

    /// See [`NewJob::queue`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.enqueue("report", serde_json::json!({"month": 11})).queue("slow").await?;
    /// # Ok(()) }
    /// ```
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.job = self.job.queue(queue);
        self
    }

    /// See [`NewJob::priority`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.enqueue("report", serde_json::json!({"month": 11})).priority(100).await?;
    /// # Ok(()) }
    /// ```
    pub fn priority(mut self, priority: i32) -> Self {
        self.job = self.job.priority(priority);
        self
    }

    /// See [`NewJob::max_retries`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.enqueue("report", serde_json::json!({"month": 11})).max_retries(0).await?;
    /// # Ok(()) }
    /// ```
    pub fn max_retries(mut self, max_retries: i32) -> Self {
        self.job = self.job.max_retries(max_retries);
        self
    }

    /// See [`NewJob::execute_at`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let tomorrow = chrono::Utc::now() + chrono::Duration::days(1);
    /// queue.enqueue("report", serde_json::json!({"month": 11})).execute_at(tomorrow).await?;
    /// # Ok(()) }
    /// ```
    pub fn execute_at(mut self, at: DateTime<Utc>) -> Self {
        self.job = self.job.execute_at(at);
        self
    }

    /// See [`NewJob::unique_key`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.enqueue("report", serde_json::json!({"month": 11})).unique_key("report-11").await?;
    /// # Ok(()) }
    /// ```
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.job = self.job.unique_key(key);
        self
    }

    /// See [`NewJob::opts`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.enqueue("report", serde_json::json!({"month": 11})).opts(serde_json::json!({"tags": ["monthly"]})).await?;
    /// # Ok(()) }
    /// ```
    pub fn opts(mut self, opts: Value) -> Self {
        self.job = self.job.opts(opts);
        self
    }
}

impl<'a> IntoFuture for Enqueue<'a> {
    type Output = Result<Enqueued, Error>;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.queue.enqueue_job(&self.job).await })
    }
}
