//! The client: enqueue, look, steer, and work jobs by hand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use serde_json::{Value, value::RawValue};
use tokio::sync::OnceCell;
use tokio_postgres::{GenericClient, Row, types::Type};
use uuid::Uuid;

use crate::{
    ClaimedJob, Enqueued, Error, Failure, Job, NewJob, Session, SessionOptions, Status, Target,
    migrate::{self, MigrationStatus},
};

/// The job queue of one database. Cheap to clone, and safe to call from many tasks at once.
///
/// ```no_run
/// # async fn f() -> Result<(), rowlock::Error> {
/// let queue = rowlock::JobQueue::connect("postgres://localhost/app").await?;
/// let id = queue.enqueue("send_email", serde_json::json!({"to": "a@example.com"})).priority(9).await?.id;
/// let job = queue.dequeue().await?.expect("it is due");
/// assert_eq!(job.id, id);
/// queue.complete(id).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobQueue {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    pool: Pool,
    /// The queues `dequeue` serves.
    queues: Vec<String>,
    /// May this user call the function for arrays, which is faster than the one for jsonb?
    bulk: OnceCell<bool>,
    /// The worker behind `dequeue`, and the jobs it gave out.
    session: OnceCell<Arc<Session>>,
    held: Mutex<HashMap<Uuid, ClaimedJob>>,
}

/// Which jobs [`JobQueue::list`] answers.
#[derive(Debug, Clone)]
pub struct ListFilter {
    /// Only those in this status.
    pub status: Option<Status>,
    /// Only those of this queue.
    pub queue: Option<String>,
    /// Only those of this type.
    pub job_type: Option<String>,
    /// At most so many, up to 10,000.
    pub limit: i32,
}

impl Default for ListFilter {
    fn default() -> Self {
        ListFilter { status: None, queue: None, job_type: None, limit: 50 }
    }
}

const ENQUEUE: &str = "SELECT id, inserted FROM rowlock.enqueue($1, $2, $3, $4, $5, $6, $7, $8)";
const POOL_SIZE: usize = 16;

impl JobQueue {
    /// Connects; `dequeue` serves the queue `default`.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL that cannot be read, [`Error::Database`] if nobody answers.
    pub async fn connect(url: &str) -> Result<JobQueue, Error> {
        JobQueue::connect_to(url, &["default"], POOL_SIZE).await
    }

    /// Connects, with the queues that `dequeue` serves and the most connections to use.
    ///
    /// # Errors
    /// As [`JobQueue::connect`].
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::Error> {
    /// let queue = rowlock::JobQueue::connect_to("postgres://localhost/app", &["mail"], 4).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect_to(url: &str, queues: &[&str], connections: usize) -> Result<JobQueue, Error> {
        let target = Target::parse(url)?;
        let pool = target.pool(connections)?;
        drop(pool.get().await?);
        Ok(JobQueue {
            shared: Arc::new(Shared {
                target,
                pool,
                queues: queues.iter().map(ToString::to_string).collect(),
                bulk: OnceCell::new(),
                session: OnceCell::new(),
                held: Mutex::default(),
            }),
        })
    }

    /// The connections. Behind PgBouncer in transaction mode use only `query_typed` on them.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Where the queue is, to connect once more.
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// Applies missing migrations: see [`migrate::up`].
    ///
    /// # Errors
    /// As [`migrate::up`].
    pub async fn migrate(&self) -> Result<Vec<i32>, Error> {
        migrate::up(&mut *self.shared.pool.get().await?).await
    }

    /// The state of the schema: see [`migrate::status`].
    ///
    /// # Errors
    /// As [`migrate::status`].
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, Error> {
        migrate::status(&**self.shared.pool.get().await?).await
    }

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

