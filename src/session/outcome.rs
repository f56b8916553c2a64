//! How an attempt ended, and how the database answered.

use std::time::Duration;

use serde_json::value::RawValue;

use super::Failure;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Completed(Option<Box<RawValue>>),
    Failed(Failure),
    /// The attempt was stopped before its end. The job goes back, and no attempt is consumed.
    Released,
    /// The job goes back by no fault of its own and no attempt is consumed, perhaps after a pause; the text says why.
    HandedBack {
        after: Option<Duration>,
        error: String,
    },
    /// Somebody wants another attempt after this pause; it counts as a retry.
    Retried {
        after: Duration,
    },
}

/// The answer of the database to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Completed,
    /// A retry waits for its time.
    Retried,
    Failed,
    Cancelled,
    Released,
    /// The job is not this worker's any more.
    LeaseLost,
    /// The first call took effect and its answer was lost: the attempt has failed, and the job is wherever that led.
    FailedUnheard,
    /// Postgres could not store the result, so the attempt failed instead; true if it is retried.
    ResultRefused {
        retried: bool,
    },
}
