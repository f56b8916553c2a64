//! The facts behind a decision: the demand on the queues, and the replicas.

use serde::{Deserialize, Serialize};

/// The demand on one type in one queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeDemand {
    /// The queue.
    pub queue: String,
    /// The job's type.
    #[serde(rename = "type")]
    pub job_type: String,
    /// Jobs that are due and not claimed.
    pub pending: u64,
    /// Jobs that become due before a replica that is ordered now could have started.
    pub scheduled_soon: u64,
    /// Jobs that are claimed and have not ended.
    pub running: u64,
    /// The oldest pending job has been due this long.
    pub oldest_age_seconds: f64,
    /// The running jobs have run this long, on average. They can be far longer than an average job.
    pub running_age_seconds: Option<f64>,
    /// Jobs a second that ended, over 10 seconds.
    pub ended_10s: Option<f64>,
    /// Jobs a second that became due, over 10 seconds.
    pub rate_10s: f64,
    /// Jobs a second that became due, over 60 seconds.
    pub rate_60s: f64,
    /// The time of a job: the mean of many, since the mean of few is chance.
    pub service_seconds: Option<f64>,
    /// The time of a job as its type declares it (`expected`). It is used until one was measured.
    pub expected_seconds: Option<f64>,
}

/// The demand on all queues of one Deployment, and the state of the database it was read from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// The demand by queue and type.
    pub types: Vec<TypeDemand>,
    /// The age of the database's oldest transaction.
    pub oldest_transaction_seconds: Option<f64>,
    /// The connections that the database can still take.
    pub connections: Option<Connections>,
}

/// The database's connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// The database accepts so many more.
    pub free: u32,
    /// A replica opens so many.
    pub per_replica: u32,
}

/// The replicas that exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// The size that the Deployment is set to.
    pub replicas: u32,
    /// The replicas whose worker claims jobs.
    pub ready: u32,
    /// For each replica that has not started yet: the time since its order.
    pub starting_seconds: Vec<f64>,
    /// The replicas among those that no node has room for.
    pub unschedulable: u32,
    /// The time from the order of a replica to its first claim: a high quantile of the measured ones.
    pub start_seconds: Option<f64>,
    /// Slots that a worker reports.
    pub slots: Option<u32>,
}

impl TypeDemand {
    /// The time of a job: the measured one, or else the declared one.
    pub(crate) fn service(&self) -> Option<f64> {
        self.service_seconds.or(self.expected_seconds)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.pending + self.scheduled_soon
    }
}

impl Demand {
    /// Jobs that are claimed and have not ended, over all types.
    pub fn running(&self) -> u64 {
        self.types.iter().map(|t| t.running).sum()
    }

    /// Jobs that are due and not claimed, over all types.
    pub fn pending(&self) -> u64 {
        self.types.iter().map(|t| t.pending).sum()
    }

    /// The oldest pending job has been due this long.
    pub fn oldest_age_seconds(&self) -> f64 {
        self.types.iter().filter(|t| t.pending > 0).map(|t| t.oldest_age_seconds).fold(0.0, f64::max)
    }
}
