//! A worker's side of the queue: claim jobs and end them. Its rooms: `life`, the worker's own; `options`,
//! what is said and answered; `read`, from rows to jobs; `pods`, for those that give a job a Pod. This file, `life` and
//! `pods` alone call the worker's SQL.

mod life;
mod options;
#[cfg(feature = "cli")]
mod pods;
mod read;

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use serde_json::value::RawValue;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

pub use self::options::{Failure, Heartbeat, Kept, SessionOptions};
use self::read::CLAIM_COLUMNS;
use crate::{ClaimedJob, Error, hints::Hints};

/// A registered worker. Shared by reference between the tasks of one process.
#[derive(Debug)]
pub struct Session {
    pool: Pool,
    id: Uuid,
    options: SessionOptions,
    /// Locked for moments only, never across a query: claims of one session run side by side.
    hints: Mutex<Hints>,
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
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let jobs = session.claim(10).await?;
    /// session.release(jobs, None).await?;
    /// # Ok(()) }
    /// ```
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
        let delays = retry_after.map(|d| vec![d.as_secs_f64(); ids.len()]);
        let rows = self
            .pool
            .get()
            .await?
            .query_typed(
                "SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, NULL, $5)",
                &[
                    (&self.id, Type::UUID),
                    (&leases, Type::INT8_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&delays, Type::FLOAT8_ARRAY),
                    (&retry_after.is_some(), Type::BOOL),
                ],
            )
            .await?;
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
}

fn keys<'a>(jobs: impl Iterator<Item = &'a ClaimedJob>) -> (Vec<i64>, Vec<Uuid>) {
    jobs.map(|j| (j.lease, j.id)).unzip()
}
