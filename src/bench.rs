//! `rowlock bench`: no-op jobs through the Rust API, as ratios to the floor's figures of the same run.

mod floor;
pub mod launch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{JobQueue, NewJob, SessionOptions};

/// What to measure with.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Jobs waiting throughout, on a queue of their own priority.
    pub jobs: u64,
    /// Jobs per call.
    pub batch: usize,
    /// Clients at once.
    pub clients: usize,
    /// Seconds per measurement.
    pub seconds: u64,
}

fn payload() -> Value {
    json!({"user": "u-8132", "tmpl": "welcome", "pad": "a".repeat(52)})
}

/// Measures bulk enqueue and the steady cycle enqueue, claim, complete, each beside the floor, and the cycle
/// once more with a backlog if one is asked for. Uses a queue of its own, and leaves the backlog in it.
///
/// # Errors
/// The database's.
pub async fn run(queue: JobQueue, options: BenchOptions) -> anyhow::Result<Value> {
    let floor_enqueue = floor::measure(&queue, &options, Kind::Enqueue).await?;
    let enqueue = measure(&queue, &options, Kind::Enqueue).await?;
    let drained = drain(&queue, &options).await?;
    let floor_cycle = floor::measure(&queue, &options, Kind::Cycle).await?;
    let cycle = measure(&queue, &options, Kind::Cycle).await?;
    let mut figures = json!({
        "batch": options.batch, "clients": options.clients, "drain_per_second": drained.round(),
        "enqueue_per_second": enqueue.round(), "enqueue_to_floor": ratio(enqueue, floor_enqueue),
        "cycle_per_second": cycle.round(), "cycle_to_floor": ratio(cycle, floor_cycle),
    });
    if options.jobs > 0 {
        fill(&queue, options.jobs).await?;
        let deep = measure(&queue, &options, Kind::Cycle).await?;
        figures["backlog"] = options.jobs.into();
        figures["cycle_with_backlog_to_without"] = ratio(deep, cycle).into();
    }
    Ok(figures)
}

/// To two digits: more would pretend to a precision a shared machine does not have.
fn ratio(of: f64, to: f64) -> f64 {
    (of / to * 100.0).round() / 100.0
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Enqueue,
    Cycle,
}

const QUEUE: &str = "rowlock-bench";

async fn fill(queue: &JobQueue, mut left: u64) -> anyhow::Result<()> {
    while left > 0 {
        let n = left.min(10_000);
        queue.enqueue_many(&batch(n as usize)).await?;
        left -= n;
    }
    Ok(())
}

fn batch(n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new("noop", payload()).queue(QUEUE)).collect()
}

fn session_options(slots: usize) -> SessionOptions {
    SessionOptions {
        queues: vec![QUEUE.into()],
        slots: slots as i32,
        lease: Duration::from_secs(600),
        ..Default::default()
    }
}

async fn measure(queue: &JobQueue, options: &BenchOptions, kind: Kind) -> anyhow::Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..options.clients {
        let (queue, count, stop, n) = (queue.clone(), count.clone(), stop.clone(), options.batch);
        tasks.push(tokio::spawn(async move {
            let jobs = batch(n);
            let session = queue.session(session_options(n)).await?;
            let mut done = Vec::new();
            while !stop.load(Relaxed) {
                queue.enqueue_many(&jobs).await?;
                if kind == Kind::Enqueue {
                    count.fetch_add(n as u64, Relaxed);
                    continue;
                }
                let ended = done.len() as u64;
                let (claimed, refused) = session.work(std::mem::take(&mut done), n).await?;
                anyhow::ensure!(refused.is_empty(), "{} completions were refused", refused.len());
                count.fetch_add(ended, Relaxed);
                done = claimed.into_iter().map(|job| (job, None)).collect();
            }
            session.complete(done).await?;
            session.stop().await?;
            Ok(())
        }));
    }
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    stop.store(true, Relaxed);
    let rate = count.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
    for task in tasks {
        task.await??;
    }
    Ok(rate)
}

/// Claims and completes all there is.
async fn drain(queue: &JobQueue, options: &BenchOptions) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..options.clients {
        let (queue, n) = (queue.clone(), options.batch);
        tasks.push(tokio::spawn(async move {
            let session = queue.session(session_options(n)).await?;
            let (mut done, mut total) = (Vec::new(), 0_u64);
            loop {
                total += done.len() as u64;
                let (claimed, _) = session.work(std::mem::take(&mut done), n).await?;
                if claimed.is_empty() {
                    session.stop().await?;
                    return anyhow::Ok(total);
                }
                done = claimed.into_iter().map(|job| (job, None)).collect();
            }
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(total as f64 / started.elapsed().as_secs_f64())
}
