//! A worker's side of the queue: it claims jobs and ends them. Its rooms: `registration`, the worker's own row;
//! `options`, the arguments and answers; `read`, from rows to jobs; `call`, one question on one connection; `heartbeat`,
//! which keeps the lease; `report`, which tells the database every end; `pods`, for workers that give each job a Pod. This file, `registration` and `pods` alone call the worker's SQL.

mod call;
pub(crate) mod heartbeat;
mod options;
mod pods;
mod read;
mod registration;
pub(crate) mod report;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use serde_json::value::RawValue;
use tokio_postgres::{
    Row,
    types::{Json, Type},
};
use uuid::Uuid;

pub use self::options::{Failure, HeartbeatAnswer, Kept, SessionOptions};
use self::{
    call::{Arg, call},
    read::CLAIM_COLUMNS,
};
use crate::{
    ClaimedJob, Error, Status,
    hints::{HintArgs, Hints},
    job::holds::Holds,
};

/// A registered worker. Shared by reference between the tasks of one process.
#[derive(Debug)]
pub struct Session {
    pool: Pool,
    id: Uuid,
    options: SessionOptions,
    /// Locked for moments only, never across a query: claims of one session run side by side.
    hints: Mutex<Hints>,
    /// Everything that this worker holds, for the heartbeat to say.
    holds: Arc<Holds>,
    /// When the lease ends by the monotonic clock, counted from before it was asked for.
    lease_until: Mutex<Instant>,
}

