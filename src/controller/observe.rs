//! One observation of the database: the demand on the queues, and the workers that live.

use std::{collections::HashMap, time::Instant};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    demand::{Connections, Demand, TypeDemand},
    rates::Rates,
    share::Shares,
    store::Store,
};
use crate::{Error, hints::Hints};

/// A queue with more arrivals a second is observed often enough without a NOTIFY.
const QUIET_RATE: f64 = 20.0;

/// The demand on all observed queues, and the workers.
pub(super) struct Demanded {
    pub now: DateTime<Utc>,
    pub workers: Vec<WorkerRow>,
    types: Vec<TypeDemand>,
    oldest_transaction_seconds: Option<f64>,
    free_connections: u32,
}

/// A worker whose lease holds.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct WorkerRow {
    pub id: Uuid,
    pub identity: String,
    pub slots: u32,
    pub draining: bool,
    pub running: u64,
}

impl WorkerRow {
    /// The key of the replica that it runs in.
    pub(super) fn key(&self) -> &str {
        self.identity.split('/').next().unwrap_or_default()
    }

    /// The start of its process, on the clock of its machine.
    pub(super) fn started(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.identity.rsplit('/').next()?.parse().ok()?)
    }
}

/// Workers by their replica's key: they are looked up for every replica in every reconciliation.
pub(super) struct Workers<'a>(HashMap<&'a str, Vec<&'a WorkerRow>>);

