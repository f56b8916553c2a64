//! A worker's side of the queue: register, claim, end, extend. The one file that calls the worker's SQL.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use serde_json::value::RawValue;
use tokio_postgres::{
    Row,
    types::{Json, Type},
};
use uuid::Uuid;

use crate::{ClaimedJob, Error, hints::Hints, job::raw};

/// Who works, and on what.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The name people see: a Pod's name, or host and process id.
    pub name: String,
    /// Pod UID or host, and start: what tells two lives of one name apart.
    pub identity: String,
    /// The queues served.
    pub queues: Vec<String>,
    /// Jobs at once.
    pub slots: i32,
    /// How long the worker's right to its jobs lasts without a heartbeat.
    pub lease: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "localhost",
            h => h,
        };
        let pid = std::process::id();
        let start = chrono::Utc::now().timestamp_millis();
        SessionOptions {
            name: std::env::var("POD_NAME").unwrap_or_else(|_| format!("{host}:{pid}")),
            identity: format!("{}/{pid}/{start}", std::env::var("POD_UID").unwrap_or_else(|_| host.to_owned())),
            queues: vec!["default".into()],
            slots: 10,
            lease: Duration::from_secs(30),
        }
    }
}

/// How an attempt failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What people read.
    pub error: String,
    /// Whether another attempt makes sense.
    pub retryable: bool,
    /// A short word for counting: `exit_code`, `timeout`, …
    pub reason: &'static str,
}

impl Failure {
    /// A failure to be retried, for the reason `error`.
    ///
    /// ```
    /// let f = rowlock::Failure::new("the mail server said no");
    /// assert!(f.retryable);
    /// ```
    pub fn new(error: impl Into<String>) -> Self {
        Failure { error: error.into(), retryable: true, reason: "error" }
    }
}

/// What a heartbeat answered.
#[derive(Debug)]
pub struct Heartbeat {
    /// When the lease ends by this process's monotonic clock, counted from before the question was sent:
    /// never later than the database thinks.
    pub deadline: Instant,
    /// The worker is to stop claiming.
    pub draining: bool,
    /// Running jobs of this worker that somebody cancelled.
    pub cancelled: Vec<Uuid>,
}

/// What one round of keeping did.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Whether this worker is the keeper now.
    pub keeper: bool,
    /// Jobs whose time had come.
    pub promoted: i32,
    /// Jobs put back from lost workers.
    pub rescued: i32,
}

/// A registered worker. Shared by reference between the tasks of one process.
#[derive(Debug)]
pub struct Session {
    pool: Pool,
    id: Uuid,
    options: SessionOptions,
    /// Locked for moments only, never across a query: claims of one session run side by side.
    hints: Mutex<Hints>,
}

const CLAIM_COLUMNS: &str = "lease, id, type, queue, payload, priority, attempts, max_retries, created_at, execute_at, opts, lane_queue, lane_rank, pos";

