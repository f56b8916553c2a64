//! The memory of one Deployment between reconciliations, and the choice of decisions that become rows.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    decision::Decision, demand::Current, history::History, limits::Limits, observe::Workers, scale_in::ScaleIn,
    target::Scaled,
};
use crate::Error;

/// A decision that stays the same is stored this often.
const STORE_UNCHANGED_EVERY: TimeDelta = TimeDelta::seconds(10);
/// History reaches back at least this far, whatever the delay is: steps are limited over less.
const MIN_WINDOW: Duration = Duration::from_secs(60);
/// A Deployment whose replicas could not be ordered leaves the work of shared queues to others for this time.
const GROW_RETRY: Duration = Duration::from_secs(60);
/// So many starts are remembered.
const STARTS_REMEMBERED: usize = 20;

#[derive(Default)]
pub(super) struct Memory {
    pub history: History,
    pub scale_in: ScaleIn,
    /// No replica could be ordered, the last time at this instant.
    grow_failed: Option<Instant>,
    stored: Option<Decision>,
    /// Replicas whose worker has been seen, and when.
    started: HashMap<String, Instant>,
    observed: bool,
    /// The last start times, in seconds.
    starts: VecDeque<f64>,
}

/// History reaches back this far under these limits.
pub(super) fn window(limits: &Limits) -> Duration {
    limits.scale_down_delay.max(MIN_WINDOW)
}

impl Memory {
    /// Counts the replicas and the workers in them, as `decide` takes them.
    pub(super) fn current(&mut self, scaled: &Scaled, workers: &Workers<'_>) -> Current {
        let first = !std::mem::replace(&mut self.observed, true);
        let keys: HashSet<&str> = scaled.replicas.iter().map(|r| r.key.as_str()).collect();
        self.started.retain(|key, _| keys.contains(key.as_str()));
        let mut current = Current { unschedulable: scaled.unschedulable, ..Current::default() };
        for replica in &scaled.replicas {
            match workers.of(&replica.key).first() {
                Some(worker) => {
                    // A worker that was there at the first observation started at an unknown time.
                    if self.started.insert(replica.key.clone(), Instant::now()).is_none() && !first {
                        self.starts.push_back(replica.ordered.elapsed().as_secs_f64());
                        if self.starts.len() > STARTS_REMEMBERED {
                            self.starts.pop_front();
                        }
                    }
                    current.slots = Some(current.slots.map_or(worker.slots, |s| s.min(worker.slots)));
                    // A replica whose worker drains does not count any more.
                    if !worker.draining {
                        current.ready += 1;
                        current.replicas += 1;
                    }
                }
                // Its worker has lost its lease: it registers anew, or the replica ends.
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

    /// Gives a new leader the highest need of before. It is not known when that was, so it counts from now on, and
    /// nothing is taken away until a whole window was seen.
    pub(super) fn restore(&mut self, now: DateTime<Utc>, highest: Option<f64>, replicas: u32, limits: &Limits) {
        let keep = TimeDelta::from_std(window(limits)).unwrap_or(TimeDelta::MAX);
        if let Some(highest) = highest {
            self.history.add(now, highest, replicas, keep);
        }
    }

    /// The time that a replica takes to start, in seconds; none until it was measured.
    pub(super) fn start_seconds(&self) -> Option<f64> {
        high(&self.starts)
    }

    /// Notes whether replicas could be ordered.
    pub(super) fn grown(&mut self, ordered: bool) {
        self.grow_failed = (!ordered).then(Instant::now);
    }

    /// Whether more replicas can be had, as far as it is known.
    pub(super) fn may_grow(&self) -> bool {
        self.grow_failed.is_none_or(|at| at.elapsed() > GROW_RETRY)
    }

    pub(super) fn remember(&mut self, decision: &Decision, limits: &Limits) {
        self.history.remember(decision, TimeDelta::from_std(window(limits)).unwrap_or(TimeDelta::MAX));
    }

    /// Whether the decision says anything that the last stored one did not.
    pub(super) fn is_news(&self, decision: &Decision) -> bool {
        self.stored.as_ref().is_none_or(|s| {
            let need = |d: &Decision| d.need_slots.unwrap_or_default();
            (s.current, s.wanted, s.reason, s.clamp)
                != (decision.current, decision.wanted, decision.reason, decision.clamp)
                // A new leader has to know of a peak.
                || need(decision) > need(s) * 1.1
                || decision.at - s.at >= STORE_UNCHANGED_EVERY
        })
    }

    pub(super) fn stored(&mut self, decision: &Decision) {
        self.stored = Some(decision.clone());
    }
}

/// The ninth of ten, in order: nine in ten are no higher.
fn high(starts: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = starts.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 9).div_ceil(10).checked_sub(1)?).copied()
}

/// A decision as a row of `rowlock.decisions`.
///
/// # Errors
/// [`Error::Json`], which a decision cannot cause.
pub(super) fn row(deployment: &str, decision: &Decision) -> Result<Value, Error> {
    let mut inputs =
        serde_json::to_value(&decision.inputs).map_err(|source| Error::Json { what: "a decision", source })?;
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
    /// Reads a decision from a row of `rowlock.decisions`, as an object.
    ///
    /// # Errors
    /// If a version that knows other reasons has stored it.
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
    use crate::controller::{Demand, Reason, TypeDemand, decide, observe::WorkerRow, target::Replica};

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
        Replica { key: key.into(), group: "a".into(), ordered: Instant::now(), up: true }
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
            hold: None,
        };
        let mut memory = Memory::default();
        memory.current(&scaled, &Workers::new(&[]));
        let workers = [worker("a", false), worker("b", true), worker("x", false)];
        let current = memory.current(&scaled, &Workers::new(&workers));
        assert_eq!((current.replicas, current.ready, current.slots), (2, 1, Some(4)));
        assert_eq!(current.starting_seconds.len(), 1);
        assert!(current.start_seconds.is_some());
        let without = memory.current(&scaled, &Workers::new(&[]));
        assert_eq!((without.replicas, without.ready, without.starting_seconds.len()), (3, 0, 1), "a and b had started");
    }
}
