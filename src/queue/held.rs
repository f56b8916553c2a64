//! Jobs worked one by one: `dequeue` holds them under a session of its own until they are ended.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::JobQueue;
use crate::{ClaimedJob, Error, Failure, Job, Session, SessionOptions, Status};

impl JobQueue {
    /// Takes the next due job, marks it running, and keeps its lease alive until it is ended by
    /// [`complete`](Self::complete), [`fail`](Self::fail) or [`retry`](Self::retry) on this queue.
    /// None if no job is due.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// while let Some(job) = queue.dequeue().await? {
    ///     println!("{} {}", job.id, job.job_type);
    ///     queue.complete(job.id).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn dequeue(&self) -> Result<Option<Job>, Error> {
        let session = self.own_session().await?;
        let mut claimed = session.claim(1).await?.pop();
        if claimed.is_none() && session.keep().await?.promoted > 0 {
            // Due jobs need not wait for a worker elsewhere to promote them.
            claimed = session.claim(1).await?.pop();
        }
        let Some(claimed) = claimed else { return Ok(None) };
        let id = claimed.id;
        self.held().insert(id, claimed);
        self.get_job(id).await
    }

    /// Completes a job that `dequeue` gave out.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if this queue does not hold it any more.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// if let Some(job) = queue.dequeue().await? {
    ///     queue.complete(job.id).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn complete(&self, id: Uuid) -> Result<(), Error> {
        self.complete_with(id, None).await
    }

    /// Completes a job with a result.
    ///
    /// # Errors
    /// As [`JobQueue::complete`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// if let Some(job) = queue.dequeue().await? {
    ///     let result = serde_json::value::to_raw_value(&42)?;
    ///     queue.complete_with(job.id, Some(result)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn complete_with(&self, id: Uuid, result: Option<Box<RawValue>>) -> Result<(), Error> {
        let job = self.take_held(id)?;
        let refused = self.own_session().await?.complete(vec![(job, result)]).await?;
        if refused.is_empty() { Ok(()) } else { Err(lost(id)) }
    }

    /// Ends the attempt of a job that `dequeue` gave out: it is retried while attempts < max_retries, after
    /// 2^attempts seconds, else it has failed. Answers its new status.
    ///
    /// # Errors
    /// As [`JobQueue::complete`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// if let Some(job) = queue.dequeue().await? {
    ///     let status = queue.fail(job.id, "the mail server said no").await?;
    ///     assert_ne!(status, rowlock::Status::Completed);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn fail(&self, id: Uuid, error: impl Into<String>) -> Result<Status, Error> {
        let job = self.take_held(id)?;
        let ended = self.own_session().await?.fail(vec![(job, Failure::new(error))]).await?;
        ended.first().and_then(|(_, s)| s.parse().ok()).ok_or_else(|| lost(id))
    }

    /// Makes a job pending again, after a delay: a failed, cancelled or pending one, or a running one that
    /// this queue holds.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongStatus`] if it is completed or another worker runs it.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, id: uuid::Uuid) -> Result<(), rowlock::Error> {
    /// queue.retry(id, std::time::Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn retry(&self, id: Uuid, delay: Duration) -> Result<Status, Error> {
        let held = self.held().remove(&id);
        if let Some(job) = held {
            let refused = self.own_session().await?.release(vec![job], Some(delay)).await?;
            return if refused.is_empty() { Ok(Status::Pending) } else { Err(lost(id)) };
        }
        self.retry_waiting(id, delay).await
    }

    async fn own_session(&self) -> Result<&Arc<Session>, Error> {
        self.shared
            .session
            .get_or_try_init(|| async {
                let options = SessionOptions { queues: self.shared.queues.clone(), slots: 1000, ..Default::default() };
                let beat = options.lease / 3;
                let session = Arc::new(self.session(options).await?);
                let weak = Arc::downgrade(&session);
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(beat).await;
                        let Some(session) = weak.upgrade() else { return };
                        match session.extend(false).await {
                            Err(Error::LeaseLost(_)) => return,
                            Err(error) => tracing::warn!(%error, "heartbeat failed"),
                            Ok(_) => {}
                        }
                    }
                });
                Ok(session)
            })
            .await
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, ClaimedJob>> {
        self.shared.held.lock().expect("no code panics while it holds this lock")
    }

    fn take_held(&self, id: Uuid) -> Result<ClaimedJob, Error> {
        self.held().remove(&id).ok_or_else(|| lost(id))
    }
}

fn lost(id: Uuid) -> Error {
    Error::LeaseLost(format!("this queue does not hold job {id}"))
}
