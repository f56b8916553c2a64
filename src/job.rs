//! A job as the queue shows it. Its rooms: `new`, a job to enqueue; `claimed`, a job that a worker holds; `holds`, the
//! list of all that a worker holds.

pub(crate) mod claimed;
pub(crate) mod holds;
mod new;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio_postgres::Row;
use uuid::Uuid;

pub use self::{claimed::ClaimedJob, new::NewJob};
use crate::Error;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// The word used in SQL and on the command line.
    ///
    /// ```
    /// assert_eq!(rowlock::Status::Pending.as_str(), "pending");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// Whether a job stays so: completed, failed or cancelled.
    ///
    /// ```
    /// assert!(rowlock::Status::Failed.is_terminal());
    /// ```
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }
}

impl std::str::FromStr for Status {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        Ok(match s {
            "pending" => Status::Pending,
            "running" => Status::Running,
            "completed" => Status::Completed,
            "failed" => Status::Failed,
            "cancelled" => Status::Cancelled,
            other => {
                return Err(Error::Config(format!(
                    "status: expected pending, running, completed, failed or cancelled, got {other}"
                )));
            }
        })
    }
}

/// A job as the queue shows it: a row of `rowlock.jobs`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Job {
    pub id: Uuid,
    #[serde(rename = "type")]
    pub job_type: String,
    pub queue: String,
    pub payload: Box<RawValue>,
    pub status: Status,
    pub priority: i16,
    /// Retries consumed so far: 0 during the first run.
    pub attempts: i16,
    pub max_retries: i16,
    pub execute_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub result: Option<Box<RawValue>>,
    /// The worker's name, for people.
    pub worker: Option<String>,
    pub unique_key: Option<String>,
    pub tags: Option<Value>,
    pub headers: Option<Value>,
    pub progress: Option<Value>,
}

impl Job {
    /// A job that was claimed just now by the worker of this name.
    pub(crate) fn running(claimed: &ClaimedJob, worker: &str) -> Job {
        let opt = |key: &str| claimed.opts.as_ref().and_then(|opts| opts.get(key)).cloned();
        Job {
            id: claimed.id,
            job_type: claimed.job_type.clone(),
            queue: claimed.queue.clone(),
            payload: claimed.payload.clone(),
            status: Status::Running,
            priority: claimed.priority,
            attempts: claimed.attempts,
            max_retries: claimed.max_retries,
            execute_at: claimed.execute_at,
            created_at: claimed.created_at,
            updated_at: claimed.claimed_at,
            started_at: Some(claimed.claimed_at),
            finished_at: None,
            error: claimed.error.clone(),
            result: None,
            worker: Some(worker.to_owned()),
            unique_key: claimed.unique_key.clone(),
            tags: opt("tags"),
            headers: opt("headers"),
            progress: None,
        }
    }

    /// The payload as a type of yours.
    ///
    /// # Errors
    /// [`Error::Json`] if the payload does not fit the type.
    ///
    /// ```no_run
    /// # fn f(job: &rowlock::Job) -> Result<(), rowlock::Error> {
    /// #[derive(serde::Deserialize)]
    /// struct SendEmail { to: String }
    /// let email: SendEmail = job.payload_as()?;
    /// # Ok(()) }
    /// ```
    pub fn payload_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get()).map_err(|source| Error::Json { what: "payload", source })
    }

    pub(crate) fn from_row(row: &Row) -> Result<Job, Error> {
        Ok(Job {
            id: row.try_get("id")?,
            job_type: row.try_get("type")?,
            queue: row.try_get("queue")?,
            payload: raw(row, "payload")?.unwrap_or_else(empty_object),
            status: row.try_get::<_, &str>("status")?.parse()?,
            priority: row.try_get("priority")?,
            attempts: row.try_get("attempts")?,
            max_retries: row.try_get("max_retries")?,
            execute_at: row.try_get("execute_at")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            error: row.try_get("error")?,
            result: raw(row, "result")?,
            worker: row.try_get("worker")?,
            unique_key: row.try_get("unique_key")?,
            tags: row.try_get("tags")?,
            headers: row.try_get("headers")?,
            progress: row.try_get("progress")?,
        })
    }
}

/// The answer to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The job's id: the new one's, or that of the job which holds the unique key.
    pub id: Uuid,
    /// False if a pending or running job holds the unique key.
    pub inserted: bool,
}

/// jsonb as it is, without building a tree of it.
pub(crate) fn raw<I: tokio_postgres::row::RowIndex + std::fmt::Display>(
    row: &Row,
    column: I,
) -> Result<Option<Box<RawValue>>, Error> {
    Ok(row.try_get::<_, Option<tokio_postgres::types::Json<Box<RawValue>>>>(column)?.map(|j| j.0))
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("an empty object is JSON")
}
