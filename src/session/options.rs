//! The options of a worker, its failures, and the answers that it gets.

use std::time::{Duration, Instant};

use tokio_postgres::Row;
use uuid::Uuid;

use crate::{Error, Reason};

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
    /// The text that people read.
    pub error: String,
    /// Whether another attempt makes sense.
    pub retryable: bool,
    /// For counting.
    pub reason: Reason,
}

impl Failure {
    /// A failure for which another attempt makes no sense.
    ///
    /// ```
    /// assert!(!rowlock::Failure::permanent("no such customer").retryable);
    /// ```
    pub fn permanent(error: impl Into<String>) -> Self {
        Failure { retryable: false, ..Failure::new(error) }
    }

    /// A failure to be retried, for the reason `error`.
    ///
    /// ```
    /// let f = rowlock::Failure::new("the mail server said no");
    /// assert!(f.retryable);
    /// ```
    pub fn new(error: impl Into<String>) -> Self {
        Failure::of(Reason::Error, true, error)
    }

    pub(crate) fn of(reason: Reason, retryable: bool, error: impl Into<String>) -> Failure {
        Failure { error: error.into(), retryable, reason }
    }
}

/// Any error that has a text is a failure to be retried, for the reason `error`: so handlers return errors of any kind,
/// and `?` works in one that returns a `Failure`.
impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(error.to_string())
    }
}

/// The answer to a heartbeat.
#[derive(Debug)]
pub struct HeartbeatAnswer {
    /// When the lease ends by this process's monotonic clock, counted from before the question was sent:
    /// never later than the database thinks.
    pub deadline: Instant,
    /// The worker is to stop claiming.
    pub draining: bool,
    /// Running jobs of this worker that somebody cancelled.
    pub cancelled: Vec<Uuid>,
}

/// The effects of one round of maintenance.
#[derive(Debug, Clone, Copy)]
pub struct Maintained {
    /// Whether this worker is the keeper now.
    pub keeper: bool,
    /// Jobs whose time had come.
    pub promoted: i32,
    /// Jobs put back from lost workers.
    pub rescued: i32,
    /// The time until a job is due or a lease ends, if the keeper knows of one.
    pub next_due: Option<Duration>,
}

impl Maintained {
    /// One round for a holder, and how its answer is read.
    pub(crate) const SQL: &str = "SELECT keeper, promoted, rescued, next_due_seconds FROM rowlock.maintain_v1($1)";

    pub(crate) fn read(row: &Row) -> Result<Maintained, Error> {
        let next_due: Option<f64> = row.try_get(3)?;
        Ok(Maintained {
            keeper: row.try_get(0)?,
            promoted: row.try_get(1)?,
            rescued: row.try_get(2)?,
            next_due: next_due.map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)),
        })
    }
}
