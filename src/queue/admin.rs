//! Looking at jobs and steering them. Only this file calls the reader's and the admin's SQL.

use std::time::Duration;

use tokio_postgres::{GenericClient, IsolationLevel, types::Type};
use uuid::Uuid;

use super::JobQueue;
use crate::{Error, Job, Status};

/// Jobs in the largest page there is.
const LARGEST_PAGE: i32 = 10_000;

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
    /// Only those after this job: the last one of the page before.
    pub after: Option<Uuid>,
}

impl Default for ListFilter {
    fn default() -> Self {
        ListFilter { status: None, queue: None, job_type: None, limit: 50, after: None }
    }
}
impl JobQueue {
    /// One job, or none.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, id: uuid::Uuid) -> Result<(), rowlock::Error> {
    /// if let Some(job) = queue.get_job(id).await? {
    ///     println!("{} is {}", job.job_type, job.status.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get_job(&self, id: Uuid) -> Result<Option<Job>, Error> {
        let client = self.shared.pool.get().await?;
        let rows = client.query_typed("SELECT * FROM rowlock.get_job($1)", &[(&id, Type::UUID)]).await?;
        rows.first().map(Job::from_row).transpose()
    }

    /// A page of jobs: running by start, pending in claim order, ended newest first.
    ///
    /// # Errors
    /// [`Error::Refused`] for a limit out of range.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let filter = rowlock::ListFilter { queue: Some("mail".into()), limit: 20, ..Default::default() };
    /// for job in queue.list(&filter).await? {
    ///     println!("{} {}", job.id, job.status.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<Job>, Error> {
        page(&**self.shared.pool.get().await?, filter).await
    }

    /// Jobs by status, at most `limit`.
    ///
    /// # Errors
    /// As [`JobQueue::list`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let cancelled = queue.list_jobs(Some(rowlock::Status::Cancelled), 20).await?;
    /// let any = queue.list_jobs(None, 20).await?;
    /// # Ok(()) }
    /// ```
    pub async fn list_jobs(&self, status: Option<Status>, limit: i32) -> Result<Vec<Job>, Error> {
        self.list(&ListFilter { status, limit, ..Default::default() }).await
    }

    /// All pending jobs in the order of claim.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let next = queue.get_pending_jobs().await?.into_iter().next();
    /// # Ok(()) }
    /// ```
    pub async fn get_pending_jobs(&self) -> Result<Vec<Job>, Error> {
        self.all(Status::Pending).await
    }

    /// All running jobs by start.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// for job in queue.get_running_jobs().await? {
    ///     println!("{} on {:?}", job.id, job.worker);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get_running_jobs(&self) -> Result<Vec<Job>, Error> {
        self.all(Status::Running).await
    }

    /// Completed jobs, newest first.
    ///
    /// # Errors
    /// As [`JobQueue::list`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let results: Vec<_> = queue.get_completed_jobs(10).await?.into_iter().map(|job| job.result).collect();
    /// # Ok(()) }
    /// ```
    pub async fn get_completed_jobs(&self, limit: i32) -> Result<Vec<Job>, Error> {
        self.list_jobs(Some(Status::Completed), limit).await
    }

    /// All failed jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// for job in queue.get_failed_jobs().await? {
    ///     queue.retry(job.id, std::time::Duration::ZERO).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get_failed_jobs(&self) -> Result<Vec<Job>, Error> {
        self.all(Status::Failed).await
    }

    /// All jobs of a status, page by page.
    async fn all(&self, status: Status) -> Result<Vec<Job>, Error> {
        let mut client = self.shared.pool.get().await?;
        // One snapshot: no job moves between two pages.
        let snapshot =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let mut filter = ListFilter { status: Some(status), limit: LARGEST_PAGE, ..ListFilter::default() };
        let mut all = Vec::new();
        loop {
            let jobs = page(&*snapshot, &filter).await?;
            filter.after = jobs.last().map(|job| job.id);
            let is_last = jobs.len() < filter.limit as usize;
            all.extend(jobs);
            if is_last {
                snapshot.commit().await?;
                return Ok(all);
            }
        }
    }

    /// How many jobs there are by status, from running totals. Those that ended are counted since the installation.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// for (status, jobs) in queue.counts().await? {
    ///     println!("{jobs} {}", status.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn counts(&self) -> Result<Vec<(Status, i64)>, Error> {
        let client = self.shared.pool.get().await?;
        let rows = client.query_typed("SELECT status, jobs FROM rowlock.counts()", &[]).await?;
        rows.iter().map(|row| Ok((row.try_get::<_, &str>(0)?.parse()?, row.try_get(1)?))).collect()
    }

    /// Cancels a job and answers its status now; [`Status::Running`] means that its worker was told.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, id: uuid::Uuid) -> Result<(), rowlock::Error> {
    /// if queue.cancel(id).await? == rowlock::Status::Running {
    ///     println!("its worker was told");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn cancel(&self, id: Uuid) -> Result<Status, Error> {
        self.one_word("SELECT rowlock.cancel($1)", &[(&id, Type::UUID)]).await
    }

    /// [`JobQueue::retry`] of a job that this queue does not hold.
    pub(super) async fn retry_waiting(&self, id: Uuid, delay: Duration) -> Result<Status, Error> {
        self.one_word("SELECT rowlock.retry($1, $2)", &[(&id, Type::UUID), (&delay.as_secs_f64(), Type::FLOAT8)]).await
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
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.pause_queue("mail").await?;
    /// # Ok(()) }
    /// ```
    pub async fn pause_queue(&self, queue: &str) -> Result<(), Error> {
        self.shared.pool.get().await?.query_typed("SELECT rowlock.pause_queue($1)", &[(&queue, Type::TEXT)]).await?;
        Ok(())
    }

    /// Ends [`JobQueue::pause_queue`].
    ///
    /// # Errors
    /// As there.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// queue.resume_queue("mail").await?;
    /// # Ok(()) }
    /// ```
    pub async fn resume_queue(&self, queue: &str) -> Result<(), Error> {
        self.shared.pool.get().await?.query_typed("SELECT rowlock.resume_queue($1)", &[(&queue, Type::TEXT)]).await?;
        Ok(())
    }
}

async fn page(client: &impl GenericClient, filter: &ListFilter) -> Result<Vec<Job>, Error> {
    let rows = client
        .query_typed(
            "SELECT * FROM rowlock.list_jobs($1, $2, $3, $4, $5)",
            &[
                (&filter.status.map(Status::as_str), Type::TEXT),
                (&filter.queue, Type::TEXT),
                (&filter.job_type, Type::TEXT),
                (&filter.limit, Type::INT4),
                (&filter.after, Type::UUID),
            ],
        )
        .await?;
    rows.iter().map(Job::from_row).collect()
}
