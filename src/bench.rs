//! `rowlock bench`: no-op jobs through the Rust API, as ratios to something measured in the same seconds.
//!
//! The two sides of a ratio take turns in short slices, so that other work on the machine meets both alike.

mod clients;
mod floor;
pub mod launch;
mod offered;

use std::time::Duration;

use serde_json::{Value, json};

use self::clients::Lane;
use crate::JobQueue;

/// What to measure with.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Jobs waiting throughout, in the measurement with a backlog. 0: without it.
    pub backlog: u64,
    /// Jobs per call.
    pub batch: usize,
    /// Clients at once.
    pub clients: usize,
    /// How long each side of a ratio is measured, in all.
    pub time: Duration,
    /// How long a transaction is held open, in the measurement with an old one. 0: without it.
    pub old_transaction: Duration,
    /// Jobs a second offered beside it.
    pub rate: u64,
}

const SLICE: Duration = Duration::from_secs(1);

/// Measures bulk enqueue and the steady cycle enqueue, claim, complete, each beside the floor; `enqueue_many`
/// beside the arrays of the Rust client; and, if asked for, the cycle over a backlog beside the cycle without,
/// and what is left of an offered rate under an old transaction. Uses queues of its own, and leaves the backlog
/// in one of them. `progress` is told of every step.
///
/// # Errors
/// The database's.
pub async fn run(queue: JobQueue, options: BenchOptions, progress: impl Fn(&str)) -> anyhow::Result<Value> {
    let rounds = options.time.as_secs().max(1);
    let mut figures = json!({"batch": options.batch, "clients": options.clients});

    progress("bulk enqueue, beside the floor");
    let (mut own, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(floor::measure(&queue, &options, floor::Kind::Enqueue, SLICE).await?);
        own.push(clients::enqueue(&queue, &options, SLICE).await?);
    }
    put(&mut figures, "enqueue", &own, "floor", &floor);
    progress("emptying the queue");
    figures["drain_per_second"] = clients::drain(&queue, &options).await?.round().into();

    progress("enqueue, claim, complete, beside the floor");
    let (mut own, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(floor::measure(&queue, &options, floor::Kind::Cycle, SLICE).await?);
        own.push(clients::cycle(&queue, &options, Lane::Shallow, SLICE).await?);
    }
    put(&mut figures, "cycle", &own, "floor", &floor);

    progress("enqueue_many, beside the arrays of the Rust client");
    let (mut json, mut arrays) = (Vec::new(), Vec::new());
    for _ in 0..rounds.min(3) {
        arrays.push(clients::enqueue(&queue, &options, SLICE).await?);
        json.push(clients::enqueue_many_in_sql(&queue, &options, SLICE).await?);
    }
    put(&mut figures, "enqueue_many", &json, "arrays", &arrays);
    clients::drain(&queue, &options).await?;

    if options.backlog > 0 {
        progress(&format!("the cycle over {} waiting jobs, beside the cycle without", options.backlog));
        clients::fill(&queue, options.backlog).await?;
        let (mut deep, mut shallow) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            shallow.push(clients::cycle(&queue, &options, Lane::Shallow, SLICE).await?);
            deep.push(clients::cycle(&queue, &options, Lane::Deep, SLICE).await?);
        }
        figures["backlog"] = options.backlog.into();
        put(&mut figures, "cycle_with_backlog", &deep, "without", &shallow);
    }
    if !options.old_transaction.is_zero() {
        progress(&format!("{} jobs/s beside a transaction open for {:?}", options.rate, options.old_transaction));
        figures["old_transaction"] = offered::measure(&queue, &options).await?;
    }
    Ok(figures)
}

/// The rate of one side, and the median of its ratios to the other, slice by slice.
fn put(figures: &mut Value, name: &str, own: &[f64], other_name: &str, other: &[f64]) {
    let ratios = own.iter().zip(other).map(|(a, b)| a / b).collect();
    figures[format!("{name}_per_second")] = median(own.to_vec()).round().into();
    figures[format!("{name}_to_{other_name}")] = ratio(median(ratios), 1.0).into();
}

/// To two digits: more would pretend to a precision a shared machine does not have.
fn ratio(of: f64, to: f64) -> f64 {
    (of / to * 100.0).round() / 100.0
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
}

fn payload() -> Value {
    json!({"user": "u-8132", "tmpl": "welcome", "pad": "a".repeat(52)})
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(super::median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
