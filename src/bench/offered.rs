//! A fixed rate of jobs beside a transaction that stays open: rows that are gone cannot be vacuumed while it
//! does, which is what brings queues in Postgres down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::types::Type;

use super::{
    clients::{Lane, Shared, batch, session_options},
    options::BenchOptions,
};
use crate::JobQueue;

/// How often the rate's share is enqueued.
const STEP: Duration = Duration::from_millis(10);

/// Counts the jobs that were offered and completed while the transaction was open, and how many jobs waited halfway
/// and at its
/// end: a queue that keeps up has no more at the end than it had halfway, but for a moment's work.
pub(super) async fn measure(queue: &JobQueue, options: &BenchOptions) -> anyhow::Result<Value> {
    let (mut old, connection) = queue.target().listen_connection().await?;
    let connection = tokio::spawn(connection);
    let transaction = old.transaction().await?;
    // With an id and a snapshot: a writer's transaction, the worst kind.
    transaction.query_one("SELECT pg_current_xact_id()::text, count(*) FROM rowlock.queues", &[]).await?;

    let (offered, completed) = (Shared::default(), Shared::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(offer(queue.clone(), options.rate, offered.clone()));
    for _ in 0..options.clients {
        tasks.spawn(work(queue.clone(), options.batch, completed.clone()));
    }
    let half = options.old_transaction / 2;
    tokio::time::sleep(half).await;
    let halfway = waiting(queue).await?;
    tokio::time::sleep(half).await;
    let (offered_by_now, completed_by_now) = (offered.counted(), completed.counted());
    let at_end = waiting(queue).await?;
    offered.stop();
    completed.stop();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    transaction.rollback().await?;
    connection.abort();
    let seconds = options.old_transaction.as_secs_f64();
    Ok(json!({
        "seconds": seconds,
        "offered_per_second": (offered_by_now as f64 / seconds).round(),
        "offered_to_asked": round(offered_by_now as f64 / seconds / options.rate as f64),
        "completed_to_offered": round(completed_by_now as f64 / offered_by_now as f64),
        "waiting_halfway": halfway, "waiting_at_end": at_end,
    }))
}

fn round(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

/// Enqueues what the clock says is due, so that a late step is made up for by the next.
async fn offer(queue: JobQueue, rate: u64, shared: Shared) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut steps = tokio::time::interval(STEP);
    while !shared.stopped() {
        steps.tick().await;
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        let n = due.saturating_sub(shared.counted()).min(10_000) as usize;
        queue.enqueue_many(&batch(Lane::Offered, n)).await?;
        shared.count(n);
    }
    Ok(())
}

async fn work(queue: JobQueue, n: usize, shared: Shared) -> anyhow::Result<()> {
    let session = queue.session(session_options(Lane::Offered, n)).await?;
    let mut done = Vec::new();
    while !shared.stopped() || !done.is_empty() {
        let ended = done.len();
        let max = if shared.stopped() { 0 } else { n };
        let (claimed, refused) = session.work(std::mem::take(&mut done), max).await?;
        anyhow::ensure!(refused.is_empty(), "{} completions were refused", refused.len());
        shared.count(ended);
        if claimed.is_empty() && ended == 0 {
            tokio::time::sleep(STEP).await;
        }
        done = claimed.into_iter().map(|job| (job, None)).collect();
    }
    session.stop().await?;
    Ok(())
}

async fn waiting(queue: &JobQueue) -> anyhow::Result<i64> {
    let client = queue.pool().get().await?;
    let sql = "SELECT coalesce(sum(pending), 0)::int8 FROM rowlock.queues WHERE queue = $1";
    Ok(client.query_typed(sql, &[(&Lane::Offered.queue(), Type::TEXT)]).await?[0].try_get(0)?)
}
