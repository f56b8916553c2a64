//! Every command and flag, and nothing else.
//!
//! Every flag has a variable. None is called as one that a job sees (`ROWLOCK_QUEUE`, `ROWLOCK_LEASE`, …):
//! a job that calls this program would hand its own queue on without knowing.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand, ValueEnum};
use uuid::Uuid;

/// A job queue in PostgreSQL.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
pub(super) struct Args {
    /// The database; by default DATABASE_URL.
    #[arg(long, global = true, env = "ROWLOCK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, env = "ROWLOCK_OUTPUT", default_value = "table")]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// A private Postgres and workers on this machine.
    Dev(Dev),
    /// Work jobs.
    Worker(Worker),
    /// Enqueue a job.
    Enqueue(Enqueue),
    /// Look at jobs and steer them.
    Jobs {
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Queues and their depth.
    Queues {
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// The job-type catalogue.
    Types {
        #[command(subcommand)]
        command: TypesCommand,
    },
    /// The workers there are.
    Workers,
    /// The schema in the database.
    Migrate {
        #[command(subcommand)]
        command: MigrateCommand,
    },
    /// Check the database and say what to do.
    Doctor,
    /// Measure no-op jobs through the Rust API; leaves them completed in a queue of its own.
    Bench(Bench),
    /// Copy this program to DIR/rowlock.
    Install { dir: PathBuf },
    /// Watches over a worker's processes; started by the worker itself.
    #[command(hide = true)]
    Guardian { worker: Uuid, dir: PathBuf },
    /// A completion script for a shell.
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
pub(super) enum MigrateCommand {
    /// Apply what is missing.
    Up,
    /// What is applied and what is missing.
    Status,
    /// Print the SQL.
    Sql,
}

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    List,
    /// No job of the queue is claimed until it is resumed.
    Pause {
        queue: String,
    },
    Resume {
        queue: String,
    },
}

#[derive(Subcommand)]
pub(super) enum TypesCommand {
    List,
    /// Check a file and load it.
    Apply {
        /// YAML; - is standard input.
        #[arg(short, long, env = "ROWLOCK_TYPES")]
        file: PathBuf,
    },
    /// Check a file.
    Lint {
        /// YAML; - is standard input.
        #[arg(short, long, env = "ROWLOCK_TYPES")]
        file: PathBuf,
    },
}

#[derive(clap::Args)]
pub(super) struct Enqueue {
    /// The job's type.
    pub job_type: String,
    /// Its payload, a JSON object; - reads standard input.
    #[arg(default_value = "{}", hide_default_value = true)]
    pub payload: String,
    #[arg(long, env = "ROWLOCK_ENQUEUE_QUEUE")]
    pub queue: Option<String>,
    /// -32768 to 32767, higher first.
    #[arg(long, env = "ROWLOCK_PRIORITY", allow_hyphen_values = true)]
    pub priority: Option<i32>,
    #[arg(long, env = "ROWLOCK_MAX_RETRIES", allow_hyphen_values = true)]
    pub max_retries: Option<i32>,
    /// Not before this time (RFC 3339).
    #[arg(long, env = "ROWLOCK_EXECUTE_AT", conflicts_with = "delay")]
    pub execute_at: Option<DateTime<Utc>>,
    /// Not before so long from now, such as 90s or 2h.
    #[arg(long, env = "ROWLOCK_DELAY", value_parser = humantime::parse_duration)]
    pub delay: Option<Duration>,
    #[arg(long, env = "ROWLOCK_UNIQUE_KEY")]
    pub unique_key: Option<String>,
    /// Wait for its end; exit with 1 if it fails.
    #[arg(long, env = "ROWLOCK_WAIT")]
    pub wait: bool,
    /// How long to wait; exit with 124 when that is over.
    #[arg(long, env = "ROWLOCK_WAIT_TIMEOUT", value_parser = humantime::parse_duration, default_value = "1h")]
    pub wait_timeout: Duration,
}

#[derive(clap::Args, Clone, Default)]
pub(super) struct Filter {
    #[arg(long, env = "ROWLOCK_FILTER_STATUS")]
    pub status: Option<crate::Status>,
    #[arg(long, env = "ROWLOCK_FILTER_QUEUE")]
    pub queue: Option<String>,
    #[arg(long = "type", env = "ROWLOCK_FILTER_TYPE")]
    pub job_type: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum JobsCommand {
    List {
        #[command(flatten)]
        filter: Filter,
        #[arg(long, env = "ROWLOCK_LIMIT", default_value_t = 50)]
        limit: i32,
    },
    Get {
        id: Uuid,
    },
    /// Make jobs pending again: those named, or the failed ones that the filter finds.
    Retry {
        ids: Vec<Uuid>,
        #[command(flatten)]
        filter: Filter,
        #[arg(long, env = "ROWLOCK_DELAY", value_parser = humantime::parse_duration, default_value = "0s")]
        delay: Duration,
        /// Do it for all that the filter finds.
        #[arg(long, env = "ROWLOCK_YES")]
        yes: bool,
    },
    /// Cancel jobs: those named, or the pending and running ones that the filter finds.
    Cancel {
        ids: Vec<Uuid>,
        #[command(flatten)]
        filter: Filter,
        /// Do it for all that the filter finds.
        #[arg(long, env = "ROWLOCK_YES")]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub(super) struct Worker {
    /// A queue to serve; repeat for more.
    #[arg(long = "queue", env = "ROWLOCK_QUEUES", value_delimiter = ',', default_value = "default")]
    pub queues: Vec<String>,
    /// Jobs at once.
    #[arg(long, env = "ROWLOCK_CONCURRENCY", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// The kinds of launch accepted: process, resident.
    #[arg(long, env = "ROWLOCK_LAUNCH", value_delimiter = ',', default_value = "process,resident")]
    pub launch: Vec<crate::worker::Kind>,
    #[arg(long, env = "ROWLOCK_LEASE_DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
    pub lease: Duration,
    #[arg(long, env = "ROWLOCK_POLL", value_parser = pause, default_value = "1s")]
    pub poll: Duration,
    /// How long it may take to end on SIGTERM; jobs that still run then are handed back. A second one hurries.
    #[arg(long, env = "ROWLOCK_GRACE", value_parser = humantime::parse_duration, default_value = "30s")]
    pub grace: Duration,
    /// End when no job is due and none runs.
    #[arg(long, env = "ROWLOCK_STOP_WHEN_EMPTY")]
    pub stop_when_empty: bool,
    /// A direct connection for LISTEN, where the database URL is a pooler's.
    #[arg(long, env = "ROWLOCK_LISTEN_URL", hide_env_values = true)]
    pub listen_url: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Dev {
    /// Keep the database here; without it, it is gone at the end.
    #[arg(long, env = "ROWLOCK_PERSIST")]
    pub persist: Option<PathBuf>,
    /// A catalogue of job types (YAML).
    #[arg(long, env = "ROWLOCK_TYPES")]
    pub types: Option<PathBuf>,
    /// How many workers to run.
    #[arg(long, env = "ROWLOCK_WORKERS", default_value_t = 2)]
    pub workers: u16,
    /// Jobs at once in each.
    #[arg(long, env = "ROWLOCK_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
}

#[derive(clap::Args)]
pub(super) struct Bench {
    /// Jobs waiting throughout the cycle.
    #[arg(long, env = "ROWLOCK_BENCH_BACKLOG", default_value_t = 0)]
    pub backlog: u64,
    #[arg(long, env = "ROWLOCK_BENCH_BATCH", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch: u16,
    #[arg(long, env = "ROWLOCK_BENCH_CLIENTS", default_value_t = 4)]
    pub clients: u16,
    #[arg(long, env = "ROWLOCK_BENCH_SECONDS", default_value_t = 4)]
    pub seconds: u64,
    /// Measure launches instead: commands beside a bare loop, handlers beside Rust, --clients at once.
    #[arg(long, env = "ROWLOCK_BENCH_LAUNCH")]
    pub launch: bool,
}

/// A time between two looks: never none, or looking would be all that is done.
fn pause(text: &str) -> Result<Duration, String> {
    let pause = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if pause < Duration::from_millis(10) { Err("expected at least 10ms".into()) } else { Ok(pause) }
}
