//! How a job comes in: one, many, in the caller's transaction. The one file that calls the enqueuer's SQL.

use serde::Serialize;
use tokio_postgres::{
    GenericClient,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{Enqueue, JobQueue};
use crate::{Enqueued, Error, Field, NewJob};

const ENQUEUE: &str = "SELECT id, inserted FROM rowlock.enqueue($1, $2, $3, $4, $5, $6, $7, $8)";

impl JobQueue {
    /// Enqueues a job; set more on what it returns, then await it.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the field.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let job = queue.enqueue("report", serde_json::json!({"month":
    /// 11})).queue("slow").unique_key("report-11").await?;
    /// println!("{} {}", job.id, if job.inserted { "is new" } else { "was there" });
    /// # Ok(()) }
    /// ```
    pub fn enqueue(&self, job_type: impl Into<String>, payload: impl Serialize) -> Enqueue<'_> {
        Enqueue::new(self, NewJob::new(job_type, payload))
    }

    /// Enqueues a job that was put together before.
    ///
    /// # Errors
    /// As [`JobQueue::enqueue`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let job = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).max_retries(0);
    /// let id = queue.enqueue_job(&job).await?.id;
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_job(&self, job: &NewJob) -> Result<Enqueued, Error> {
        let client = self.shared.pool.get().await?;
        self.enqueue_in(&**client, job).await
    }

    /// Enqueues in the caller's own transaction (or on any client): if it rolls back, the job never was.
    ///
    /// # Errors
    /// As [`JobQueue::enqueue`]; the transaction is then aborted, as after any error.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, client: &mut tokio_postgres::Client) -> Result<(), rowlock::Error> {
    /// let tx = client.transaction().await?;
    /// tx.execute("INSERT INTO orders DEFAULT VALUES", &[]).await?;
    /// queue.enqueue_in(&tx, &rowlock::NewJob::new("ship", serde_json::json!({}))).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_in(&self, client: &impl GenericClient, job: &NewJob) -> Result<Enqueued, Error> {
        let rows = client
            .query_typed(
                ENQUEUE,
                &[
                    (&job.job_type, Type::TEXT),
                    (&Json(job.payload()?), Type::JSONB),
                    (&job.queue, Type::TEXT),
                    (&job.priority, Type::INT4),
                    (&job.max_retries, Type::INT4),
                    (&job.execute_at, Type::TIMESTAMPTZ),
                    (&job.unique_key, Type::TEXT),
                    (&job.opts, Type::JSONB),
                ],
            )
            .await
            .map_err(|e| refusal(e, std::slice::from_ref(job)))?;
        Ok(Enqueued { id: rows[0].try_get(0)?, inserted: rows[0].try_get(1)? })
    }

    /// Enqueues up to 10,000 jobs in one statement, all or none; answers in the same order.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the element and the field.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let jobs: Vec<_> = (0..1000).map(|n| rowlock::NewJob::new("resize", serde_json::json!({"image": n}))).collect();
    /// queue.enqueue_many(&jobs).await?;
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_many(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, Error> {
        let client = self.shared.pool.get().await?;
        self.enqueue_many_in(&**client, jobs).await
    }

    /// [`JobQueue::enqueue_many`] in the caller's own transaction.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, client: &mut tokio_postgres::Client) -> Result<(), rowlock::Error> {
    /// let tx = client.transaction().await?;
    /// let lines = ["a", "b"].map(|item| rowlock::NewJob::new("pick", serde_json::json!({"item": item})));
    /// queue.enqueue_many_in(&tx, &lines).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_many_in(&self, client: &impl GenericClient, jobs: &[NewJob]) -> Result<Vec<Enqueued>, Error> {
        let payloads = jobs.iter().map(|j| j.payload().map(Json)).collect::<Result<Vec<_>, _>>()?;
        let rows = client
            .query_typed(
                "SELECT array_agg(id), array_agg(inserted) FROM rowlock.enqueue_batch_v1($1, $2, $3, $4, $5, $6, \
                 $7, $8)",
                &[
                    (&jobs.iter().map(|j| &*j.job_type).collect::<Vec<_>>(), Type::TEXT_ARRAY),
                    (&payloads, Type::JSONB_ARRAY),
                    (&column(jobs, |j| j.queue.as_deref()), Type::TEXT_ARRAY),
                    (&column(jobs, |j| j.priority), Type::INT4_ARRAY),
                    (&column(jobs, |j| j.max_retries), Type::INT4_ARRAY),
                    (&column(jobs, |j| j.execute_at), Type::TIMESTAMPTZ_ARRAY),
                    (&column(jobs, |j| j.unique_key.as_deref()), Type::TEXT_ARRAY),
                    (&column(jobs, |j| j.opts.as_ref()), Type::JSONB_ARRAY),
                ],
            )
            .await;
        let rows = rows.map_err(|e| refusal(e, jobs))?;
        // One row of arrays: a row a job would cost both sides more than the rest of the answer. The function
        // answers in input order. No job, no array.
        let ids: Option<Vec<Uuid>> = rows[0].try_get(0)?;
        let inserted: Option<Vec<bool>> = rows[0].try_get(1)?;
        let answers = ids.unwrap_or_default().into_iter().zip(inserted.unwrap_or_default());
        Ok(answers.map(|(id, inserted)| Enqueued { id, inserted }).collect())
    }
}

/// A column of a batch, or null if no job sets it.
fn column<'a, T>(jobs: &'a [NewJob], get: impl Fn(&'a NewJob) -> Option<T>) -> Option<Vec<Option<T>>> {
    let column: Vec<Option<T>> = jobs.iter().map(get).collect();
    column.iter().any(Option::is_some).then_some(column)
}

/// Only payload and opts travel as text, so these are about them: JSON that Postgres cannot read (22P02), text
/// it cannot store (22P05), a number beyond its numeric (22003), nesting beyond its parser's stack (54001).
fn refusal(e: tokio_postgres::Error, jobs: &[NewJob]) -> Error {
    let Some(db) = e.as_db_error() else { return e.into() };
    let code = db.code().code();
    if !["22P02", "22P05", "22003", "54001"].contains(&code) {
        return e.into();
    }
    let (field, name) = match jobs.iter().any(|j| j.opts.is_some()) {
        true => (Field::Other, "payload or opts"),
        false => (Field::Payload, "payload"),
    };
    let message = format!("{name}: expected JSON that Postgres can store: {} (SQLSTATE {code})", db.message());
    Error::Refused { code: code.to_owned(), field, message }
}
