//! The settings of a simulation.

use std::time::Duration;

use crate::controller::limits::{DEFAULT_SCALE_DOWN_DELAY, DEFAULT_SLOTS, DEFAULT_TARGET_WAIT};

/// The settings of a simulation: its seed, the objective and the replicas.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The objective: how long a ready job may wait.
    pub target_wait: Duration,
    /// There are never more replicas.
    pub max_replicas: u32,
    /// A replica runs so many jobs at once.
    pub slots: u32,
    /// `decide` holds the highest need for this time.
    pub scale_down_delay: Duration,
    /// The time from the order of a replica to its first claim; each takes a quarter more or less.
    pub pod_start: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            target_wait: DEFAULT_TARGET_WAIT,
            max_replicas: 50,
            slots: DEFAULT_SLOTS,
            scale_down_delay: DEFAULT_SCALE_DOWN_DELAY,
            pod_start: Duration::from_secs(2),
        }
    }
}
