//! The ends of an attempt but completion, and what is told of a job meanwhile.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Failure, Session, call::Arg, end, keys};
use crate::{ClaimedJob, Error, Status};

impl Session {
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

    /// The job's status, wherever the job is; none if there is no such job.
    pub(crate) async fn job_status(&self, id: Uuid) -> Result<Option<Status>, Error> {
        let rows = self.call("SELECT status FROM rowlock.job_status($1)", &[(&id, Type::UUID)]).await?;
        rows.first().map(|row| row.try_get::<_, &str>(0)?.parse()).transpose()
    }

    /// Hands jobs back unfinished, no attempt consumed, each after its delay and with a text that says why.
    pub(crate) async fn hand_back(
        &self,
        jobs: &[(ClaimedJob, (Option<Duration>, String))],
    ) -> Result<Vec<Uuid>, Error> {
        let (receipts, ids) = keys(jobs.iter().map(|(job, _)| job));
        let delays: Vec<Option<f64>> = jobs.iter().map(|(_, (after, _))| after.map(|d| d.as_secs_f64())).collect();
        let errors: Vec<String> = jobs.iter().map(|(_, (_, error))| error.replace('\0', "\u{fffd}")).collect();
        let args: [Arg<'_>; 5] = [
            (&self.id, Type::UUID),
            (&receipts, Type::INT8_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&delays, Type::FLOAT8_ARRAY),
            (&errors, Type::TEXT_ARRAY),
        ];
        let rows = self.call("SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, $5)", &args).await?;
        rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
    }
}
