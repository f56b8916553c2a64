//! The settings of a simulation.

use std::time::Duration;

/// The seed, the objective and the replicas of a simulation.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of everything that is random.
    pub seed: u64,
    /// The objective: how long a ready job may wait.
    pub target_wait: Duration,
    /// Never more replicas.
    pub max_replicas: u32,
    /// Jobs a replica runs at once.
    pub slots: u32,
    /// How long `decide` holds the highest need.
    pub scale_down_delay: Duration,
    /// From the order of a replica to its first claim; each takes a quarter more or less.
    pub pod_start: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            target_wait: Duration::from_secs(5),
            max_replicas: 50,
            slots: 10,
            scale_down_delay: Duration::from_secs(60),
            pod_start: Duration::from_secs(2),
        }
    }
}
