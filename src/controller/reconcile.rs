//! One reconciliation of the leader: observe, decide for each Deployment, record, act.

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
    history::History,
    limits::{InvalidLimits, Limits},
    memory::{self, Memory},
    observe::{Demanded, Observer, Workers},
    present::{CONNECTIONS_PER_REPLICA, Present, exported, queues, share},
    reconcile_error::{ReconcileError, chain},
    scale_in,
    scaler_error::ScalerError,
    share::Shares,
    store::Store,
    target::{Notice, Scaled, Snapshot, Target},
};
use crate::metrics::Facts;

/// Jobs for later count this far ahead, until starts were measured.
const ASSUMED_START_SECONDS: f64 = 2.0;
/// Wrong annotations are counted this often: an alert must not end before they are right.
const REPORT_INVALID_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Reconciler<T> {
    pub target: T,
    pub facts: Facts,
    store: Store,
    epoch: i64,
    observer: Observer,
    memories: HashMap<String, Memory>,
    /// An enqueue to one of these queues notifies this controller.
    subscribed: Vec<String>,
    /// Replicas that have ended, until their leases have ended, too.
    terminated: Vec<String>,
    /// The mistakes in Deployments' annotations, as they were reported last.
    invalid: HashMap<String, (InvalidLimits, Instant)>,
    /// A leader of another namespace was reported at this time.
    rival: Option<Instant>,
}

impl<T: Target> Reconciler<T> {
    pub(super) fn new(store: Store, target: T, facts: Facts) -> Reconciler<T> {
        Reconciler {
            target,
            facts,
            store,
            epoch: -1,
            observer: Observer::default(),
            memories: HashMap::new(),
            subscribed: Vec::new(),
            terminated: Vec::new(),
            invalid: HashMap::new(),
            rival: None,
        }
    }

    /// Reconciles once, and answers when the next reconciliation is due at the latest; none: in its usual time.
    pub(super) async fn reconcile(&mut self, epoch: i64) -> Result<Option<Duration>, ReconcileError> {
        if self.epoch != epoch {
            // Another controller led, or may have: the observations from before are not a history.
            self.epoch = epoch;
            self.observer = Observer::default();
            self.memories.clear();
            self.subscribed.clear();
        }
        let snapshot = self.observe_target().await?;
        let queues = queues(&snapshot.deployments);
        if queues.is_empty() {
            self.facts.set_replicas(Vec::new());
            return Ok(None);
        }
        let soon = self.memories.values().filter_map(Memory::start_seconds).fold(ASSUMED_START_SECONDS, f64::max);
        let seen = self.observer.observe(&self.store, &queues, soon).await?;
        let workers = Workers::new(&seen.workers);
        self.end_leases_of_restarted(&snapshot.restarted, &workers).await?;
        let mut rows = Vec::new();
        let mut acts = Vec::new();
        let mut replicas = Vec::new();
        self.memories.retain(|name, _| snapshot.deployments.iter().any(|s| s.name == *name));
        let valid = self.current(&snapshot.deployments, &seen, &workers).await?;
        let shares = share(&valid, &self.memories, &seen);
        for ((scaled, limits, current), shares) in valid.into_iter().zip(shares) {
            let decision = self.decide(scaled, limits, &current, &shares, &seen, &workers);
            let memory = self.memories.entry(scaled.name.clone()).or_default();
            if memory.is_news(&decision) {
                rows.push(memory::row(&scaled.name, &decision)?);
                memory.stored(&decision);
            }
            memory.remember(&decision, limits);
            replicas.push(exported(&scaled.name, &decision, limits));
            acts.push((scaled, current, decision));
        }
        if !rows.is_empty() {
            // Before any act: a leader that cannot record its decisions, because another leads, must not act.
            self.store.record(epoch, &Value::Array(rows)).await?;
        }
        self.facts.set_replicas(replicas);
        for (scaled, current, decision) in acts {
            let Err((failed, error)) = self.act(scaled, &current, &decision, &workers).await else { continue };
            let ReconcileError::Target(error) = error else {
                // The database has no place for a count then, and the other Deployments would fail alike.
                return Err(error);
            };
            // A Deployment that cannot be scaled keeps no other from it.
            tracing::error!(deployment = scaled.name, failed = failed.name(), error = chain(&error));
            self.store.count_error(epoch, &scaled.name, failed).await?;
        }
        let again = self.subscribe(seen.quiet(&queues)).await?;
        let next = self.memories.values().filter_map(|m| m.scale_in.due_in()).min();
        Ok(if again { Some(Duration::ZERO) } else { next })
    }