    /// Registers a worker for batches: the way to work fast.
    ///
    /// # Errors
    /// See [`SessionOptions`].
    pub async fn session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::register(self.shared.pool.clone(), options).await
    }

    /// Takes the next due job, marks it running, and keeps its lease alive until it is ended by
    /// [`complete`](Self::complete), [`fail`](Self::fail) or [`retry`](Self::retry) on this queue.
    /// None if no job is due.
    ///
    /// # Errors
    /// [`Error::Database`].
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

    /// Completes a job that `dequeue` gave out.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if this queue does not hold it any more.
    pub async fn complete(&self, id: Uuid) -> Result<(), Error> {
        self.complete_with(id, None).await
    }

    /// Completes a job with a result.
    ///
    /// # Errors
    /// As [`JobQueue::complete`].
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
    pub async fn retry(&self, id: Uuid, delay: Duration) -> Result<Status, Error> {
        let held = self.held().remove(&id);
        if let Some(job) = held {
            let refused = self.own_session().await?.release(vec![job], Some(delay)).await?;
            return if refused.is_empty() { Ok(Status::Pending) } else { Err(lost(id)) };
        }
        self.one_word("SELECT rowlock.retry($1, $2)", &[(&id, Type::UUID), (&delay.as_secs_f64(), Type::FLOAT8)]).await
    }

    /// Cancels a job and answers its status now; [`Status::Running`] means that its worker was told.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn cancel(&self, id: Uuid) -> Result<Status, Error> {
        self.one_word("SELECT rowlock.cancel($1)", &[(&id, Type::UUID)]).await
    }

    async fn one_word(
        &self,
        sql: &str,
        args: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)],
    ) -> Result<Status, Error> {
        self.shared.pool.get().await?.query_typed(sql, args).await?[0].try_get::<_, &str>(0)?.parse()
    }

    /// No job of the queue is claimed until it is resumed; running ones go on.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that cannot be.
    pub async fn pause_queue(&self, queue: &str) -> Result<(), Error> {
        self.shared.pool.get().await?.query_typed("SELECT rowlock.pause_queue($1)", &[(&queue, Type::TEXT)]).await?;
        Ok(())
    }

    /// Ends [`JobQueue::pause_queue`].
    ///
    /// # Errors
    /// As there.
    pub async fn resume_queue(&self, queue: &str) -> Result<(), Error> {
        self.shared.pool.get().await?.query_typed("SELECT rowlock.resume_queue($1)", &[(&queue, Type::TEXT)]).await?;
        Ok(())
    }

    /// One job, or none.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn get_job(&self, id: Uuid) -> Result<Option<Job>, Error> {
        let client = self.shared.pool.get().await?;
        let rows = client.query_typed("SELECT * FROM rowlock.get_job($1)", &[(&id, Type::UUID)]).await?;
        rows.first().map(Job::from_row).transpose()
    }

    /// A page of jobs: running by start, pending in claim order, ended newest first.
    ///
    /// # Errors
    /// [`Error::Refused`] for a limit out of range.
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<Job>, Error> {
        let client = self.shared.pool.get().await?;
        let rows = client
            .query_typed(
                "SELECT * FROM rowlock.list_jobs($1, $2, $3, $4)",
                &[
                    (&filter.status.map(Status::as_str), Type::TEXT),
                    (&filter.queue, Type::TEXT),
                    (&filter.job_type, Type::TEXT),
                    (&filter.limit, Type::INT4),
                ],
            )
            .await?;
        rows.iter().map(Job::from_row).collect()
    }

    /// Jobs by status, at most `limit`.
    ///
    /// # Errors
    /// As [`JobQueue::list`].
    pub async fn list_jobs(&self, status: Option<Status>, limit: i32) -> Result<Vec<Job>, Error> {
        self.list(&ListFilter { status, limit, ..Default::default() }).await
    }

    /// Pending jobs in claim order, up to 10,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn get_pending_jobs(&self) -> Result<Vec<Job>, Error> {
        self.list_jobs(Some(Status::Pending), 10_000).await
    }

    /// Running jobs by start, up to 10,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn get_running_jobs(&self) -> Result<Vec<Job>, Error> {
        self.list_jobs(Some(Status::Running), 10_000).await
    }

    /// Completed jobs, newest first.
    ///
    /// # Errors
    /// As [`JobQueue::list`].
    pub async fn get_completed_jobs(&self, limit: i32) -> Result<Vec<Job>, Error> {
        self.list_jobs(Some(Status::Completed), limit).await
    }

    /// Failed jobs, newest first, up to 10,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn get_failed_jobs(&self) -> Result<Vec<Job>, Error> {
        self.list_jobs(Some(Status::Failed), 10_000).await
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, ClaimedJob>> {
        self.shared.held.lock().expect("no code panics while it holds this lock")
    }

    fn take_held(&self, id: Uuid) -> Result<ClaimedJob, Error> {
        self.held().remove(&id).ok_or_else(|| lost(id))
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

fn lost(id: Uuid) -> Error {
    Error::LeaseLost(format!("this queue does not hold job {id}"))
}

impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Error::Json { what: "payload", source }
    }
}
