//! `rowlock bench`: no-op jobs through the Rust API, as ratios to something measured in the same seconds.
//!
//! The two sides of a ratio take turns in short slices, so that other work on the machine meets both alike.

mod clients;
mod floor;
pub mod launch;
mod offered;
mod options;
mod ratio;

use serde_json::{Value, json};

pub use self::options::BenchOptions;
use self::{clients::Lane, options::SLICE, ratio::put};
use crate::JobQueue;

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