    /// Observes the target. The leases of replicas that have ended end here, and wrong annotations are reported.
    async fn observe_target(&mut self) -> Result<Snapshot, ReconcileError> {
        let mut snapshot = match self.target.observe().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                for deployment in self.memories.keys() {
                    self.store.count_error(self.epoch, deployment, ScalerError::Observe).await?;
                }
                return Err(error.into());
            }
        };
        self.terminated.append(&mut snapshot.terminated);
        if !self.terminated.is_empty() {
            let jobs = self.store.end_replicas(self.epoch, &self.terminated).await?;
            tracing::debug!(replicas = self.terminated.len(), jobs, "replicas have ended");
            self.terminated.clear();
        }
        self.report_invalid(&snapshot.deployments).await?;
        Ok(snapshot)
    }

    /// Reports the Deployments that are not scaled: once, then now and then, and when the reason has changed.
    async fn report_invalid(&mut self, deployments: &[Scaled]) -> Result<(), ReconcileError> {
        self.invalid.retain(|name, _| deployments.iter().any(|s| s.name == *name && s.limits.is_err()));
        for scaled in deployments {
            let Err(error) = &scaled.limits else { continue };
            self.target.publish(&scaled.name, Notice::Invalid(error));
            let due =
                |(reported, at): &(InvalidLimits, Instant)| reported != error || at.elapsed() > REPORT_INVALID_EVERY;
            if self.invalid.get(&scaled.name).is_none_or(due) {
                tracing::error!(deployment = scaled.name, %error, "not scaled");
                self.store.count_error(self.epoch, &scaled.name, ScalerError::InvalidAnnotations).await?;
                self.invalid.insert(scaled.name.clone(), (error.clone(), Instant::now()));
            }
        }
        Ok(())
    }

    /// Reports that a controller of another namespace leads, while it does: this one looks healthy and would scale
    /// nothing,
    /// for ever. It is not ready, says so in its log, and at the Deployments that it cannot scale.
    pub(super) async fn report_rival(&mut self, leader: Option<&str>) {
        self.facts.set_problem(leader.map(|leader| Notice::Rival(leader).to_string()));
        let Some(leader) = leader else {
            self.rival = None;
            return;
        };
        if self.rival.is_some_and(|at| at.elapsed() < REPORT_INVALID_EVERY) {
            return;
        }
        // What is there has to be seen first.
        let Ok(Snapshot { deployments, .. }) = self.target.observe().await else { return };
        tracing::error!("{}", Notice::Rival(leader));
        deployments.iter().for_each(|scaled| self.target.publish(&scaled.name, Notice::Rival(leader)));
        self.rival = (!deployments.is_empty()).then(Instant::now);
    }

    /// Ends the leases of workers whose replica was started again after they had started.
    async fn end_leases_of_restarted(
        &mut self,
        restarted: &[(String, DateTime<Utc>)],
        workers: &Workers<'_>,
    ) -> Result<(), ReconcileError> {
        let of = |(key, at): &(String, DateTime<Utc>)| {
            let dead = workers.of(key).iter().filter(|w| w.started().is_some_and(|started| started < *at));
            dead.map(|w| w.identity.clone()).collect::<Vec<_>>()
        };
        let identities: Vec<String> = restarted.iter().flat_map(of).collect();
        if !identities.is_empty() {
            let jobs = self.store.end_replicas(self.epoch, &identities).await?;
            tracing::info!(workers = identities.len(), jobs, "workers have ended in replicas that were started again");
        }
        Ok(())
    }

    /// The Deployments whose annotations are right, with their present replicas.
    async fn current<'a>(
        &mut self,
        deployments: &'a [Scaled],
        seen: &Demanded,
        workers: &Workers<'_>,
    ) -> Result<Vec<Present<'a>>, ReconcileError> {
        let mut valid = Vec::new();
        for scaled in deployments {
            let Ok(limits) = &scaled.limits else { continue };
            let known = self.memories.contains_key(&scaled.name);
            let memory = self.memories.entry(scaled.name.clone()).or_default();
            let current = memory.current(scaled, workers);
            if !known {
                let highest = self.store.highest_need(&scaled.name, memory::window(limits)).await?;
                memory.restore(seen.now, highest, current.replicas, limits);
            }
            valid.push((scaled, limits, current));
        }
        Ok(valid)
    }

    fn decide(
        &self,
        scaled: &Scaled,
        limits: &Limits,
        current: &Current,
        shares: &Option<Shares>,
        seen: &Demanded,
        workers: &Workers<'_>,
    ) -> Decision {
        let all = || limits.queues.iter().map(|q| (q.clone(), 1.0)).collect();
        let working = || scaled.replicas.iter().flat_map(|r| workers.of(&r.key)).map(|w| w.running).sum();
        let part = shares.as_ref().map(|_| working());
        let demand = seen.demand(&shares.clone().unwrap_or_else(all), part, CONNECTIONS_PER_REPLICA);
        let nothing = History::default();
        let history = self.memories.get(&scaled.name).map_or(&nothing, |m| &m.history);
        let mut decision = decide(Some(&demand), limits, current, history, seen.now);
        decision.inputs.share = shares.as_ref().map(|s| s.values().sum::<f64>() / s.len().max(1) as f64);
        if let Some(hold) = scaled.hold {
            decision.hold_back(hold);
        }
        decision
    }

    async fn act(
        &mut self,
        scaled: &Scaled,
        current: &Current,
        decision: &Decision,
        workers: &Workers<'_>,
    ) -> Result<(), (ScalerError, ReconcileError)> {
        let stop = |error: ReconcileError| (ScalerError::Stop, error);
        let Some(memory) = self.memories.get_mut(&scaled.name) else { return Ok(()) };
        let (store, epoch) = (&self.store, self.epoch);
        let stopped = memory.scale_in.finish(store, epoch, &mut self.target, scaled, workers).await.map_err(stop)?;
        if stopped > 0 {
            tracing::info!(deployment = scaled.name, stopped, "idle replicas are stopped");
        }
        if decision.dry_run || decision.wanted == decision.current {
            return Ok(());
        }
        let (from, to, reason) = (decision.current, decision.wanted, decision.reason.name());
        if to > from {
            // Replicas that drain still exist, and do not count.
            let leaving = u32::try_from(scaled.replicas.len()).unwrap_or(u32::MAX).saturating_sub(current.replicas);
            let grown = self.target.grow(&scaled.name, to.saturating_add(leaving)).await;
            memory.grown(grown.is_ok());
            if grown.map_err(|e| (ScalerError::Grow, e.into()))? {
                tracing::info!(deployment = scaled.name, from, to, reason, "scaling out");
                self.target.publish(&scaled.name, Notice::Decided(decision));
            }
            return Ok(());
        }
        // The decision still counts the replicas that were stopped just now.
        if !memory.scale_in.is_under_way() && stopped == 0 {
            let chosen = scale_in::choose(scaled, workers, from - to);
            if !chosen.is_empty() && self.target.may_shrink(&scaled.name).await.map_err(|e| stop(e.into()))? {
                let marked = memory.scale_in.begin(store, epoch, chosen).await.map_err(stop)?;
                tracing::info!(deployment = scaled.name, from, to, marked, reason, "scaling in");
                self.target.publish(&scaled.name, Notice::Decided(decision));
            }
        }
        Ok(())
    }

    /// Subscribes to the quiet queues, and to no other. True if a queue was added: a job may have come to it between
    /// the observation and the subscription.
    async fn subscribe(&mut self, quiet: Vec<String>) -> Result<bool, ReconcileError> {
        if quiet == self.subscribed {
            return Ok(false);
        }
        self.store.subscribe(self.epoch, &quiet).await?;
        let added = quiet.iter().any(|q| !self.subscribed.contains(q));
        self.subscribed = quiet;
        Ok(added)
    }
}
