//! A job that a worker holds.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::holds::Hold;
use crate::Error;

/// A job that this worker holds. The job is an owned value: to complete, fail or release it consumes the value, so a
/// job cannot be ended twice. A value that is dropped without an end goes back to the queue with the worker's next
/// heartbeat, and no attempt is consumed.
#[derive(Debug)]
pub struct ClaimedJob {
    /// The job's id.
    pub id: Uuid,
    /// The job's type.
    pub job_type: String,
    /// The queue in which the job waited.
    pub queue: String,
    /// The job's arguments: a JSON object, unparsed.
    pub payload: Box<RawValue>,
    /// Higher priorities go first.
    pub priority: i16,
    /// Retries consumed so far: 0 during the first run.
    pub attempts: i16,
    /// How many retries there may be.
    pub max_retries: i16,
    /// When the job was enqueued.
    pub created_at: DateTime<Utc>,
    /// When the job became due.
    pub execute_at: DateTime<Utc>,
    /// When this worker claimed the job.
    pub claimed_at: DateTime<Utc>,
    /// The unique key that the job holds while it is pending or running.
    pub unique_key: Option<String>,
    /// The error of the attempt before.
    pub error: Option<String>,
    /// `tags`, `headers`, `timeout_seconds`, if any were given.
    pub opts: Option<Value>,
    pub(crate) worker: Uuid,
    /// The job has lost two workers: an engine runs it alone.
    pub(crate) suspect: bool,
    pub(crate) hold: Hold,
}

impl ClaimedJob {
    /// The number of the receipt.
    pub(crate) fn receipt(&self) -> i64 {
        self.hold.receipt()
    }

    /// The lease as a text with which a job can fence its own effects: the worker's id, a slash, the number of the
    /// receipt. These are the first two arguments of `rowlock.complete_v1`.
    ///
    /// ```no_run
    /// # async fn f(job: rowlock::ClaimedJob) { println!("{}", job.lease()); }
    /// ```
    pub fn lease(&self) -> String {
        format!("{}/{}", self.worker, self.receipt())
    }

    /// The payload as a type of yours.
    ///
    /// # Errors
    /// [`Error::Json`] if the payload does not fit the type.
    ///
    /// ```no_run
    /// # fn f(job: &rowlock::ClaimedJob) -> Result<(), rowlock::Error> {
    /// #[derive(serde::Deserialize)]
    /// struct SendEmail { to: String }
    /// let email: SendEmail = job.payload_as()?;
    /// # Ok(()) }
    /// ```
    pub fn payload_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get()).map_err(|source| Error::Json { what: "payload", source })
    }

    /// The job's own timeout, if it was given one.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let seconds = self.opts.as_ref()?.get("timeout_seconds")?.as_f64()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::holds::Holds;

    /// A job that nobody has claimed.
    pub(crate) fn job(id: u128) -> ClaimedJob {
        let id = Uuid::from_u128(id);
        ClaimedJob {
            id,
            job_type: "t".into(),
            queue: "q".into(),
            payload: RawValue::from_string("{\"secret\": 1}".into()).unwrap(),
            priority: 5,
            attempts: 2,
            max_retries: 3,
            created_at: DateTime::UNIX_EPOCH,
            execute_at: DateTime::UNIX_EPOCH,
            claimed_at: DateTime::UNIX_EPOCH,
            unique_key: None,
            error: None,
            opts: None,
            worker: Uuid::from_u128(9),
            suspect: false,
            hold: Arc::new(Holds::default()).hold(4, id),
        }
    }
}