impl Session {
    /// The worker's id.
    ///
    /// ```no_run
    /// # fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// println!("{}", session.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What it was registered with.
    ///
    /// ```no_run
    /// # fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// assert!(session.options().slots > 0);
    /// # Ok(()) }
    /// ```
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Claims up to `max` jobs, in order of claim.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the worker's lease has expired: register anew.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// for job in session.claim(10).await? {
    ///     println!("{}", job.job_type);
    ///     session.complete(vec![(job, None)]).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn claim(&self, max: usize) -> Result<Vec<ClaimedJob>, Error> {
        Ok(self.work(Vec::new(), max).await?.0)
    }

    /// Completes jobs with their results. Answers the ids that were refused because the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]; whether the jobs ended is then unknown until it is asked again.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let done = session.claim(10).await?.into_iter().map(|job| (job, None)).collect();
    /// for id in session.complete(done).await? {
    ///     println!("{id} belongs to another worker now");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn complete(&self, done: Vec<(ClaimedJob, Option<Box<RawValue>>)>) -> Result<Vec<Uuid>, Error> {
        Ok(self.work(done, 0).await?.1)
    }

    /// Completes some jobs and claims others in one round trip and one commit: the fastest way to work.
    /// Answers the new jobs and the ids that were refused.
    ///
    /// # Errors
    /// As [`Session::claim`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let mut jobs = session.claim(10).await?;
    /// while !jobs.is_empty() {
    ///     let done = jobs.into_iter().map(|job| (job, None)).collect();
    ///     (jobs, _) = session.work(done, 10).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn work(
        &self,
        done: Vec<(ClaimedJob, Option<Box<RawValue>>)>,
        max: usize,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let answer = self.try_work(&done, max).await?;
        end(done.into_iter().map(|(job, _)| job));
        Ok(answer)
    }

    /// [`Session::work`] for a caller that repeats the call when the database was away. A repetition may find jobs
    /// refused that the first call did complete: then its answer was lost, not its effect. The caller ends the jobs'
    /// holds when it has the answer.
    pub(crate) async fn try_work(
        &self,
        done: &[(ClaimedJob, Option<Box<RawValue>>)],
        max: usize,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let (receipts, ids) = keys(done.iter().map(|(j, _)| j));
        let results: Option<Vec<Option<Json<&RawValue>>>> =
            done.iter().any(|(_, r)| r.is_some()).then(|| done.iter().map(|(_, r)| r.as_deref().map(Json)).collect());
        let max = i32::try_from(max.min(1000)).expect("at most 1000");
        let mut started = Instant::now();
        let mut args = if max > 0 { self.hints().args(started) } else { HintArgs::default() };
        loop {
            // Under way until its jobs are held: a heartbeat beside it must not put them back.
            let claim = self.holds.begin_claim();
            let rows = self
                .call(
                    &format!(
                        "SELECT refused, {CLAIM_COLUMNS} FROM rowlock.work_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
                    ),
                    &[
                        (&self.id, Type::UUID),
                        (&receipts, Type::INT8_ARRAY),
                        (&ids, Type::UUID_ARRAY),
                        (&results, Type::JSONB_ARRAY),
                        (&self.options.queues, Type::TEXT_ARRAY),
                        (&max, Type::INT4),
                        (&args.queues, Type::INT4_ARRAY),
                        (&args.ranks, Type::INT2_ARRAY),
                        (&args.after, Type::INT8_ARRAY),
                        (&claim.number(), Type::INT8),
                    ],
                )
                .await?;
            let now = Instant::now();
            if args.sweep {
                self.hints().swept(started, now);
            }
            let (jobs, refused) = self.read(&rows, now)?;
            drop(claim);
            // Nothing behind the hints: look from the start, if that is allowed again.
            if jobs.is_empty() && max > 0 && !args.sweep && done.is_empty() && self.hints().sweep_due(now) {
                started = now;
                args = self.hints().args(now);
                continue;
            }
            return Ok((jobs, refused));
        }
    }

    /// One call on a connection of the pool. No call is waited for longer than the lease: then the connection is dead.
    async fn call(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>, Error> {
        call(&self.pool, self.options.lease, sql, args).await
    }

    /// The job's status, wherever the job is; none if there is no such job.
    pub(crate) async fn job_status(&self, id: Uuid) -> Result<Option<Status>, Error> {
        let rows = self.call("SELECT status FROM rowlock.job_status($1)", &[(&id, Type::UUID)]).await?;
        rows.first().map(|row| row.try_get::<_, &str>(0)?.parse()).transpose()
    }

    /// When the lease ends, unless it is extended: never later than the database thinks.
    pub(crate) fn lease_until(&self) -> Instant {
        *self.lease_until.lock().expect("no code panics while it holds this lock")
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().expect("no code panics while it holds this lock")
    }

    /// Ends attempts with their errors. Answers each job's id and new status (`pending` for a retry,
    /// `failed`, `cancelled`), or `lease lost`.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let jobs = session.claim(10).await?.into_iter();
    /// let failed = jobs.map(|job| (job, rowlock::Failure::new("no such luck"))).collect();
    /// for (id, status) in session.fail(failed).await? {
    ///     println!("{id} is {status}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn fail(&self, failed: Vec<(ClaimedJob, Failure)>) -> Result<Vec<(Uuid, String)>, Error> {
        let answer = self.try_fail(&failed).await?;
        end(failed.into_iter().map(|(job, _)| job));
        Ok(answer)
    }

    /// [`Session::fail`] for a caller that repeats it, as [`Session::try_work`].
    pub(crate) async fn try_fail(&self, failed: &[(ClaimedJob, Failure)]) -> Result<Vec<(Uuid, String)>, Error> {
        let (receipts, ids) = keys(failed.iter().map(|(j, _)| j));
        // Postgres has no NUL in text.
        let errors: Vec<String> = failed.iter().map(|(_, f)| f.error.replace('\0', "\u{fffd}")).collect();
        let retryable: Vec<bool> = failed.iter().map(|(_, f)| f.retryable).collect();
        let reasons: Vec<&str> = failed.iter().map(|(_, f)| f.reason.as_str()).collect();
        let rows = self
            .call(
                "SELECT id, status FROM rowlock.fail_v1($1, $2, $3, $4, $5, $6)",
                &[
                    (&self.id, Type::UUID),
                    (&receipts, Type::INT8_ARRAY),
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
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let jobs = session.claim(10).await?;
    /// session.release(jobs, None).await?;
    /// # Ok(()) }
    /// ```
    pub async fn release(&self, jobs: Vec<ClaimedJob>, retry_after: Option<Duration>) -> Result<Vec<Uuid>, Error> {
        let refused = self.try_release(jobs.iter(), retry_after).await?;
        end(jobs.into_iter());
        Ok(refused)
    }

    /// [`Session::release`] for a caller that repeats it, as [`Session::try_work`].
    pub(crate) async fn try_release<'a>(
        &self,
        jobs: impl Iterator<Item = &'a ClaimedJob>,
        retry_after: Option<Duration>,
    ) -> Result<Vec<Uuid>, Error> {
        let (receipts, ids) = keys(jobs);
        let delays = retry_after.map(|d| vec![d.as_secs_f64(); ids.len()]);
        let rows = self
            .call(
                "SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, NULL, $5)",
                &[
                    (&self.id, Type::UUID),
                    (&receipts, Type::INT8_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&delays, Type::FLOAT8_ARRAY),
                    (&retry_after.is_some(), Type::BOOL),
                ],
            )
            .await?;
        if retry_after.is_none() {
            self.hints().put_back();
        }
        rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
    }

    /// Stores a running job's progress; false if the lease is lost.
    ///
    /// # Errors
    /// [`Error::Refused`] over 8 KiB.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session, job: &rowlock::ClaimedJob) -> Result<(), rowlock::Error> {
    /// if !session.progress(job, &serde_json::json!({"done": 3, "of": 10})).await? {
    ///     println!("stop: the lease is lost");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn progress(&self, job: &ClaimedJob, progress: &serde_json::Value) -> Result<bool, Error> {
        let rows = self
            .call(
                "SELECT rowlock.progress_v1($1, $2, $3, $4)",
                &[(&self.id, Type::UUID), (&job.receipt(), Type::INT8), (&job.id, Type::UUID), (progress, Type::JSONB)],
            )
            .await?;
        Ok(rows[0].try_get(0)?)
    }
}

/// The database has answered for these jobs.
fn end(jobs: impl Iterator<Item = ClaimedJob>) {
    jobs.for_each(|job| job.hold.end());
}

fn keys<'a>(jobs: impl Iterator<Item = &'a ClaimedJob>) -> (Vec<i64>, Vec<Uuid>) {
    jobs.map(|j| (j.receipt(), j.id)).unzip()
}
