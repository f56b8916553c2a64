//! How a job comes in: one, many, in the caller's transaction. The one file that calls the enqueuer's SQL.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::{GenericClient, Row, types::Type};

use super::JobQueue;
use crate::{Enqueued, Error, NewJob};

const ENQUEUE: &str = "SELECT id, inserted FROM rowlock.enqueue($1, $2, $3, $4, $5, $6, $7, $8)";

impl JobQueue {
    /// Enqueues a job; set more on what it returns, then await it.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the field.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let job = queue.enqueue("report", serde_json::json!({"month": 11})).queue("slow").unique_key("report-11").await?;
    /// println!("{} {}", job.id, if job.inserted { "is new" } else { "was there" });
    /// # Ok(()) }
    /// ```
    pub fn enqueue(&self, job_type: impl Into<String>, payload: Value) -> Enqueue<'_> {
        Enqueue { queue: self, job: NewJob::new(job_type, payload) }
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
                    (&job.payload, Type::JSONB),
                    (&job.queue, Type::TEXT),
                    (&job.priority, Type::INT4),
                    (&job.max_retries, Type::INT4),
                    (&job.execute_at, Type::TIMESTAMPTZ),
                    (&job.unique_key, Type::TEXT),
                    (&job.opts, Type::JSONB),
                ],
            )
            .await?;
        enqueued(&rows[0], 0)
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
        let rows = if self.bulk().await? {
            client
                .query_typed(
                    "SELECT ord, id, inserted FROM rowlock.enqueue_batch_v1($1, $2, $3, $4, $5, $6, $7, $8)",
                    &[
                        (&jobs.iter().map(|j| &*j.job_type).collect::<Vec<_>>(), Type::TEXT_ARRAY),
                        (&jobs.iter().map(|j| &j.payload).collect::<Vec<_>>(), Type::JSONB_ARRAY),
                        (&column(jobs, |j| j.queue.as_deref()), Type::TEXT_ARRAY),
                        (&column(jobs, |j| j.priority), Type::INT4_ARRAY),
                        (&column(jobs, |j| j.max_retries), Type::INT4_ARRAY),
                        (&column(jobs, |j| j.execute_at), Type::TIMESTAMPTZ_ARRAY),
                        (&column(jobs, |j| j.unique_key.as_deref()), Type::TEXT_ARRAY),
                        (&column(jobs, |j| j.opts.as_ref()), Type::JSONB_ARRAY),
                    ],
                )
                .await?
        } else {
            let list: Vec<Value> = jobs.iter().map(as_json).collect();
            client
                .query_typed(
                    "SELECT ord, id, inserted FROM rowlock.enqueue_many($1)",
                    &[(&Value::from(list), Type::JSONB)],
                )
                .await?
        };
        let mut answers: Vec<(i32, Enqueued)> =
            rows.iter().map(|r| Ok((r.try_get(0)?, enqueued(r, 1)?))).collect::<Result<_, Error>>()?;
        answers.sort_by_key(|(ord, _)| *ord);
        Ok(answers.into_iter().map(|(_, e)| e).collect())
    }

    /// Asked once: an enqueuer may only use jsonb, which costs more.
    async fn bulk(&self) -> Result<bool, Error> {
        let ask = async {
            let client = self.shared.pool.get().await?;
            let rows = client
                .query_typed(
                    "SELECT has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'rowlock' AND p.proname = 'enqueue_batch_v1'",
                    &[],
                )
                .await?;
            Ok::<_, Error>(rows.first().is_some_and(|r| r.get(0)))
        };
        Ok(*self.shared.bulk.get_or_try_init(|| ask).await?)
    }
}

/// A job on its way in: set what differs, then await it.
#[must_use = "nothing is enqueued until it is awaited"]
pub struct Enqueue<'a> {
    queue: &'a JobQueue,
    job: NewJob,
}

impl Enqueue<'_> {
    /// See [`NewJob::queue`].
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.job = self.job.queue(queue);
        self
    }
    /// See [`NewJob::priority`].
    pub fn priority(mut self, priority: i32) -> Self {
        self.job = self.job.priority(priority);
        self
    }
    /// See [`NewJob::max_retries`].
    pub fn max_retries(mut self, max_retries: i32) -> Self {
        self.job = self.job.max_retries(max_retries);
        self
    }
    /// See [`NewJob::execute_at`].
    pub fn execute_at(mut self, at: DateTime<Utc>) -> Self {
        self.job = self.job.execute_at(at);
        self
    }
    /// See [`NewJob::unique_key`].
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.job = self.job.unique_key(key);
        self
    }
    /// See [`NewJob::opts`].
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

/// From two columns, the first of which is number `at`.
fn enqueued(row: &Row, at: usize) -> Result<Enqueued, Error> {
    Ok(Enqueued { id: row.try_get(at)?, inserted: row.try_get(at + 1)? })
}

/// A column of a batch, or null if no job sets it.
fn column<'a, T>(jobs: &'a [NewJob], get: impl Fn(&'a NewJob) -> Option<T>) -> Option<Vec<Option<T>>> {
    let column: Vec<Option<T>> = jobs.iter().map(get).collect();
    column.iter().any(Option::is_some).then_some(column)
}

fn as_json(job: &NewJob) -> Value {
    let mut object = serde_json::json!({"type": job.job_type, "payload": job.payload});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object[key] = value;
        }
    };
    set("queue", job.queue.clone().map(Value::from));
    set("priority", job.priority.map(Value::from));
    set("max_retries", job.max_retries.map(Value::from));
    set("execute_at", job.execute_at.map(|t| t.to_rfc3339().into()));
    set("unique_key", job.unique_key.clone().map(Value::from));
    set("opts", job.opts.clone());
    object
}
