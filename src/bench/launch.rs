//! What a launch costs: jobs per second of `process` beside a bare loop that starts the same command, and of
//! `resident` beside handlers in Rust in this process, all with the same concurrency and in the same minute.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::ratio;
use crate::{
    JobQueue, NewJob, SessionOptions,
    worker::{self, WorkerOptions},
};

/// Nothing, and successfully.
const COMMAND: &str = "/bin/true";
/// A handler that says so.
const HANDLER: &str = r#"while read -r line; do echo '{"ok":true}'; done"#;

/// What to measure with.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// Jobs, and commands of the bare loop, at once.
    pub concurrency: usize,
    /// Seconds per measurement, about.
    pub seconds: u64,
}

/// Measures both launches and what each is compared with. Leaves completed jobs in queues of its own.
///
/// # Errors
/// The database's; a command that cannot be started.
pub async fn run(queue: JobQueue, options: LaunchOptions) -> anyhow::Result<Value> {
    let bare = bare_loop(options.clone()).await?;
    let process = jobs(&queue, &options, "process", &[COMMAND], bare).await?;
    let rust = in_process(&queue, &options, bare * 5.0).await?;
    let resident = jobs(&queue, &options, "resident", &["sh", "-c", HANDLER], bare * 5.0).await?;
    Ok(json!({
        "concurrency": options.concurrency,
        "bare_per_second": bare.round(), "process_per_second": process.round(), "process_to_bare": ratio(process, bare),
        "rust_per_second": rust.round(), "resident_per_second": resident.round(), "resident_to_rust": ratio(resident, rust),
    }))
}

/// The command and nothing else: a thread per slot starts it and waits for its end.
async fn bare_loop(options: LaunchOptions) -> anyhow::Result<f64> {
    let run = move || {
        let (count, started) = (AtomicU64::new(0), Instant::now());
        let end = started + Duration::from_secs(options.seconds);
        std::thread::scope(|scope| {
            let turn = || {
                while Instant::now() < end {
                    Command::new(COMMAND).stdin(Stdio::null()).status()?;
                    count.fetch_add(1, Relaxed);
                }
                std::io::Result::Ok(())
            };
            let threads: Vec<_> = (0..options.concurrency).map(|_| scope.spawn(turn)).collect();
            threads.into_iter().try_for_each(|t| t.join().expect("the loop does not panic"))
        })?;
        anyhow::Ok(count.load(Relaxed) as f64 / started.elapsed().as_secs_f64())
    };
    tokio::task::spawn_blocking(run).await?
}

/// Fills a queue with about as many jobs as a rate takes in the time there is.
async fn fill(queue: &JobQueue, name: &str, seconds: u64, rate: f64) -> anyhow::Result<usize> {
    let jobs = (rate * seconds as f64).clamp(100.0, 100_000.0) as usize;
    for n in 0..jobs.div_ceil(5000) {
        let batch = vec![NewJob::new(name, json!({})).queue(name); 5000.min(jobs - n * 5000)];
        queue.enqueue_many(&batch).await?;
    }
    Ok(jobs)
}

/// From the first start to the last end, by the database's clock: what a worker does before and after its
/// jobs is not theirs.
async fn jobs(
    queue: &JobQueue,
    options: &LaunchOptions,
    launch: &str,
    command: &[&str],
    guess: f64,
) -> anyhow::Result<f64> {
    let name = format!("rowlock-bench-{launch}");
    let job_type = json!({"name": name, "launch": launch, "command": command, "queue": name});
    let client = queue.pool().get().await.map_err(crate::Error::from)?;
    client.query_typed("SELECT rowlock.put_job_type($1)", &[(&job_type, Type::JSONB)]).await?;
    drop(client);
    let jobs = fill(queue, &name, options.seconds, guess).await?;
    let worker = WorkerOptions {
        queues: vec![name.clone()],
        concurrency: options.concurrency,
        stop_when_empty: true,
        guardian: Some(std::env::current_exe()?),
        ..WorkerOptions::default()
    };
    let summary = worker::run(queue.clone(), worker, worker::Shutdown::default()).await?;
    anyhow::ensure!(summary.completed == jobs as u64, "{jobs} jobs of {launch}, of which ended well: {summary:?}");
    let client = queue.pool().get().await.map_err(crate::Error::from)?;
    let row = client
        .query_typed(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM
               (SELECT started_at, finished_at FROM rowlock.jobs WHERE queue = $1 ORDER BY finished_at DESC LIMIT $2) j",
            &[(&name, Type::TEXT), (&(jobs as i64), Type::INT8)],
        )
        .await?;
    Ok(jobs as f64 / row[0].get::<_, f64>(0))
}

/// Handlers that are Rust: what a program does that uses the library and no worker.
async fn in_process(queue: &JobQueue, options: &LaunchOptions, guess: f64) -> anyhow::Result<f64> {
    let name = "rowlock-bench-rust";
    let jobs = fill(queue, name, options.seconds, guess).await?;
    let session = queue
        .session(SessionOptions {
            queues: vec![name.into()],
            slots: i32::try_from(options.concurrency)?,
            lease: Duration::from_secs(600),
            ..SessionOptions::default()
        })
        .await?;
    let started = Instant::now();
    let (mut done, mut ended) = (Vec::new(), 0);
    loop {
        ended += done.len();
        let (claimed, refused) = session.work(std::mem::take(&mut done), options.concurrency).await?;
        anyhow::ensure!(refused.is_empty(), "{} completions were refused", refused.len());
        if claimed.is_empty() {
            break;
        }
        done = claimed.into_iter().map(|job| (job, None)).collect();
    }
    let rate = ended as f64 / started.elapsed().as_secs_f64();
    session.stop().await?;
    anyhow::ensure!(ended == jobs, "{ended} of {jobs} jobs were run");
    Ok(rate)
}