impl Session {
    /// Registers a worker and starts its lease.
    ///
    /// # Errors
    /// [`Error::Refused`] for an option out of range, [`Error::Schema`] before `migrate`.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let session = queue.session(rowlock::SessionOptions::default()).await?;
    /// for job in session.claim(10).await? {
    ///     session.complete(vec![(job, None)]).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub(crate) async fn register(pool: Pool, options: SessionOptions) -> Result<Session, Error> {
        let client = pool.get().await?;
        let rows = client
            .query_typed(
                "SELECT rowlock.register_worker_v1($1, $2, $3, $4, $5, $6)",
                &[
                    (&options.name, Type::TEXT),
                    (&options.identity, Type::TEXT),
                    (&options.queues, Type::TEXT_ARRAY),
                    (&options.slots, Type::INT4),
                    (&options.lease.as_secs_f64(), Type::FLOAT8),
                    (&env!("CARGO_PKG_VERSION"), Type::TEXT),
                ],
            )
            .await?;
        let id = rows[0].try_get(0)?;
        drop(client);
        Ok(Session { pool, id, options, hints: Mutex::default() })
    }

    /// The worker's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What it was registered with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Claims up to `max` jobs, in order of claim.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the worker's lease has expired: register anew.
    pub async fn claim(&self, max: usize) -> Result<Vec<ClaimedJob>, Error> {
        Ok(self.work(Vec::new(), max).await?.0)
    }

    /// Completes jobs with their results. Answers the ids that were refused because the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]; whether the jobs ended is then unknown until it is asked again.
    pub async fn complete(&self, done: Vec<(ClaimedJob, Option<Box<RawValue>>)>) -> Result<Vec<Uuid>, Error> {
        Ok(self.work(done, 0).await?.1)
    }

    /// Completes some jobs and claims others in one round trip and one commit: the fastest way to work.
    /// Answers the new jobs and the ids that were refused.
    ///
    /// # Errors
    /// As [`Session::claim`].
    pub async fn work(
        &self,
        done: Vec<(ClaimedJob, Option<Box<RawValue>>)>,
        max: usize,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        self.try_work(&done, max).await
    }

    /// [`Session::work`] for a caller that repeats it when the database was away. A repetition may find
    /// jobs refused that the first call did complete: its answer was lost, not its effect.
    pub(crate) async fn try_work(
        &self,
        done: &[(ClaimedJob, Option<Box<RawValue>>)],
        max: usize,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let (leases, ids) = keys(done.iter().map(|(j, _)| j));
        let results: Option<Vec<Option<Json<&RawValue>>>> =
            done.iter().any(|(_, r)| r.is_some()).then(|| done.iter().map(|(_, r)| r.as_deref().map(Json)).collect());
        let max = i32::try_from(max.min(1000)).expect("at most 1000");
        let client = self.pool.get().await?;
        let mut started = Instant::now();
        let mut args = if max > 0 { self.hints().args(started) } else { Default::default() };
        loop {
            let rows = client
                .query_typed(
                    &format!(
                        "SELECT refused, {CLAIM_COLUMNS} FROM rowlock.work_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)"
                    ),
                    &[
                        (&self.id, Type::UUID),
                        (&leases, Type::INT8_ARRAY),
                        (&ids, Type::UUID_ARRAY),
                        (&results, Type::JSONB_ARRAY),
                        (&self.options.queues, Type::TEXT_ARRAY),
                        (&max, Type::INT4),
                        (&args.queues, Type::INT4_ARRAY),
                        (&args.ranks, Type::INT2_ARRAY),
                        (&args.after, Type::INT8_ARRAY),
                    ],
                )
                .await?;
            let now = Instant::now();
            if args.sweep {
                self.hints().swept(started, now);
            }
            let (jobs, refused) = self.read(&rows, now)?;
            // Nothing behind the hints: look from the start, if that is allowed again.
            if jobs.is_empty() && max > 0 && !args.sweep && done.is_empty() && self.hints().sweep_due(now) {
                started = now;
                args = self.hints().args(now);
                continue;
            }
            return Ok((jobs, refused));
        }
    }

    fn read(&self, rows: &[Row], now: Instant) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let mut refused = Vec::new();
        let mut jobs = Vec::with_capacity(rows.len());
        let mut top = std::collections::BTreeMap::new();
        for row in rows {
            if let Some(id) = row.try_get::<_, Option<Uuid>>(0)? {
                refused.push(id);
                continue;
            }
            let (queue, rank, pos): (i32, i16, i64) = (row.try_get(12)?, row.try_get(13)?, row.try_get(14)?);
            let highest = top.entry((queue, rank)).or_insert(pos);
            *highest = pos.max(*highest);
            jobs.push((rank, pos, self.claimed(row)?));
        }
        for ((queue, rank), pos) in top {
            self.hints().took(queue, rank, pos, now);
        }
        jobs.sort_by_key(|(rank, pos, _)| (*rank, *pos));
        Ok((jobs.into_iter().map(|(_, _, job)| job).collect(), refused))
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().expect("no code panics while it holds this lock")
    }

    /// By number: a look-up by name compares every column's, for every job.
    fn claimed(&self, row: &Row) -> Result<ClaimedJob, Error> {
        Ok(ClaimedJob {
            lease: row.try_get(1)?,
            id: row.try_get(2)?,
            job_type: row.try_get(3)?,
            queue: row.try_get(4)?,
            payload: raw(row, 5)?.expect("payload is not null"),
            priority: row.try_get(6)?,
            attempts: row.try_get(7)?,
            max_retries: row.try_get(8)?,
            created_at: row.try_get(9)?,
            execute_at: row.try_get(10)?,
            opts: row.try_get(11)?,
            worker: self.id,
        })
    }

    /// Ends attempts with their errors. Answers each job's id and new status (`pending` for a retry,
    /// `failed`, `cancelled`), or `lease lost`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn fail(&self, failed: Vec<(ClaimedJob, Failure)>) -> Result<Vec<(Uuid, String)>, Error> {
        self.try_fail(&failed).await
    }

    /// [`Session::fail`] for a caller that repeats it, as [`Session::try_work`].
    pub(crate) async fn try_fail(&self, failed: &[(ClaimedJob, Failure)]) -> Result<Vec<(Uuid, String)>, Error> {
        let (leases, ids) = keys(failed.iter().map(|(j, _)| j));
        // Postgres has no NUL in text.
        let errors: Vec<String> = failed.iter().map(|(_, f)| f.error.replace('\0', "\u{fffd}")).collect();
        let retryable: Vec<bool> = failed.iter().map(|(_, f)| f.retryable).collect();
        let reasons: Vec<&str> = failed.iter().map(|(_, f)| f.reason).collect();
        let rows = self
            .pool
            .get()
            .await?
            .query_typed(
                "SELECT id, status FROM rowlock.fail_v1($1, $2, $3, $4, $5, $6)",
                &[
                    (&self.id, Type::UUID),
                    (&leases, Type::INT8_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&errors, Type::TEXT_ARRAY),
                    (&retryable, Type::BOOL_ARRAY),
                    (&reasons, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
    }

    /// Hands jobs back unfinished. Without a delay they return to their old place and no attempt is
    /// consumed; with one it counts as a retry. Answers the ids that were refused.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn release(&self, jobs: Vec<ClaimedJob>, retry_after: Option<Duration>) -> Result<Vec<Uuid>, Error> {
        self.try_release(&jobs, retry_after).await
    }

    /// [`Session::release`] for a caller that repeats it, as [`Session::try_work`].
    pub(crate) async fn try_release(
        &self,
        jobs: &[ClaimedJob],
        retry_after: Option<Duration>,
    ) -> Result<Vec<Uuid>, Error> {
        let (leases, ids) = keys(jobs.iter());
        let rows = self
            .pool
            .get()
            .await?
            .query_typed(
                "SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, $5)",
                &[
                    (&self.id, Type::UUID),
                    (&leases, Type::INT8_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&retry_after.map(|d| d.as_secs_f64()), Type::FLOAT8),
                    (&retry_after.is_some(), Type::BOOL),
                ],
            )
            .await?;
        rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
    }

    /// The heartbeat: one row, however many jobs. With `drain` the worker claims no more.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if it came too late: stop the jobs.
    pub async fn extend(&self, drain: bool) -> Result<Heartbeat, Error> {
        let client = self.pool.get().await?;
        let asked = Instant::now();
        let rows = client
            .query_typed(
                "SELECT draining, cancelled FROM rowlock.extend_v1($1, $2, $3)",
                &[(&self.id, Type::UUID), (&self.options.lease.as_secs_f64(), Type::FLOAT8), (&drain, Type::BOOL)],
            )
            .await?;
        Ok(Heartbeat {
            deadline: asked + self.options.lease,
            draining: rows[0].try_get(0)?,
            cancelled: rows[0].try_get(1)?,
        })
    }

    /// Stores a running job's progress; false if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Refused`] over 8 KiB.
    pub async fn progress(&self, job: &ClaimedJob, progress: &serde_json::Value) -> Result<bool, Error> {
        let rows = self
            .pool
            .get()
            .await?
            .query_typed(
                "SELECT rowlock.progress_v1($1, $2, $3, $4)",
                &[(&self.id, Type::UUID), (&job.lease, Type::INT8), (&job.id, Type::UUID), (progress, Type::JSONB)],
            )
            .await?;
        Ok(rows[0].try_get(0)?)
    }

    /// Asks to be woken by NOTIFY on channel `rowlock` when a job comes. Claim once more before waiting.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn sleep(&self) -> Result<(), Error> {
        let client = self.pool.get().await?;
        client
            .query_typed(
                "SELECT rowlock.sleep_v1($1, $2)",
                &[(&self.id, Type::UUID), (&self.options.queues, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(())
    }

    /// Ends [`Session::sleep`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn wake(&self) -> Result<(), Error> {
        self.pool.get().await?.query_typed("SELECT rowlock.wake_v1($1)", &[(&self.id, Type::UUID)]).await?;
        Ok(())
    }

    /// One round of keeping: due jobs become ready, lost ones are rescued, totals are folded. Only one
    /// worker at a time does it; the others are told that they are not the keeper.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn keep(&self) -> Result<Kept, Error> {
        let rows = self
            .pool
            .get()
            .await?
            .query_typed("SELECT keeper, promoted, rescued FROM rowlock.keep_v1($1)", &[(&self.id, Type::UUID)])
            .await?;
        Ok(Kept { keeper: rows[0].try_get(0)?, promoted: rows[0].try_get(1)?, rescued: rows[0].try_get(2)? })
    }

    /// Ends the worker's life. Release its jobs first; what it still holds is rescued.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn stop(&self) -> Result<(), Error> {
        self.pool.get().await?.query_typed("SELECT rowlock.stop_worker_v1($1)", &[(&self.id, Type::UUID)]).await?;
        Ok(())
    }
}

fn keys<'a>(jobs: impl Iterator<Item = &'a ClaimedJob>) -> (Vec<i64>, Vec<Uuid>) {
    jobs.map(|j| (j.lease, j.id)).unzip()
}