impl<'a> Workers<'a> {
    pub(super) fn new(rows: &'a [WorkerRow]) -> Workers<'a> {
        let mut by_key: HashMap<&str, Vec<&WorkerRow>> = HashMap::with_capacity(rows.len());
        rows.iter().for_each(|w| by_key.entry(w.key()).or_default().push(w));
        Workers(by_key)
    }

    /// The workers of one replica: for a moment there can be more than one.
    pub(super) fn of(&self, key: &str) -> &[&'a WorkerRow] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The answer of `observe_v1`.
#[derive(Deserialize)]
struct Document {
    now: DateTime<Utc>,
    types: Vec<TypeRow>,
    lanes: Vec<LaneRow>,
    soon: Vec<SoonRow>,
    ended: Vec<EndedRow>,
    running: Vec<RunningRow>,
    workers: Vec<WorkerRow>,
    oldest_transaction_seconds: Option<f64>,
    free_connections: u32,
}

#[derive(Deserialize)]
struct TypeRow {
    queue: String,
    #[serde(rename = "type")]
    job_type: String,
    paused: bool,
    pending: i64,
    scheduled: i64,
    running: i64,
    enqueued: i64,
    retried: i64,
    ended: i64,
    expected_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct LaneRow {
    queue: String,
    id: i32,
    rank: i16,
    first: i64,
    last_age_seconds: f64,
    types: HashMap<String, f64>,
}

#[derive(Deserialize)]
struct SoonRow {
    queue: String,
    #[serde(rename = "type")]
    job_type: String,
    jobs: u64,
}

#[derive(Deserialize)]
struct EndedRow {
    queue: String,
    #[serde(rename = "type")]
    job_type: String,
    jobs: f64,
    seconds: f64,
}

#[derive(Deserialize)]
struct RunningRow {
    queue: String,
    #[serde(rename = "type")]
    job_type: String,
    age_seconds: f64,
}

/// Observes again and again, and remembers what a single observation cannot tell.
#[derive(Default)]
pub(super) struct Observer {
    rates: Rates,
    last: Option<DateTime<Utc>>,
    /// The position of the first job of each lane, so that an old transaction does not make observations dear.
    hints: Hints,
}

impl Observer {
    pub(super) async fn observe(&mut self, store: &Store, queues: &[String], soon: f64) -> Result<Demanded, Error> {
        let started = Instant::now();
        let hints = self.hints.args(started);
        let answer = store.observe(queues, self.last, soon, &hints).await?;
        if hints.sweep {
            self.hints.swept(started, Instant::now());
        }
        let document = serde_json::from_value(answer)
            .map_err(|source| Error::Json { what: "the answer of observe_v1", source })?;
        Ok(self.learn(document))
    }

    fn learn(&mut self, document: Document) -> Demanded {
        let now = document.now;
        self.last = Some(now);
        // An empty lane keeps its hint: its dead rows are still there.
        for l in &document.lanes {
            self.hints.took(l.id, l.rank, l.first, Instant::now());
        }
        for t in &document.types {
            // A job becomes due when it comes, or when its time does; a retry becomes due anew.
            self.rates.count(&t.queue, &t.job_type, now, t.enqueued - t.scheduled + t.retried, t.ended + t.retried);
        }
        for e in &document.ended {
            self.rates.ended(&e.queue, &e.job_type, e.jobs, e.seconds);
        }
        self.rates.forget(now);
        let types = document.types.iter().map(|t| self.demand(t, &document)).collect();
        Demanded {
            now,
            types,
            workers: document.workers,
            oldest_transaction_seconds: document.oldest_transaction_seconds,
            free_connections: document.free_connections,
        }
    }

    fn demand(&self, t: &TypeRow, document: &Document) -> TypeDemand {
        let mut rate = self.rates.of(&t.queue, &t.job_type, document.now);
        if t.paused {
            (rate.due_10s, rate.due_60s) = (0.0, 0.0);
        }
        let this = |queue: &str, job_type: &str| queue == t.queue && job_type == t.job_type;
        let soon = document.soon.iter().find(|s| this(&s.queue, &s.job_type)).map_or(0, |s| s.jobs);
        // No worker claims from a paused queue.
        let claimable = |jobs: u64| if t.paused { 0 } else { jobs };
        TypeDemand {
            queue: t.queue.clone(),
            job_type: t.job_type.clone(),
            pending: claimable(t.pending.max(0).unsigned_abs()),
            scheduled_soon: claimable(soon),
            running: t.running.max(0).unsigned_abs(),
            oldest_age_seconds: if t.pending > 0 { oldest_age(t, &document.lanes) } else { 0.0 },
            running_age_seconds: document.running.iter().find(|r| this(&r.queue, &r.job_type)).map(|r| r.age_seconds),
            ended_10s: Some(rate.ended_10s),
            rate_10s: rate.due_10s,
            rate_60s: rate.due_60s,
            service_seconds: rate.service,
            expected_seconds: t.expected_seconds,
        }
    }
}

/// A part of a type's demand, and another part of its running jobs: those run where they do.
fn shared(mut t: TypeDemand, share: f64, running: f64) -> TypeDemand {
    let part = |n: u64, share: f64| (n as f64 * share - 1e-9).ceil().max(0.0) as u64;
    (t.pending, t.scheduled_soon) = (part(t.pending, share), part(t.scheduled_soon, share));
    t.running = part(t.running, running);
    (t.rate_10s, t.rate_60s) = (t.rate_10s * share, t.rate_60s * share);
    t.ended_10s = t.ended_10s.map(|ended| ended * running);
    t
}

/// The age of the type's first job among the first jobs of the lanes. If the type has none there, its oldest job is
/// younger than the last of those.
fn oldest_age(t: &TypeRow, lanes: &[LaneRow]) -> f64 {
    let lanes = || lanes.iter().filter(|l| l.queue == t.queue);
    let oldest = lanes()
        .filter_map(|l| l.types.get(&t.job_type))
        .copied()
        .fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))));
    oldest.unwrap_or_else(|| lanes().map(|l| l.last_age_seconds).fold(0.0, f64::max)).max(0.0)
}

impl Demanded {
    /// The shares of the demand on the queues that a Deployment takes. `working` is the number of jobs that run in its
    /// own replicas, where other Deployments serve the same queues.
    pub(super) fn demand(&self, shares: &Shares, working: Option<u64>, connections_per_replica: u32) -> Demand {
        let of = |t: &TypeDemand| shares.get(&t.queue).map(|share| (t.clone(), *share));
        let mut types: Vec<(TypeDemand, f64)> = self.types.iter().filter_map(of).collect();
        if let Some(working) = working {
            let all: u64 = types.iter().map(|(t, _)| t.running).sum();
            let part = if all > 0 { (working as f64 / all as f64).min(1.0) } else { 0.0 };
            types = types.into_iter().map(|(t, share)| (shared(t, share, part), share)).collect();
        }
        Demand {
            types: types.into_iter().map(|(t, _)| t).collect(),
            oldest_transaction_seconds: self.oldest_transaction_seconds,
            connections: Some(Connections { free: self.free_connections, per_replica: connections_per_replica }),
        }
    }

