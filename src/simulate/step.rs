//! The replicas and the jobs that wait, second by second.

use serde::Serialize;

/// The state of a simulation in one second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Seconds from the start.
    pub at: f64,
    /// Replicas that are paid for: starting, ready, and still there.
    pub replicas: u32,
    /// Jobs waiting.
    pub waiting: u32,
}
