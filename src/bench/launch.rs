//! The cost of a launch: jobs per second of `process` beside a bare loop that starts the same command. Then of
//! `resident`, and of a worker with handlers in this process, beside a loop in Rust that claims and completes by hand.
//! All have the same concurrency, in turns.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::{
    options::SLICE,
    ratio::{median, put},
};
use crate::{
    Failure, JobQueue, NewJob, SessionOptions, launch,
    worker::{Shutdown, Worker, WorkerOptions},
};

/// Nothing, and successfully.
const COMMAND: &str = "/bin/true";
/// A handler that says so.
const HANDLER: &str = r#"while read -r line; do echo '{"ok":true}'; done"#;

/// How to measure.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// Jobs, and commands of the bare loop, at once.
    pub concurrency: usize,
    /// How long each side of a ratio is measured, in all.
    pub time: Duration,
}

/// Measures both launches and what each is compared with. Leaves completed jobs in queues of its own.
/// `progress` is told of every step.
///
/// # Errors
/// The database's; a command that cannot be started.
pub async fn run(queue: JobQueue, options: LaunchOptions, progress: impl Fn(&str)) -> anyhow::Result<Value> {
    let rounds = options.time.as_secs().max(1);
    let mut figures = json!({"concurrency": options.concurrency});

    progress("process, beside a bare loop");
    let (mut own, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_loop(options.concurrency).await?);
        let guess = own.last().copied().unwrap_or(bare[0] / 2.0);
        own.push(jobs(&queue, &options, "process", &[COMMAND], guess).await?);
    }
    figures["bare_per_second"] = median(bare.clone()).round().into();
    put(&mut figures, "process", &own, "bare", &bare);

    progress("resident, and handlers in this process, beside a loop in Rust");
    let (mut own, mut handlers, mut rust) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let guess = rust.last().copied().unwrap_or(bare[0] * 2.0);
        rust.push(by_hand(&queue, &options, guess).await?);
        handlers.push(in_process(&queue, &options, rust[rust.len() - 1]).await?);
        let guess = own.last().copied().unwrap_or(rust[0] / 2.0);
        own.push(jobs(&queue, &options, "resident", &["sh", "-c", HANDLER], guess).await?);
    }
    figures["rust_per_second"] = median(rust.clone()).round().into();
    put(&mut figures, "resident", &own, "rust", &rust);
    put(&mut figures, "handlers", &handlers, "rust", &rust);
    Ok(figures)
}

/// The command and nothing else: a thread per slot starts it and waits for its end.
async fn bare_loop(concurrency: usize) -> anyhow::Result<f64> {
    let run = move || {
        let (count, started) = (AtomicU64::new(0), Instant::now());
        let end = started + SLICE;
        std::thread::scope(|scope| {
            let turn = || {
                while Instant::now() < end {
                    Command::new(COMMAND).stdin(Stdio::null()).status()?;
                    count.fetch_add(1, Relaxed);
                }
                std::io::Result::Ok(())
            };
            let threads: Vec<_> = (0..concurrency).map(|_| scope.spawn(turn)).collect();
            threads.into_iter().try_for_each(|t| t.join().expect("the loop does not panic"))
        })?;
        anyhow::Ok(count.load(Relaxed) as f64 / started.elapsed().as_secs_f64())
    };
    tokio::task::spawn_blocking(run).await?
}

/// Fills a queue with about as many jobs as a rate takes in a slice.
async fn fill(queue: &JobQueue, name: &str, rate: f64) -> anyhow::Result<usize> {
    let jobs = (rate * SLICE.as_secs_f64()).clamp(100.0, 100_000.0) as usize;
    for n in 0..jobs.div_ceil(5000) {
        let batch = vec![NewJob::new(name, json!({})).queue(name); 5000.min(jobs - n * 5000)];
        queue.enqueue_many(&batch).await?;
    }
    Ok(jobs)
}

/// Commands in a worker. Measured by the database's clock, so that the time of the worker before and after its jobs
/// does not count.
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
    let jobs = fill(queue, &name, guess).await?;
    let worker = WorkerOptions {
        queues: vec![name.clone()],
        concurrency: options.concurrency,
        stop_when_empty: true,
        ..WorkerOptions::default()
    };
    let commands = launch::LaunchOptions { guardian: Some(std::env::current_exe()?), ..Default::default() };
    let summary = launch::run(queue.clone(), worker, commands, Shutdown::default()).await?;
    anyhow::ensure!(summary.completed == jobs as u64, "{jobs} jobs of {launch}, of which ended well: {summary:?}");
    rate(queue, &name, jobs).await
}

/// Jobs per second from the first start to the last end of the last jobs of a queue.
async fn rate(queue: &JobQueue, name: &str, jobs: usize) -> anyhow::Result<f64> {
    let client = queue.pool().get().await.map_err(crate::Error::from)?;
    let row = client
        .query_typed(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM
               (SELECT started_at, finished_at FROM rowlock.jobs WHERE queue = $1
                ORDER BY finished_at DESC LIMIT $2) j",
            &[(&name, Type::TEXT), (&(jobs as i64), Type::INT8)],
        )
        .await?;
    Ok(jobs as f64 / row[0].get::<_, f64>(0))
}

/// Handlers in Rust, in a worker in this process.
async fn in_process(queue: &JobQueue, options: &LaunchOptions, guess: f64) -> anyhow::Result<f64> {
    let name = "rowlock-bench-handlers";
    let jobs = fill(queue, name, guess).await?;
    let worker = Worker::builder(queue).queue(name).concurrency(options.concurrency).stop_when_empty();
    let worker = worker.handler(name, |_, _| std::future::ready(Ok::<_, Failure>(()))).build()?;
    let summary = worker.run(std::future::pending()).await?;
    anyhow::ensure!(summary.completed == jobs as u64, "{jobs} jobs of handlers, of which ended well: {summary:?}");
    rate(queue, name, jobs).await
}

/// The same without a worker: a loop that claims and completes, and nothing else.
async fn by_hand(queue: &JobQueue, options: &LaunchOptions, guess: f64) -> anyhow::Result<f64> {
    let name = "rowlock-bench-rust";
    let jobs = fill(queue, name, guess).await?;
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
