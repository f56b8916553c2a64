//! `rowlock dev --demo`: real jobs, workers that come and go, and every job looked up at the end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{exit::Exit, output};
use crate::{Error, JobQueue, NewJob};

/// The number of jobs; some take a second attempt.
const JOBS: usize = 600;
const UNSTEADY: usize = 20;
/// The demo ends within three minutes, whatever happens; workers may take ten seconds of them to stop.
const DEMO_TIMEOUT: Duration = Duration::from_secs(165);
/// A line of the picture is at most so long.
const WIDTH: usize = 40;

/// The result is the digest of the payload. The job waits for a quarter of a second, as most jobs mostly wait.
const DIGEST: &str = r#"sleep 0.25; printf '{"sha256": "%.64s"}' "$(sha256sum)" > "$ROWLOCK_RESULT_FILE""#;
const UNSTEADY_DIGEST: &str = r#"[ "$ROWLOCK_ATTEMPT" -gt 0 ] || { echo 'not at the first attempt' >&2; exit 1; }; "#;

/// Loads the types of the demo.
pub(super) async fn prepare(queue: &JobQueue) -> anyhow::Result<()> {
    let unsteady = format!("{UNSTEADY_DIGEST}{DIGEST}");
    for (name, script) in [("demo_digest", DIGEST), ("demo_unsteady", unsteady.as_str())] {
        let row = json!({
            "name": name, "queue": "demo", "command": ["sh", "-c", script], "expected": "300 milliseconds",
            "timeout": "60 seconds",
        });
        super::query::rows(queue, "SELECT rowlock.put_job_type($1)", &[(&row, Type::JSONB)]).await?;
    }
    Ok(())
}

/// Enqueues jobs, shows and counts them, and then stops the rest of the program.
pub(super) async fn run(queue: JobQueue, stop: CancellationToken) -> anyhow::Result<()> {
    let _stop = stop.clone().drop_guard();
    let shown = async {
        let ids = seed(&queue).await?;
        output::message(&format!("{} jobs in one transaction, {UNSTEADY} of which fail at first", ids.len()));
        let peak = show(&queue).await?;
        Ok((ids, peak))
    };
    let shown = tokio::select! {
        shown = tokio::time::timeout(DEMO_TIMEOUT, shown) => shown,
        () = stop.cancelled() => return Err(Exit::Usage("the demo was stopped before its end".into()).into()),
    };
    let (ids, peak) = match shown {
        Ok(shown) => shown.map_err(|e: anyhow::Error| e)?,
        Err(_) => {
            let seconds = DEMO_TIMEOUT.as_secs();
            let why =
                format!("not all jobs ended and all workers stopped within {seconds} s; is the machine very busy?");
            return Err(Exit::TimedOut(why).into());
        }
    };
    let wrong = wrong(&queue, &ids).await?;
    ensure!(wrong == 0, "{wrong} of {} jobs are lost, or have not the result they should have", ids.len());
    output::message(&format!(
        "{} jobs completed, each with the right result, none lost; 0 to {peak} to 0 workers. Why so many: rowlock \
         explain dev",
        ids.len()
    ));
    Ok(())
}

async fn seed(queue: &JobQueue) -> anyhow::Result<Vec<Uuid>> {
    let job = |n: usize| {
        let name = if n < UNSTEADY { "demo_unsteady" } else { "demo_digest" };
        NewJob::new(name, json!({"number": n}))
    };
    let jobs: Vec<NewJob> = (0..JOBS).map(job).collect();
    Ok(queue.enqueue_many(&jobs).await?.into_iter().map(|e| e.id).collect())
}

/// Prints a line each second, until no job is left and no worker lives; answers the highest number of workers.
async fn show(queue: &JobQueue) -> anyhow::Result<i64> {
    let started = Instant::now();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let (mut peak, mut last) = (0, None);
    loop {
        every.tick().await;
        let sql = "SELECT coalesce(sum(q.pending + q.scheduled), 0)::int8, coalesce(sum(q.running), 0)::int8,
                          (SELECT count(*) FROM rowlock.workers) FROM rowlock.queues q";
        let rows = super::query::rows(queue, sql, &[]).await?;
        let now: (i64, i64, i64) = (
            rows[0].try_get(0).map_err(Error::from)?,
            rows[0].try_get(1).map_err(Error::from)?,
            rows[0].try_get(2).map_err(Error::from)?,
        );
        let (waiting, running, workers) = now;
        if last != Some(now) {
            output::message(&line(started.elapsed(), waiting, running, workers));
        }
        last = Some(now);
        peak = peak.max(workers);
        if waiting + running == 0 && workers == 0 && peak > 0 {
            return Ok(peak);
        }
    }
}

fn line(elapsed: Duration, waiting: i64, running: i64, workers: i64) -> String {
    let bar = "#".repeat(usize::try_from(workers).unwrap_or_default().min(WIDTH));
    format!("{:>4} s  {waiting:>4} waiting  {running:>3} running  {workers:>2} workers {bar}", elapsed.as_secs())
}

/// Counts the jobs that are missing, have not completed, or have a result that Postgres finds wrong.
async fn wrong(queue: &JobQueue, ids: &[Uuid]) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM unnest($1::uuid[]) i(id) LEFT JOIN LATERAL rowlock.get_job(i.id) j ON true
                WHERE (j.status, j.result ->> 'sha256', j.attempts) IS DISTINCT FROM
                      ('completed', encode(sha256(convert_to(j.payload::text, 'UTF8')), 'hex'), (j.type = \
                       'demo_unsteady')::int::int2)";
    Ok(super::query::rows(queue, sql, &[(&ids, Type::UUID_ARRAY)]).await?[0].try_get(0).map_err(Error::from)?)
}
