//! The options of a measurement, and what all of its parts share.

use std::time::Duration;

use serde_json::{Value, json};

/// How to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Jobs waiting throughout, in the measurement with a backlog. 0: without it.
    pub backlog: u64,
    /// Jobs per call.
    pub batch: usize,
    /// Clients at once.
    pub clients: usize,
    /// How long each side of a ratio is measured, in all.
    pub time: Duration,
    /// How long a transaction is held open, in the measurement with an old one. 0: without it.
    pub old_transaction: Duration,
    /// Jobs a second offered beside it.
    pub rate: u64,
}

/// The two sides of a ratio take turns of this length.
pub(super) const SLICE: Duration = Duration::from_secs(1);

/// The payload of every job.
pub(super) fn payload() -> Value {
    json!({"user": "u-8132", "tmpl": "welcome", "pad": "a".repeat(52)})
}
