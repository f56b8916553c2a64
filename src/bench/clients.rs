//! The queue's side of a ratio: clients that do one thing for a while.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::types::Type;

use super::options::{BenchOptions, payload};
use crate::{JobQueue, NewJob, SessionOptions};

/// Which queue a measurement works on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    Shallow,
    Deep,
    /// The one an offered rate goes to.
    Offered,
}

impl Lane {
    pub fn queue(self) -> &'static str {
        match self {
            Lane::Shallow => "rowlock-bench",
            Lane::Deep => "rowlock-bench-deep",
            Lane::Offered => "rowlock-bench-offered",
        }
    }
}

/// The state that the clients of a measurement share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Shared {
    pub fn count(&self, n: usize) {
        self.done.fetch_add(n as u64, Relaxed);
    }

    pub fn counted(&self) -> u64 {
        self.done.load(Relaxed)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// Runs `clients` of a kind for `time`; what they counted, per second.
async fn rate<F>(clients: usize, time: Duration, mut client: impl FnMut(Shared) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let shared = Shared::default();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(shared.clone()));
    }
    tokio::time::sleep(time).await;
    shared.stop();
    let rate = shared.counted() as f64 / started.elapsed().as_secs_f64();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(rate)
}

pub(super) fn batch(lane: Lane, n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new("noop", payload()).queue(lane.queue())).collect()
}

pub(super) fn session_options(lane: Lane, slots: usize) -> SessionOptions {
    SessionOptions {
        queues: vec![lane.queue().into()],
        slots: slots as i32,
        lease: Duration::from_secs(600),
        ..Default::default()
    }
}

/// Bulk enqueue through the Rust API.
pub(super) async fn enqueue(queue: &JobQueue, options: &BenchOptions, time: Duration) -> anyhow::Result<f64> {
    rate(options.clients, time, |shared| {
        let (queue, jobs) = (queue.clone(), batch(Lane::Shallow, options.batch));
        async move {
            while !shared.stopped() {
                queue.enqueue_many(&jobs).await?;
                shared.count(jobs.len());
            }
            Ok(())
        }
    })
    .await
}

/// Bulk enqueue as any language can: `rowlock.enqueue_many` with one JSON text.
pub(super) async fn enqueue_many_in_sql(
    queue: &JobQueue,
    options: &BenchOptions,
    time: Duration,
) -> anyhow::Result<f64> {
    let job = json!({"type": "noop", "queue": Lane::Shallow.queue(), "payload": payload()});
    let jobs = Value::from(vec![job; options.batch]);
    rate(options.clients, time, |shared| {
        let (queue, jobs, n) = (queue.clone(), jobs.clone(), options.batch);
        async move {
            let client = queue.pool().get().await?;
            while !shared.stopped() {
                let sql = "SELECT array_agg(id) FROM rowlock.enqueue_many($1)";
                client.query_typed(sql, &[(&jobs, Type::JSONB)]).await?;
                shared.count(n);
            }
            Ok(())
        }
    })
    .await
}

/// Enqueue a batch; complete the one before and claim the next in one call.
pub(super) async fn cycle(queue: &JobQueue, options: &BenchOptions, lane: Lane, time: Duration) -> anyhow::Result<f64> {
    rate(options.clients, time, |shared| {
        let (queue, jobs) = (queue.clone(), batch(lane, options.batch));
        async move {
            let session = queue.session(session_options(lane, jobs.len())).await?;
            let mut done = Vec::new();
            while !shared.stopped() {
                queue.enqueue_many(&jobs).await?;
                let ended = done.len();
                let (claimed, refused) = session.work(std::mem::take(&mut done), jobs.len()).await?;
                anyhow::ensure!(refused.is_empty(), "{} completions were refused", refused.len());
                shared.count(ended);
                done = claimed.into_iter().map(|job| (job, None)).collect();
            }
            session.complete(done).await?;
            session.stop().await?;
            Ok(())
        }
    })
    .await
}

/// Claims and completes all there is.
pub(super) async fn drain(queue: &JobQueue, options: &BenchOptions) -> anyhow::Result<f64> {
    let (started, shared) = (Instant::now(), Shared::default());
    let mut tasks = JoinSet::new();
    for _ in 0..options.clients {
        let (queue, n, shared) = (queue.clone(), options.batch, shared.clone());
        tasks.spawn(async move {
            let session = queue.session(session_options(Lane::Shallow, n)).await?;
            let mut done = Vec::new();
            loop {
                shared.count(done.len());
                let (claimed, _) = session.work(std::mem::take(&mut done), n).await?;
                if claimed.is_empty() {
                    session.stop().await?;
                    return anyhow::Ok(());
                }
                done = claimed.into_iter().map(|job| (job, None)).collect();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(shared.counted() as f64 / started.elapsed().as_secs_f64())
}

/// Leaves so many jobs waiting.
pub(super) async fn fill(queue: &JobQueue, mut left: u64) -> anyhow::Result<()> {
    while left > 0 {
        let n = left.min(10_000);
        queue.enqueue_many(&batch(Lane::Deep, n as usize)).await?;
        left -= n;
    }
    Ok(())
}
