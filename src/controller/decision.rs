//! The answer: a number of replicas, and the reason.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::demand::{Connections, Current, Demand, TypeDemand};

/// The reason of a decision. The names are those of the metrics and of `rowlock.decisions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// `pin-replicas` says so.
    Pinned,
    /// The demand could not be read: nothing changes.
    DemandUnknown,
    /// More: jobs that wait would wait too long.
    Pickup,
    /// More: jobs arrive faster than so few can take.
    Steady,
    /// More: a type's time is not known yet and its jobs wait.
    Probe,
    /// More: `jobs-per-replica` jobs and above are there for each.
    Backlog,
    /// More were needed, and a clamp allows none.
    AtLimit,
    /// Raised to `min-replicas`.
    BelowMin,
    /// Lowered to `max-replicas`.
    AboveMax,
    /// As many as are needed.
    Enough,
    /// Fewer would do, but not for the highest need within `scale-down-delay`.
    ScaleDownDelay,
    /// Fewer would do, but what was needed within `scale-down-delay` was not seen.
    AfterRestart,
    /// Fewer would do, but a job waits for longer than `target-wait`.
    Late,
    /// Fewer would do only just: they would soon be ordered again.
    Deadband,
    /// Fewer would do, but so many are needed for the jobs that run.
    RunningWork,
    /// Fewer would do, but a rollout of the Deployment goes on: then its own controller chooses which Pods go.
    Rollout,
    /// Fewer would do, but the API server is away: workers that drain meanwhile would do nothing.
    TargetAway,
    /// Fewer.
    ScaleIn,
    /// None: nothing is pending, runs or arrives.
    ToZero,
}

/// A reason of the target for which it can take no replica away now. Each has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// A rollout goes on. It holds for ten minutes at most, and not at all while the rollout is paused.
    Rollout,
    /// The API server did not answer a moment ago. It holds until the next call, two seconds later.
    TargetAway,
}

/// The part of the demand that asks for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// Jobs arriving, by the work they bring.
    Steady,
    /// Jobs waiting and running, to be picked up in time.
    Pickup,
    /// Jobs of a type whose time is not known.
    Probe,
    /// Jobs by number: `jobs-per-replica`.
    Backlog,
    /// Too little to be counted in slots, but more than nothing.
    Arriving,
}

/// The bound that kept the number from the needed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clamp {
    /// `min-replicas`.
    MinReplicas,
    /// `max-replicas`.
    MaxReplicas,
    /// No more than so many come or go at once.
    StepRate,
    /// Replicas ordered before have no node yet.
    Unschedulable,
    /// The database has no connections for more.
    ConnectionBudget,
    /// The database has a transaction so old that more workers would slow each other down.
    OldTransaction,
    /// The jobs that run.
    RunningWork,
}

/// A number of replicas with its reason: a row of `rowlock.decisions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The time of the decision.
    pub at: DateTime<Utc>,
    /// Replicas before.
    pub current: u32,
    /// Replicas from now on.
    pub wanted: u32,
    /// The reason.
    pub reason: Reason,
    /// The part of the demand that asked for most; none where nothing did.
    pub term: Option<Term>,
    /// The bound that kept the number from the needed one.
    pub clamp: Option<Clamp>,
    /// The present need, in slots; none where it was not worked out.
    pub need_slots: Option<f64>,
    /// The decision is only recorded, not carried out.
    pub dry_run: bool,
    /// The facts behind it.
    pub inputs: Inputs,
}

/// The facts behind a decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Jobs that a replica runs at once.
    pub slots: u32,
    /// The bounds.
    pub min_replicas: u32,
    /// The bounds.
    pub max_replicas: u32,
    /// The objective, where there is one.
    pub target_wait_seconds: Option<f64>,
    /// The backlog rule, where it is used.
    pub jobs_per_replica: Option<u32>,
    /// The highest need holds this long.
    pub scale_down_delay_seconds: f64,
    /// The work that arrives, in slots.
    pub load_slots: f64,
    /// Slots for what arrives.
    pub steady_slots: f64,
    /// Slots for what waits and runs.
    pub pickup_slots: f64,
    /// The highest need within `scale-down-delay`, in slots.
    pub recent_slots: f64,
    /// Jobs pending, over all types.
    pub pending: u64,
    /// Jobs due soon, over all types.
    pub scheduled_soon: u64,
    /// Jobs running, over all types.
    pub running: u64,
    /// The oldest pending job has been due this long.
    pub oldest_age_seconds: f64,
    /// Jobs a second that became due, over a minute.
    pub rate_60s: f64,
    /// The age of the database's oldest transaction.
    pub oldest_transaction_seconds: Option<f64>,
    /// The database's connections.
    pub connections: Option<Connections>,
    /// The replicas.
    pub replicas: Current,
    /// The part of the queues' demand that this Deployment takes, from 0 to 1; none if no other Deployment serves them.
    pub share: Option<f64>,
    /// The types in short: the first [`TYPES_KEPT`](Self::TYPES_KEPT) of those with demand.
    pub types: Vec<TypeDemand>,
    /// The number of further types.
    pub types_left_out: usize,
}

impl Decision {
    /// Holds a scale-in back that the target cannot carry out now.
    pub(crate) fn hold_back(&mut self, hold: Hold) {
        if self.wanted < self.current {
            self.wanted = self.current;
            self.clamp = None;
            self.reason = match hold {
                Hold::Rollout => Reason::Rollout,
                Hold::TargetAway => Reason::TargetAway,
            };
        }
    }
}

impl Inputs {
    /// A decision is stored every time it changes: hundreds of types would make it long.
    pub const TYPES_KEPT: usize = 20;

    pub(crate) fn observe(&mut self, demand: &Demand) {
        self.pending = demand.pending();
        self.scheduled_soon = demand.types.iter().map(|t| t.scheduled_soon).sum();
        self.running = demand.running();
        self.oldest_age_seconds = demand.oldest_age_seconds();
        self.rate_60s = demand.types.iter().map(|t| t.rate_60s).sum();
        self.oldest_transaction_seconds = demand.oldest_transaction_seconds;
        self.connections = demand.connections;
        let mut types = demand.types.iter().filter(|t| t.waiting() + t.running > 0 || t.rate_60s > 0.0);
        self.types = types.by_ref().take(Self::TYPES_KEPT).cloned().collect();
        self.types_left_out = types.count();
    }
}

impl Reason {
    /// The name, as in metrics.
    pub fn name(self) -> String {
        // An enum without fields has its name as a string: this cannot fail.
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}
