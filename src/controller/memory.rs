//! What is remembered of one Deployment from turn to turn; which decisions become rows.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    decision::Decision,
    demand::Current,
    history::History,
    limits::Limits,
    observe::WorkerRow,
    scale_in::ScaleIn,
    target::{Replica, Scaled},
};

/// A decision that stays the same is stored so often.
const UNCHANGED: TimeDelta = TimeDelta::seconds(10);
/// Steps are limited over less than that, whatever the delay is.
const LEAST_KEPT: Duration = Duration::from_secs(60);
/// Starts remembered.
const STARTS: usize = 20;

#[derive(Default)]
pub(super) struct Memory {
    pub history: History,
    pub scale_in: ScaleIn,
    stored: Option<Decision>,
    /// Replicas whose worker has been seen.
    started: HashMap<String, Instant>,
    looked: bool,
    /// How long the last ones took to start.
    starts: VecDeque<f64>,
}

/// How long history is kept for these limits.
pub(super) fn kept(limits: &Limits) -> Duration {
    limits.scale_down_delay.max(LEAST_KEPT)
}

impl Memory {
    /// The replicas as `decide` wants them, and the workers in them.
    pub(super) fn current(&mut self, scaled: &Scaled, workers: &[WorkerRow]) -> Current {
        let first = !std::mem::replace(&mut self.looked, true);
        let by_key: HashMap<&str, &WorkerRow> = workers.iter().rev().map(|w| (w.key(), w)).collect();
        let of = |replica: &Replica| by_key.get(replica.key.as_str());
        let keys: HashSet<&str> = scaled.replicas.iter().map(|r| r.key.as_str()).collect();
        self.started.retain(|key, _| keys.contains(key.as_str()));
        let mut current = Current { unschedulable: scaled.unschedulable, ..Current::default() };
        for replica in &scaled.replicas {
            match of(replica) {
                Some(worker) => {
                    // One that was there at the first look started at an unknown time.
                    if self.started.insert(replica.key.clone(), Instant::now()).is_none() && !first {
                        self.starts.push_back(replica.ordered.elapsed().as_secs_f64());
                        if self.starts.len() > STARTS {
                            self.starts.pop_front();
                        }
                    }
                    current.slots = Some(current.slots.map_or(worker.slots, |s| s.min(worker.slots)));
                    // On its way out: as good as gone.
                    if !worker.draining {
                        current.ready += 1;
                        current.replicas += 1;
                    }
                }
                // Its worker was here, and has lost its lease: it comes back, or it ends.
                None if self.started.contains_key(&replica.key) => current.replicas += 1,
                None => {
                    current.replicas += 1;
                    current.starting_seconds.push(replica.ordered.elapsed().as_secs_f64());
                }
            }
        }
        current.start_seconds = self.start_seconds();
        current
    }

    /// A new leader knows what was needed at most, and not when: it counts from now on, and until a whole window was
    /// seen nothing is taken away.
    pub(super) fn restore(&mut self, now: DateTime<Utc>, highest: Option<f64>, replicas: u32, limits: &Limits) {
        let keep = TimeDelta::from_std(kept(limits)).unwrap_or(TimeDelta::MAX);
        if let Some(highest) = highest {
            self.history.add(now, highest, replicas, keep);
        }
    }

    /// How long a replica takes to start, as far as it is known.
    pub(super) fn start_seconds(&self) -> Option<f64> {
        high(&self.starts)
    }

    pub(super) fn remember(&mut self, decision: &Decision, limits: &Limits) {
        self.history.remember(decision, TimeDelta::from_std(kept(limits)).unwrap_or(TimeDelta::MAX));
    }

    /// Whether it says anything that the last stored one did not.
    pub(super) fn is_news(&self, decision: &Decision) -> bool {
        self.stored.as_ref().is_none_or(|s| {
            let need = |d: &Decision| d.need_slots.unwrap_or_default();
            (s.current, s.wanted, s.reason, s.clamp) != (decision.current, decision.wanted, decision.reason, decision.clamp)
                // A peak that a new leader has to know of.
                || need(decision) > need(s) * 1.1
                || decision.at - s.at >= UNCHANGED
        })
    }

