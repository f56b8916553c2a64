//! The floor under the queue: the least SQL that still claims, leases and completes, on prepared statements,
//! without validation, history or counts. Figures of the queue are read as ratios to it, from the same run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio_postgres::{Client, Statement};

use super::options::{BenchOptions, payload};
use crate::{JobQueue, hints::Hints};

const SCHEMA: &str = "
  DROP SCHEMA IF EXISTS rowlock_bench_floor CASCADE;
  CREATE SCHEMA rowlock_bench_floor;
  SET search_path = rowlock_bench_floor;
  CREATE TABLE ready (id int8 GENERATED ALWAYS AS IDENTITY, queue int4 NOT NULL DEFAULT 1, prio int2 NOT NULL,
    attempt int2 NOT NULL DEFAULT 0,
    max_attempts int2 NOT NULL DEFAULT 25, kind text NOT NULL DEFAULT 'noop', run_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(), payload jsonb NOT NULL, PRIMARY KEY (queue, prio, id))
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
  CREATE TABLE lease (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, worker int4, n int4, jobs ready[])
    WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
  ALTER TABLE lease ALTER jobs SET STORAGE EXTERNAL;";
const SESSION: &str = "SET search_path = rowlock_bench_floor; SET plan_cache_mode = force_generic_plan; SET jit = off;
  SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off";
const ENQUEUE: &str = "INSERT INTO ready (prio, payload) SELECT 0, * FROM unnest($1::jsonb[])";
/// Drops the receipts just finished ($3) and takes $1 jobs behind $2, in one statement.
const WORK: &str = "
  WITH z AS (DELETE FROM lease WHERE id = ANY ($3::int8[])),
  d AS (DELETE FROM ready WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM ready WHERE queue = 1 AND prio = 0 AND id > $2::int8 ORDER BY id LIMIT $1::int4 FOR UPDATE
      SKIP LOCKED)) RETURNING *),
  b AS (INSERT INTO lease (worker, n, jobs) SELECT 1, count(*), array_agg(d::ready) FROM d HAVING count(*) > 0
    RETURNING id)
  SELECT d.id, d.payload::text, b.id FROM d, b";

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Enqueue,
    Cycle,
}

/// Jobs per second.
pub(super) async fn measure(
    queue: &JobQueue,
    options: &BenchOptions,
    kind: Kind,
    time: Duration,
) -> anyhow::Result<f64> {
    let admin = connect(queue).await?;
    admin.batch_execute(SCHEMA).await?;
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..options.clients {
        let client = connect(queue).await?;
        client.batch_execute(SESSION).await?;
        let (enqueue, work) = (client.prepare(ENQUEUE).await?, client.prepare(WORK).await?);
        clients.push((client, enqueue, work));
    }
    let started = Instant::now();
    let mut tasks = Vec::new();
    for (client, enqueue, work) in clients {
        tasks.push(tokio::spawn(turn(client, enqueue, work, options.batch, kind, count.clone(), stop.clone())));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    let rate = count.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
    for task in tasks {
        task.await??;
    }
    admin.batch_execute("DROP SCHEMA rowlock_bench_floor CASCADE").await?;
    Ok(rate)
}

async fn connect(queue: &JobQueue) -> anyhow::Result<Client> {
    let (client, connection) = queue.target().listen_connection().await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn turn(
    client: Client,
    enqueue: Statement,
    work: Statement,
    batch: usize,
    kind: Kind,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let payloads: Vec<Value> = vec![payload(); batch];
    let mut hints = Hints::default();
    let (mut receipts, mut held) = (Vec::new(), 0_u64);
    while !stop.load(Relaxed) {
        client.execute(&enqueue, &[&payloads]).await?;
        if kind == Kind::Enqueue {
            count.fetch_add(batch as u64, Relaxed);
            continue;
        }
        let started = Instant::now();
        let args = hints.args(started);
        let after = args.after.first().copied().unwrap_or(-1);
        let rows = client.query(&work, &[&(batch as i32), &after, &receipts]).await?;
        let now = Instant::now();
        if args.sweep {
            hints.swept(started, now);
        }
        count.fetch_add(held, Relaxed);
        held = rows.len() as u64;
        receipts = rows.first().map(|r| r.get::<_, i64>(2)).into_iter().collect();
        if let Some(top) = rows.iter().map(|r| r.get::<_, i64>(0)).max() {
            hints.took(1, 0, top, now);
        }
    }
    Ok(())
}
