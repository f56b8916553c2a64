//! The exported metrics, and the one place that names them. Its rooms: `reading`, the figures of the database;
//! `facts`, those that only this process knows; `family`, the form of the exposition.
//!
//! Totals come from the database (`schema/80_metrics.sql`), so they go on over restarts, and every
//! process exports the same: aggregate them with `max`, not with `sum`, over instances.

mod facts;
mod family;
mod reading;

use prometheus::{TextEncoder, proto::MetricFamily};

use self::family::{Family, counter, gauge, histogram};
pub use self::{
    facts::{Facts, Known, Replicas},
    family::Metric,
    reading::{Reading, Sample},
};

const JOBS: Metric =
    gauge("rowlock_jobs", "Jobs that are pending (due or for later), running, or failed and still in history.");
const PENDING: Metric = gauge("rowlock_queue_pending", "Jobs that are due and wait for a worker.");
const PAUSED: Metric = gauge("rowlock_queue_paused", "1 while the queue is paused.");
const OLDEST: Metric =
    gauge("rowlock_queue_oldest_age_seconds", "How long the first due job has waited, 0 if none is.");
const ENQUEUED: Metric = counter("rowlock_jobs_enqueued_total", "Jobs enqueued.");
const COMPLETED: Metric = counter("rowlock_jobs_completed_total", "Jobs completed.");
const FAILED: Metric = counter("rowlock_jobs_failed_total", "Jobs failed for good, by the reason of the last attempt.");
const RETRIED: Metric =
    counter("rowlock_jobs_retried_total", "Attempts that were followed by a retry, by reason; requested: by hand.");
const WAIT: Metric = histogram("rowlock_job_wait_seconds", "From a job's due time to its claim.");
const RUN: Metric = histogram("rowlock_job_run_seconds", "From claim to end of the attempts that ended.");
const REPLICAS: Metric =
    gauge("rowlock_scaler_replicas", "Replicas of a Deployment: current, wanted, and the max it may have.");
const DECISIONS: Metric = counter("rowlock_scaler_decisions_total", "Decisions of the controller, by reason.");
const ERRORS: Metric = counter("rowlock_scaler_errors_total", "What the controller could not do, by reason.");
const LEADER: Metric = gauge("rowlock_leader", "1 if this controller leads, 0 if it follows.");
const DATABASE_UP: Metric = gauge("rowlock_database_up", "1 if the database answered this process.");
const TRANSACTION: Metric = gauge(
    "rowlock_database_oldest_transaction_seconds",
    "Age of the oldest open transaction of the database; missing if the schema's owner may not see it.",
);
const MAINTENANCE: Metric =
    counter("rowlock_maintenance_failures_total", "Rounds of maintenance in which this part went wrong.");
const READ_AT: Metric =
    gauge("rowlock_scrape_timestamp_seconds", "When the database was last read, by its own clock, in Unix time.");
const BUILD: Metric = gauge("rowlock_build_info", "1; the labels say which program this is.");

/// All metrics, in the order in which they are exported.
pub const METRICS: [&Metric; 19] = [
    &JOBS,
    &PENDING,
    &PAUSED,
    &OLDEST,
    &ENQUEUED,
    &COMPLETED,
    &FAILED,
    &RETRIED,
    &WAIT,
    &RUN,
    &REPLICAS,
    &DECISIONS,
    &ERRORS,
    &LEADER,
    &DATABASE_UP,
    &TRANSACTION,
    &MAINTENANCE,
    &READ_AT,
    &BUILD,
];

/// The text that Prometheus reads: the answer of the database, if there is one, and the facts of the process.
///
/// ```
/// let known = rowlock::metrics::Facts::new("worker").known();
/// let text = rowlock::metrics::exposition(None, None, &known);
/// assert!(text.contains("\nrowlock_database_up 0\n"));
/// ```
pub fn exposition(reading: Option<&Reading>, last_read: Option<f64>, known: &Known) -> String {
    let mut families: Vec<MetricFamily> = reading.map(of_the_database).unwrap_or_default();
    families.extend(of_the_process(known));
    let mut up = Family::of(&DATABASE_UP);
    up.value(&[], f64::from(u8::from(reading.is_some())));
    let mut read_at = Family::of(&READ_AT);
    if let Some(at) = last_read {
        read_at.value(&[], at);
    }
    families.extend([up.done(), read_at.done()].into_iter().flatten());
    families.sort_by_key(|f| METRICS.iter().position(|m| m.name == f.name()));
    TextEncoder::new().encode_to_string(&families).expect("no family is empty or without a name")
}

fn of_the_database(reading: &Reading) -> Vec<MetricFamily> {
    let simple: [(&Metric, &str, &[&str]); 12] = [
        (&JOBS, "jobs", &["queue", "type", "status"]),
        (&PENDING, "queue_pending", &["queue"]),
        (&PAUSED, "queue_paused", &["queue"]),
        (&OLDEST, "queue_oldest_age", &["queue"]),
        (&ENQUEUED, "enqueued", &["queue", "type"]),
        (&COMPLETED, "completed", &["queue", "type"]),
        (&FAILED, "failed", &["queue", "type", "reason"]),
        (&RETRIED, "retried", &["queue", "type", "reason"]),
        (&DECISIONS, "scaler_decision", &["deployment", "", "reason"]),
        (&ERRORS, "scaler_error", &["deployment", "", "reason"]),
        (&TRANSACTION, "oldest_transaction", &[]),
        (&MAINTENANCE, "maintenance_failures", &["", "", "part"]),
    ];
    let mut families = Vec::new();
    for (metric, what, labels) in &simple {
        let mut family = Family::of(metric);
        for s in reading.of(what) {
            let values = [&s.queue, &s.job_type, &s.label];
            let pairs: Vec<_> = labels.iter().copied().zip(values.map(String::as_str)).collect();
            family.value(&pairs, s.value);
        }
        families.extend(family.done());
    }
    for (metric, what) in [(&WAIT, "wait"), (&RUN, "run")] {
        let mut family = Family::of(metric);
        for h in reading.histograms(what) {
            family.histogram(&[("queue", h.queue), ("type", h.job_type)], &h.buckets, h.seconds);
        }
        families.extend(family.done());
    }
    families
}

