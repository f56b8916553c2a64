//! Jobs worked by hand: `dequeue` gives a job out, `complete`, `fail` and `retry` end it.
//!
//! The calls are carried out by one background task per queue object (`manual_worker`). So a call whose future is
//! dropped loses nothing: a job that nobody received goes back to the queue, and an end that was asked for is carried
//! out. A call that is said again gets the answer of the first.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    JobQueue,
    manual_request::{Answer, Delivery, Request},
    manual_worker::ManualWorker,
    registration::Registrar,
};
use crate::{Error, Failure, Job, SessionOptions, Status, session::outcome::Outcome};

impl JobQueue {
    /// Takes the next due job, marks it running, and keeps its lease alive until it is ended by
    /// [`complete`](Self::complete), [`fail`](Self::fail) or [`retry`](Self::retry) on this queue object. `None` if no
    /// job is due. If the future is dropped, no job is lost: a job that it had claimed goes back.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Pool`] if the database cannot be asked.
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
        let delivery = self.ask(Request::Dequeue).await?;
        Ok(delivery.map(Delivery::accept))
    }

    /// Completes a job that `dequeue` gave out. The call is repeated while the database is away, until the lease ends.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if this queue object does not hold the job any more.
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
    /// As [`JobQueue::complete`]; [`Error::Refused`] for a result that Postgres cannot store: then the attempt has
    /// failed.
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
        match self.end(id, Outcome::Completed(result)).await? {
            Answer::Now(Status::Completed) => Ok(()),
            Answer::Now(status) => {
                Err(Error::WrongStatus(format!("job {id} was ended before: it is {}", status.as_str())))
            }
            Answer::ResultRefused(_) => Err(result_refused(id)),
            Answer::NotHeld => Err(not_held(id)),
        }
    }

    /// Ends the attempt of a job that `dequeue` gave out: the job is retried while attempts < max_retries, after
    /// 2^attempts seconds, else it has failed. Answers the job's new status.
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
        self.end_attempt(id, Outcome::Failed(Failure::new(error))).await
    }

    /// Makes a job pending again, after a delay: a failed, cancelled or pending one, or a running one that this queue
    /// object holds.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongStatus`] if the job is completed or another worker runs it.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, id: uuid::Uuid) -> Result<(), rowlock::Error> {
    /// queue.retry(id, std::time::Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn retry(&self, id: Uuid, delay: Duration) -> Result<Status, Error> {
        match self.end(id, Outcome::Retried { after: delay }).await? {
            Answer::Now(status) | Answer::ResultRefused(status) => Ok(status),
            Answer::NotHeld => self.retry_waiting(id, delay).await,
        }
    }

    /// Ends an attempt, and answers the job's new status, whatever led to it.
    pub(crate) async fn end_attempt(&self, id: Uuid, outcome: Outcome) -> Result<Status, Error> {
        match self.end(id, outcome).await? {
            Answer::Now(status) | Answer::ResultRefused(status) => Ok(status),
            Answer::NotHeld => Err(not_held(id)),
        }
    }

    async fn end(&self, id: Uuid, outcome: Outcome) -> Result<Answer, Error> {
        Ok(self.ask(|answer| Request::End { id, outcome, answer }).await?.accept())
    }

    fn registrar(&self) -> Registrar {
        Registrar {
            pool: self.shared.pool.clone(),
            presence: self.target().presence().clone(),
            options: SessionOptions { queues: self.shared.queues.clone(), slots: 1000, ..SessionOptions::default() },
        }
    }

    /// Asks the background task, which is started if there is none (or its runtime has ended).
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        {
            let mut requests = self.shared.manual.lock().expect("no code panics while it holds this lock");
            let running = requests.take().filter(|requests| !requests.is_closed());
            let requests = requests.insert(running.unwrap_or_else(|| ManualWorker::start(self.registrar())));
            // A task that ends in this moment drops the request, and the answer says so.
            let _ = requests.send(request(answer));
        }
        answered.await.unwrap_or_else(|_| {
            Err(Error::Pool("the runtime of this queue's background task has ended; call again".into()))
        })
    }
}

fn not_held(id: Uuid) -> Error {
    Error::LeaseLost(format!("this queue object does not hold job {id}"))
}

fn result_refused(id: Uuid) -> Error {
    Error::Refused {
        code: "RL002".into(),
        field: crate::Field::Payload,
        message: format!("result: expected JSON that Postgres can store; the attempt of job {id} has failed"),
    }
}
