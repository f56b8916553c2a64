//! The replicas and the jobs that wait, second by second.

use serde::Serialize;

/// One second of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Seconds from the start.
    pub at: f64,
    /// Replicas that are paid for: starting, ready, and still there.
    pub replicas: u32,
    /// Jobs waiting.
    pub waiting: u32,
}