fn of_the_process(known: &Known) -> Vec<MetricFamily> {
    let mut leader = Family::of(&LEADER);
    if let Some(leads) = known.leader {
        leader.value(&[], f64::from(u8::from(leads)));
    }
    let mut replicas = Family::of(&REPLICAS);
    for r in &known.replicas {
        for (kind, n) in [("current", r.current), ("wanted", r.wanted), ("max", r.max)] {
            replicas.value(&[("deployment", &r.deployment), ("kind", kind)], f64::from(n));
        }
    }
    let mut build = Family::of(&BUILD);
    build.value(&[("version", env!("CARGO_PKG_VERSION")), ("role", known.role)], 1.0);
    [leader, replicas, build].into_iter().filter_map(Family::done).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sample(what: &str, queue: &str, job_type: &str, label: &str, value: f64) -> Sample {
        let [what, queue, job_type, label] = [what, queue, job_type, label].map(str::to_owned);
        Sample { what, queue, job_type, label, value }
    }

    fn all() -> Reading {
        Reading::new(vec![
            sample("schema", "", "", "", 8.0),
            sample("bound", "", "", "", 10.0),
            sample("bound", "", "", "", 0.5),
            sample("oldest_transaction", "", "", "", 2.5),
            sample("maintenance_failures", "", "", "fold", 3.0),
            sample("queue_pending", "mail", "", "", 3.0),
            sample("queue_paused", "mail", "", "", 1.0),
            sample("queue_oldest_age", "mail", "", "", 1.25),
            sample("jobs", "mail", "send", "pending", 4.0),
            sample("jobs", "mail", "send", "failed", 1.0),
            sample("enqueued", "mail", "send", "", 9.0),
            sample("completed", "mail", "send", "", 3.0),
            sample("failed", "mail", "a \"b\"\\\n", "timeout", 1.0),
            sample("retried", "mail", "send", "error", 2.0),
            sample("wait", "mail", "send", "0", 2.0),
            sample("wait", "mail", "send", "2", 5.0),
            sample("wait_seconds", "mail", "send", "", 101.5),
            sample("run", "mail", "send", "1", 1.0),
            sample("run_seconds", "mail", "send", "", 2.0),
            sample("scaler_decision", "mail", "", "pickup", 7.0),
            sample("scaler_error", "mail", "", "conflict", 1.0),
        ])
    }

    fn known() -> Known {
        let facts = Facts::new("controller");
        facts.set_leader(true);
        facts.set_replicas(vec![Replicas { deployment: "mail".into(), current: 1, wanted: 2, max: 10 }]);
        facts.known()
    }

    #[test]
    fn the_exposition_is_as_written_down() {
        let text = exposition(Some(&all()), Some(1_790_000_000.5), &known());
        assert_eq!(text, include_str!("metrics/golden.txt").replace("VERSION", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn every_metric_has_a_sample_in_it_and_none_is_named_twice() {
        let text = exposition(Some(&all()), Some(1.0), &known());
        for metric in METRICS {
            assert!(
                text.contains(&format!("\n# TYPE {} ", metric.name))
                    || text.contains(&format!("# HELP {} ", metric.name)),
                "{}",
                metric.name
            );
        }
        assert_eq!(METRICS.map(|m| m.name).into_iter().collect::<BTreeSet<_>>().len(), METRICS.len());
    }

    #[test]
    fn without_a_database_there_are_the_facts_of_the_process_and_when_it_was_last_read() {
        let text = exposition(None, Some(17.0), &known());
        let names: Vec<_> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).map(|l| l.split(' ').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "rowlock_scaler_replicas",
                "rowlock_leader",
                "rowlock_database_up",
                "rowlock_scrape_timestamp_seconds",
                "rowlock_build_info"
            ]
        );
        assert!(text.contains("\nrowlock_database_up 0\n") && text.contains("\nrowlock_scrape_timestamp_seconds 17\n"));
    }

    #[test]
    fn a_worker_says_nothing_of_leading_and_one_that_no_longer_leads_nothing_of_replicas() {
        assert!(!exposition(None, None, &Facts::new("worker").known()).contains("rowlock_leader"));
        let facts = Facts::new("controller");
        facts.set_replicas(known().replicas);
        facts.set_leader(false);
        let text = exposition(None, None, &facts.known());
        assert!(text.contains("\nrowlock_leader 0\n") && !text.contains("rowlock_scaler_replicas"), "{text}");
    }

    #[test]
    fn buckets_add_up_whatever_the_order_of_the_rows() {
        let text = exposition(Some(&all()), None, &known());
        let of_wait: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("rowlock_job_wait_seconds"))
            .map(|l| l.rsplit_once(' ').unwrap().1)
            .collect();
        assert_eq!(of_wait, ["2", "2", "7", "101.5", "7"]); // le 0.5, 10, +Inf; sum, count
    }
}
