//! What a decision is made from: the demand on the queues, and the replicas there are.

use serde::{Deserialize, Serialize};

/// The demand on one type in one queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeDemand {
    /// The queue.
    pub queue: String,
    /// The job's type.
    #[serde(rename = "type")]
    pub job_type: String,
    /// Due and not claimed.
    pub pending: u64,
    /// Due before a replica ordered now could have started.
    pub scheduled_soon: u64,
    /// Claimed and not ended.
    pub running: u64,
    /// How long the oldest pending job has been due.
    pub oldest_age_seconds: f64,
    /// How long the running jobs have been running, on average. What is running already can be far longer than
    /// an average job.
    pub running_age_seconds: Option<f64>,
    /// Jobs a second that ended, over 10 seconds.
    pub ended_10s: Option<f64>,
    /// Jobs a second that became due, over 10 seconds.
    pub rate_10s: f64,
    /// Jobs a second that became due, over 60 seconds.
    pub rate_60s: f64,
    /// A job's time: the mean of many, for few jobs' mean is chance.
    pub service_seconds: Option<f64>,
    /// A job's time, declared as `expected` of its type; used until one was measured.
    pub expected_seconds: Option<f64>,
}

/// The demand on all queues of one Deployment, and the state of the database it was read from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// By queue and type.
    pub types: Vec<TypeDemand>,
    /// The age of the database's oldest transaction.
    pub oldest_transaction_seconds: Option<f64>,
    /// What the database can still take.
    pub connections: Option<Connections>,
}

/// The database's connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many more it accepts.
    pub free: u32,
    /// How many a replica opens.
    pub per_replica: u32,
}

/// The replicas there are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// What the scale target is set to.
    pub replicas: u32,
    /// Of these, the ones whose worker claims jobs.
    pub ready: u32,
    /// How long ago each of those was ordered that have not started yet.
    pub starting_seconds: Vec<f64>,
    /// Of those, the ones no node has room for.
    pub unschedulable: u32,
    /// How long a replica takes from its order to its first claim: measured, a high quantile.
    pub start_seconds: Option<f64>,
    /// Slots that a worker reports.
    pub slots: Option<u32>,
}

impl TypeDemand {
    /// What a job takes: measured, or else declared.
    pub(crate) fn service(&self) -> Option<f64> {
        self.service_seconds.or(self.expected_seconds)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.pending + self.scheduled_soon
    }
}

impl Demand {
    /// Claimed and not ended, over all types.
    pub fn running(&self) -> u64 {
        self.types.iter().map(|t| t.running).sum()
    }

    /// Due and not claimed, over all types.
    pub fn pending(&self) -> u64 {
        self.types.iter().map(|t| t.pending).sum()
    }

    /// How long the oldest pending job has been due.
    pub fn oldest_age_seconds(&self) -> f64 {
        self.types.iter().filter(|t| t.pending > 0).map(|t| t.oldest_age_seconds).fold(0.0, f64::max)
    }
}