    /// The queues for which a NOTIFY is worth its cost: no job waits, and few arrive.
    pub(super) fn quiet(&self, queues: &[String]) -> Vec<String> {
        let busy = |q: &String| {
            let types = || self.types.iter().filter(move |t| t.queue == *q);
            types().any(|t| t.pending > 0) || types().map(|t| t.rate_10s).sum::<f64>() > QUIET_RATE
        };
        queues.iter().filter(|q| !busy(q)).cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(observer: &mut Observer, change: impl FnOnce(&mut Value)) -> Demanded {
        let mut document = json!({
            "now": "2026-01-01T00:00:00.5+00:00",
            "types": [
                {"queue": "a", "type": "t", "paused": false, "pending": 7, "scheduled": 3, "running": 2, "enqueued": 20,
                 "retried": 1, "ended": 9, "expected_seconds": 0.5},
                {"queue": "a", "type": "u", "paused": false, "pending": 1, "scheduled": 0, "running": 0, "enqueued": 1,
                 "retried": 0, "ended": 0, "expected_seconds": null}],
            "lanes": [{"queue": "a", "id": 1, "rank": -6, "first": 40, "last_age_seconds": 2.0, "types": {"t": 4.0}}],
            "soon": [{"queue": "a", "type": "t", "jobs": 3}],
            "ended": [{"queue": "a", "type": "t", "jobs": 6, "seconds": 3.0}],
            "running": [{"queue": "a", "type": "t", "age_seconds": 1.5}],
            "workers": [], "oldest_transaction_seconds": null, "free_connections": 90,
        });
        change(&mut document);
        observer.learn(serde_json::from_value(document).unwrap())
    }

    #[test]
    fn an_observation_becomes_demand() {
        let demand = seen(&mut Observer::default(), |_| {}).demand(&all("a"), None, 3);
        let (t, u) = (&demand.types[0], &demand.types[1]);
        assert_eq!((t.pending, t.scheduled_soon, t.running), (7, 3, 2));
        assert_eq!((t.oldest_age_seconds, u.oldest_age_seconds), (4.0, 2.0), "the second is not among the first jobs");
        assert_eq!((t.service_seconds, t.expected_seconds, t.running_age_seconds), (Some(0.5), Some(0.5), Some(1.5)));
        assert_eq!(demand.connections, Some(Connections { free: 90, per_replica: 3 }));
        assert_eq!(seen(&mut Observer::default(), |_| {}).demand(&all("b"), None, 3).types, []);
    }

    fn all(queue: &str) -> Shares {
        [(queue.to_owned(), 1.0)].into()
    }

    #[test]
    fn a_deployment_that_shares_its_queue_sees_its_part_and_its_own_running_jobs() {
        let seen = seen(&mut Observer::default(), |_| {});
        let shares: Shares = [("a".to_owned(), 0.5)].into();
        let half = seen.demand(&shares, Some(1), 3).types;
        assert_eq!((half[0].pending, half[0].running, half[1].pending), (4, 1, 1));
        let none = seen.demand(&[("a".to_owned(), 0.0)].into(), Some(0), 3);
        assert_eq!((none.pending(), none.running()), (0, 0));
    }

    #[test]
    fn a_paused_queue_demands_nothing_new() {
        let paused =
            seen(&mut Observer::default(), |d| d["types"][0]["paused"] = json!(true)).demand(&all("a"), None, 3);
        assert_eq!((paused.types[0].pending, paused.types[0].scheduled_soon, paused.types[0].running), (0, 0, 2));
    }

    #[test]
    fn a_job_for_later_arrives_when_it_becomes_due() {
        let mut observer = Observer::default();
        seen(&mut observer, |_| {});
        let later = seen(&mut observer, |d| {
            d["now"] = json!("2026-01-01T00:00:05Z");
            d["types"][0]["scheduled"] = json!(0);
            d["types"][0]["pending"] = json!(10);
        });
        assert_eq!(later.demand(&all("a"), None, 3).types[0].rate_10s, 0.3);
    }

    #[test]
    fn a_lane_that_is_empty_keeps_its_hint() {
        let mut observer = Observer::default();
        let start = Instant::now();
        assert!(observer.hints.args(start).sweep);
        seen(&mut observer, |_| {});
        seen(&mut observer, |d| d["lanes"] = json!([]));
        observer.hints.swept(start, start + std::time::Duration::from_secs(60));
        let later = observer.hints.args(start + std::time::Duration::from_secs(90));
        assert_eq!((later.queues, later.ranks, later.after), (vec![1], vec![-6], vec![40]));
    }

    #[test]
    fn only_quiet_queues_are_worth_a_notify() {
        let seen = seen(&mut Observer::default(), |_| {});
        assert_eq!(seen.quiet(&["a".into(), "b".into()]), ["b"]);
    }
}
