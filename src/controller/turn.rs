//! One turn of the leader: look, decide for each Deployment, record, act.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    decide::decide,
    decision::Decision,
    demand::Current,
    limits::{InvalidLimits, Limits},
    memory::{self, Memory},
    observe::{Observer, Seen, WorkerRow},
    scale_in,
    store::Store,
    target::{News, Scaled, Target},
};
use crate::{
    Error,
    metrics::{Facts, Replicas},
};

/// What a worker needs while it works: its pool is used by the loop, the heartbeat, the keeper, and jobs'
/// progress; one more is for LISTEN.
const CONNECTIONS_PER_REPLICA: u32 = 5;
/// Jobs for later count so far ahead, until starts were measured.
const SOON: f64 = 2.0;
/// Wrong annotations are counted so often: an alert must not end before they are right.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Turns<T> {
    pub target: T,
    pub facts: Facts,
    store: Store,
    epoch: i64,
    observer: Observer,
    memories: HashMap<String, Memory>,
    /// Queues with a NOTIFY for us.
    watched: Vec<String>,
    /// Replicas that have ended, until the database was told.
    gone: Vec<String>,
    /// What is wrong with Deployments' annotations, as it was said.
    refused: HashMap<String, (InvalidLimits, Instant)>,
}

impl<T: Target> Turns<T> {
    pub(super) fn new(store: Store, target: T, facts: Facts) -> Turns<T> {
        Turns {
            target,
            facts,
            store,
            epoch: -1,
            observer: Observer::default(),
            memories: HashMap::new(),
            watched: Vec::new(),
            gone: Vec::new(),
            refused: HashMap::new(),
        }
    }

    /// Does it, and answers when the next one is due at the latest; none: in its usual time.
    pub(super) async fn turn(&mut self, epoch: i64) -> anyhow::Result<Option<Duration>> {
        if self.epoch != epoch {
            // Another led, or might have: what was seen before is not a history.
            self.epoch = epoch;
            self.observer = Observer::default();
            self.memories.clear();
            self.watched.clear();
        }
        let look = self.target.look().await?;
        self.gone.extend(look.gone);
        if !self.gone.is_empty() {
            let jobs = self.store.lost(epoch, &self.gone).await?;
            tracing::debug!(replicas = self.gone.len(), jobs, "replicas have ended");
            self.gone.clear();
        }
        self.refuse(&look.deployments).await?;
        let queues = queues(&look.deployments);
        if queues.is_empty() {
            return Ok(None);
        }
        let soon = self.memories.values().filter_map(Memory::start_seconds).fold(SOON, f64::max);
        let seen = self.observer.look(&self.store, &queues, soon).await?;
        self.bury(&look.anew, &seen).await?;
        let mut rows = Vec::new();
        let mut acts = Vec::new();
        let mut told = Vec::new();
        self.memories.retain(|name, _| look.deployments.iter().any(|s| s.name == *name));
        for scaled in &look.deployments {
            let Ok(limits) = &scaled.limits else { continue };
            let (current, decision) = self.decide(scaled, limits, &seen).await?;
            let memory = self.memories.entry(scaled.name.clone()).or_default();
            if memory.is_news(&decision) {
                rows.push(memory::row(&scaled.name, &decision)?);
                memory.stored(&decision);
            }
            memory.remember(&decision, limits);
            told.push(replicas(&scaled.name, &decision, limits));
            acts.push((scaled, current, decision));
        }
        if !rows.is_empty() {
            // Before anything is done: what cannot be recorded, because another leads, is not done.
            self.store.record(epoch, &Value::Array(rows)).await?;
        }
        self.facts.set_replicas(told);
        for (scaled, current, decision) in acts {
            match self.act(scaled, &current, &decision, &seen).await {
                // A database that is away counts nothing, and the next Deployment would not fare better.
                Err(error) if error.is::<Error>() => return Err(error),
                Err(error) => {
                    tracing::warn!(deployment = scaled.name, "{error:#}; it is tried again");
                    self.store.count_error(&scaled.name, "act").await?;
                }
                Ok(()) => {}
            }
        }
        let again = self.watch(seen.quiet(&queues)).await?;
        let next = self.memories.values().filter_map(|m| m.scale_in.due_in()).min();
        Ok(if again { Some(Duration::ZERO) } else { next })
    }