    pub(super) fn stored(&mut self, decision: &Decision) {
        self.stored = Some(decision.clone());
    }
}

/// Nine in ten are no higher.
fn high(starts: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = starts.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 9).div_ceil(10).checked_sub(1)?).copied()
}

/// A decision as a row of `rowlock.decisions`.
pub(super) fn row(deployment: &str, decision: &Decision) -> Result<Value, serde_json::Error> {
    let mut inputs = serde_json::to_value(&decision.inputs)?;
    inputs["term"] = json!(decision.term);
    inputs["clamp"] = json!(decision.clamp);
    inputs["need_slots"] = json!(decision.need_slots);
    inputs["dry_run"] = json!(decision.dry_run);
    Ok(json!({
        "at": decision.at, "deployment": deployment, "current": decision.current, "wanted": decision.wanted,
        "reason": decision.reason, "inputs": inputs,
    }))
}

impl Decision {
    /// From a row of `rowlock.decisions`, as an object.
    ///
    /// # Errors
    /// If it was stored by a version that knows other reasons.
    pub fn from_row(mut row: Value) -> Result<Decision, serde_json::Error> {
        for key in ["term", "clamp", "need_slots", "dry_run"] {
            row[key] = row["inputs"][key].take();
        }
        serde_json::from_value(row)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::controller::{Demand, Reason, TypeDemand, decide};

    fn decision(pending: u64) -> Decision {
        let t = TypeDemand { pending, expected_seconds: Some(1.0), ..TypeDemand::default() };
        let demand = Demand { types: vec![t], ..Demand::default() };
        let limits = Limits::new(vec!["a".into()]);
        decide(Some(&demand), &limits, &Current::default(), &History::default(), Utc::now())
    }

    #[test]
    fn a_decision_comes_back_from_its_row_whole() {
        let before = decision(600);
        assert_eq!(before.reason, Reason::Pickup);
        assert_eq!(Decision::from_row(row("d", &before).unwrap()).unwrap(), before);
    }

    #[test]
    fn what_is_news_is_stored_and_the_same_again_only_now_and_then() {
        let mut memory = Memory::default();
        let first = decision(600);
        assert!(memory.is_news(&first));
        memory.stored(&first);
        let mut next = Decision { at: first.at + TimeDelta::seconds(9), ..first.clone() };
        assert!(!memory.is_news(&next));
        next.need_slots = first.need_slots.map(|n| n * 1.2);
        assert!(memory.is_news(&next), "a peak");
        assert!(memory.is_news(&Decision { at: first.at + TimeDelta::seconds(10), ..first.clone() }));
        assert!(memory.is_news(&Decision { wanted: first.wanted + 1, ..first }));
    }

    fn replica(key: &str) -> Replica {
        Replica { key: key.into(), ordered: Instant::now() }
    }

    #[test]
    fn replicas_are_ready_with_their_worker_starting_before_and_gone_once_they_drain() {
        let worker = |key: &str, draining| WorkerRow {
            id: uuid::Uuid::now_v7(),
            identity: format!("{key}/1/2"),
            slots: 4,
            draining,
            running: 0,
        };
        let scaled = Scaled {
            name: "d".into(),
            limits: Ok(Limits::new(vec!["a".into()])),
            replicas: ["a", "b", "c"].map(replica).to_vec(),
            unschedulable: 0,
        };
        let mut memory = Memory::default();
        memory.current(&scaled, &[]);
        let current = memory.current(&scaled, &[worker("a", false), worker("b", true), worker("x", false)]);
        assert_eq!((current.replicas, current.ready, current.slots), (2, 1, Some(4)));
        assert_eq!(current.starting_seconds.len(), 1);
        assert!(current.start_seconds.is_some());
        let without = memory.current(&scaled, &[]);
        assert_eq!((without.replicas, without.ready, without.starting_seconds.len()), (3, 0, 1), "a and b had started");
    }
}
