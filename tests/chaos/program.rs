//! A program with a worker in it, whose jobs are its own code and write to the ledger like `handler.py`. The tests
//! start it from their own executable, or from the path in `ROWLOCK_CHAOS_PROGRAM`: it is an example as well, so that
//! `make soak` builds it with the default features.

use std::{error::Error, sync::Arc, time::Duration};

use rowlock::{JobQueue, worker::Worker};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{Client, NoTls, types::ToSql};

/// What a job is to do.
#[derive(serde::Deserialize)]
struct Wish {
    ms: u64,
    #[serde(default)]
    again: i16,
}

/// Where the jobs write, and as which process.
struct Ledger {
    client: Client,
    process: i32,
}

impl Ledger {
    async fn note(&self, what: &str, job: uuid::Uuid, lease: &str) -> Result<(), tokio_postgres::Error> {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_nanos();
        let now = i64::try_from(now).expect("it is before 2262");
        let sql = "INSERT INTO line (what, job, lease, worker, at) VALUES ($1, $2, $3, $4, $5)";
        let args: [&(dyn ToSql + Sync); 5] = [&what, &job, &lease, &self.process, &now];
        self.client.execute(sql, &args).await.map(|_| ())
    }
}

/// Works until SIGTERM.
///
/// # Errors
/// What the environment lacks, and whatever ends the worker.
#[tokio::main(worker_threads = 2)]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let (client, connection) = tokio_postgres::connect(&std::env::var("CHAOS_LEDGER")?, NoTls).await?;
    tokio::spawn(connection);
    let ledger = Arc::new(Ledger { client, process: std::env::var("CHAOS_WORKER")?.parse()? });
    let queue = connect(&std::env::var("DATABASE_URL")?).await?;
    let worker = Worker::builder(&queue)
        .concurrency(setting("--concurrency", "10")?.parse()?)
        .lease(time(&setting("--lease", "30s")?)?)
        .poll(time(&setting("--poll", "1s")?)?)
        .grace(time(&setting("--grace", "30s")?)?)
        .handler("t", move |job, context| {
            let ledger = ledger.clone();
            async move {
                let wish: Wish = serde_json::from_str(job.payload.get()).map_err(|e| e.to_string())?;
                let (id, lease) = (job.id, context.lease().to_owned());
                ledger.note("begin", id, &lease).await.map_err(|e| e.to_string())?;
                tokio::time::sleep(Duration::from_millis(wish.ms)).await;
                let fails = job.attempts < wish.again;
                ledger.note(if fails { "again" } else { "end" }, id, &lease).await.map_err(|e| e.to_string())?;
                if fails { Err("again".to_owned()) } else { Ok(lease) }
            }
        })
        .build()?;
    let mut terminated = signal(SignalKind::terminate())?;
    worker
        .run(async move {
            terminated.recv().await;
        })
        .await?;
    Ok(())
}

/// Waits for a database that is away.
async fn connect(url: &str) -> Result<JobQueue, rowlock::Error> {
    loop {
        match JobQueue::connect(url).await {
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(100)).await,
            done => return done,
        }
    }
}

/// The word after this one in `CHAOS_ARGS`, which are `rowlock worker`'s.
fn setting(name: &str, otherwise: &str) -> Result<String, std::env::VarError> {
    let args = std::env::var("CHAOS_ARGS")?;
    let mut words = args.split(' ').skip_while(|word| *word != name).skip(1);
    Ok(words.next().unwrap_or(otherwise).to_owned())
}

/// From `2s` or `300ms`.
fn time(text: &str) -> Result<Duration, std::num::ParseIntError> {
    match text.strip_suffix("ms") {
        Some(millis) => Ok(Duration::from_millis(millis.parse()?)),
        None => Ok(Duration::from_secs(text.trim_end_matches('s').parse()?)),
    }
}