    /// Says which are not scaled: once, now and then, and when the reason is another.
    async fn refuse(&mut self, deployments: &[Scaled]) -> anyhow::Result<()> {
        self.refused.retain(|name, _| deployments.iter().any(|s| s.name == *name && s.limits.is_err()));
        for scaled in deployments {
            let Err(error) = &scaled.limits else { continue };
            self.target.tell(&scaled.name, News::Invalid(error));
            if self.refused.get(&scaled.name).is_none_or(|(said, at)| said != error || at.elapsed() > REFUSED_AGAIN) {
                tracing::error!(deployment = scaled.name, %error, "not scaled");
                self.store.count_error(&scaled.name, "invalid_annotations").await?;
                self.refused.insert(scaled.name.clone(), (error.clone(), Instant::now()));
            }
        }
        Ok(())
    }

    /// Ends the leases of workers whose place began anew after they started.
    async fn bury(&mut self, anew: &[(String, DateTime<Utc>)], seen: &Seen) -> anyhow::Result<()> {
        let dead = |w: &&WorkerRow| {
            anew.iter().any(|(key, at)| w.key() == key && w.started().is_some_and(|started| started < *at))
        };
        let identities: Vec<String> = seen.workers.iter().filter(dead).map(|w| w.identity.clone()).collect();
        if !identities.is_empty() {
            let jobs = self.store.lost(self.epoch, &identities).await?;
            tracing::info!(workers = identities.len(), jobs, "workers have ended in replicas that began anew");
        }
        Ok(())
    }

    async fn decide(&mut self, scaled: &Scaled, limits: &Limits, seen: &Seen) -> anyhow::Result<(Current, Decision)> {
        let demand = seen.demand(&limits.queues, CONNECTIONS_PER_REPLICA);
        let known = self.memories.contains_key(&scaled.name);
        let memory = self.memories.entry(scaled.name.clone()).or_default();
        let current = memory.current(scaled, &seen.workers);
        if !known {
            let highest = self.store.highest_need(&scaled.name, memory::kept(limits)).await?;
            memory.restore(seen.now, highest, current.replicas, limits);
        }
        let decision = decide(Some(&demand), limits, &current, &memory.history, seen.now);
        Ok((current, decision))
    }

    async fn act(
        &mut self,
        scaled: &Scaled,
        current: &Current,
        decision: &Decision,
        seen: &Seen,
    ) -> anyhow::Result<()> {
        let Some(memory) = self.memories.get_mut(&scaled.name) else { return Ok(()) };
        let (store, epoch) = (&self.store, self.epoch);
        let stopped = memory.scale_in.finish(store, epoch, &mut self.target, scaled, &seen.workers).await?;
        if stopped > 0 {
            tracing::info!(deployment = scaled.name, stopped, "idle replicas are stopped");
        }
        if decision.dry_run || decision.wanted == decision.current {
            return Ok(());
        }
        let (from, to, reason) = (decision.current, decision.wanted, decision.reason.name());
        if to > from {
            // Those on their way out are there still, and do not count.
            let leaving = u32::try_from(scaled.replicas.len()).unwrap_or(u32::MAX).saturating_sub(current.replicas);
            if self.target.grow(&scaled.name, to.saturating_add(leaving)).await? {
                tracing::info!(deployment = scaled.name, from, to, reason, "scaling out");
                self.target.tell(&scaled.name, News::Decided(decision));
            }
            return Ok(());
        }
        // Those that were stopped just now are counted in this decision.
        if !memory.scale_in.is_under_way() && stopped == 0 {
            let chosen = scale_in::choose(scaled, &seen.workers, from - to);
            if !chosen.is_empty() && self.target.may_shrink(&scaled.name).await? {
                let marked = memory.scale_in.begin(store, epoch, chosen).await?;
                tracing::info!(deployment = scaled.name, from, to, marked, reason, "scaling in");
                self.target.tell(&scaled.name, News::Decided(decision));
            }
        }
        Ok(())
    }

    /// Asks for a NOTIFY of the quiet queues, and of no other. True if one was added: a job may have come to it
    /// between the look and the question.
    async fn watch(&mut self, quiet: Vec<String>) -> anyhow::Result<bool> {
        if quiet == self.watched {
            return Ok(false);
        }
        self.store.watch(self.epoch, &quiet).await?;
        let added = quiet.iter().any(|q| !self.watched.contains(q));
        self.watched = quiet;
        Ok(added)
    }
}

/// What is told of a decision. A fixed size is no maximum that demand can reach.
fn replicas(deployment: &str, decision: &Decision, limits: &Limits) -> Replicas {
    let max = if limits.pin_replicas.is_some() { 0 } else { limits.max_replicas };
    Replicas { deployment: deployment.to_owned(), current: decision.current, wanted: decision.wanted, max }
}

fn queues(deployments: &[Scaled]) -> Vec<String> {
    let mut queues: Vec<String> =
        deployments.iter().filter_map(|s| s.limits.as_ref().ok()).flat_map(|l| l.queues.clone()).collect();
    queues.sort();
    queues.dedup();
    queues
}
