//! The Deployments of one reconciliation: their shares of the work, their queues, their replicas for the metrics. Pure.

use std::collections::HashMap;

use super::{
    decision::Decision,
    demand::Current,
    limits::{DEFAULT_SLOTS, Limits},
    memory::Memory,
    need::need,
    observe::Demanded,
    share::{Sharer, Shares, shares},
    target::Scaled,
};
use crate::metrics::Replicas;

/// A worker that works opens so many: its pool serves the loop, the heartbeat, maintenance and the progress of jobs,
/// and one more connection is for LISTEN.
pub(super) const CONNECTIONS_PER_REPLICA: u32 = 5;

/// A Deployment whose annotations are right, and its present replicas.
pub(super) type Present<'a> = (&'a Scaled, &'a Limits, Current);

/// The shares of Deployments that serve the same queues; none for one whose queues are its own.
pub(super) fn share(valid: &[Present<'_>], memories: &HashMap<String, Memory>, seen: &Demanded) -> Vec<Option<Shares>> {
    let slots = |limits: &Limits, current: &Current| limits.slots.or(current.slots).unwrap_or(DEFAULT_SLOTS).max(1);
    let sharer = |(scaled, limits, current): &'_ Present<'_>| {
        let there = u32::try_from(scaled.replicas.len()).unwrap_or(u32::MAX);
        // Without room on a node, or without leave to grow, it gets no more than it has.
        let may_grow = memories.get(&scaled.name).is_none_or(Memory::may_grow) && scaled.unschedulable == 0;
        let most = if may_grow { u32::MAX } else { there.saturating_sub(scaled.unschedulable) };
        let most = limits.max_replicas.min(most);
        (slots(limits, current), limits.pin_replicas.unwrap_or(most))
    };
    let sharers: Vec<Sharer<'_>> = valid
        .iter()
        .map(|present| {
            let (slots, most) = sharer(present);
            Sharer { limits: present.1, slots, most }
        })
        .collect();
    let of_queue = |queue: &str, by: &Sharer<'_>| {
        let demand = seen.demand(&[(queue.to_owned(), 1.0)].into(), None, CONNECTIONS_PER_REPLICA);
        need(&demand, by.limits.rule, by.slots, &Current::default()).slots
    };
    let is_shared = |limits: &Limits| {
        let serves = |queue: &String| valid.iter().filter(|(_, other, _)| other.queues.contains(queue)).count() > 1;
        limits.queues.iter().any(serves)
    };
    let shares = shares(&sharers, of_queue);
    shares.into_iter().zip(valid).map(|(shares, (_, limits, _))| is_shared(limits).then_some(shares)).collect()
}

/// The replicas of a decision, for the metrics. A fixed size is no maximum that demand can reach.
pub(super) fn exported(deployment: &str, decision: &Decision, limits: &Limits) -> Replicas {
    let max = if limits.pin_replicas.is_some() { 0 } else { limits.max_replicas };
    Replicas { deployment: deployment.to_owned(), current: decision.current, wanted: decision.wanted, max }
}

pub(super) fn queues(deployments: &[Scaled]) -> Vec<String> {
    let mut queues: Vec<String> =
        deployments.iter().filter_map(|s| s.limits.as_ref().ok()).flat_map(|l| l.queues.clone()).collect();
    queues.sort();
    queues.dedup();
    queues
}
