//! Every command and flag, and nothing else. Its rooms: `jobs`; `running`, of programs that go on; `times`.
//!
//! Every flag has a variable. None is called as one that a job sees (`ROWLOCK_QUEUE`, `ROWLOCK_LEASE`, …):
//! a job that calls this program would hand its own queue on without knowing.

mod jobs;
mod running;
mod times;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use self::times::{pause, shown, span};
pub(super) use self::{
    jobs::{Enqueue, Filter, JobsCommand},
    running::{Controller, Dev, Explain, Listen, LogFormat, SchedulesCommand, Serve, Worker},
};
use crate::{
    cluster::ClusterOptions,
    simulate::{Options, Shape},
};

/// A job queue in PostgreSQL.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
pub(super) struct Args {
    /// The database; by default DATABASE_URL.
    #[arg(long, global = true, env = "ROWLOCK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// A file with that URL, such as a mounted Secret: it is read again for each connection, so that a new password
    /// needs no restart. By default DATABASE_URL_FILE.
    #[arg(long, global = true, env = "ROWLOCK_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, env = "ROWLOCK_OUTPUT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub cluster: InCluster,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, for what works in one, and for `kubectl rowlock`.
#[derive(clap::Args)]
pub(super) struct InCluster {
    /// The namespace of Kubernetes; by default the context's, or the service account's.
    #[arg(short, long, global = true, env = "ROWLOCK_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// A context of the kubeconfig; by default its current one.
    #[arg(long, global = true, env = "ROWLOCK_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// By default the file that KUBECONFIG names, or ~/.kube/config.
    #[arg(long, global = true, env = "ROWLOCK_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl From<InCluster> for ClusterOptions {
    fn from(args: InCluster) -> ClusterOptions {
        ClusterOptions { kubeconfig: args.kubeconfig, context: args.context, namespace: args.namespace }
    }
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
    /// Lead: scale Deployments, rescue, schedules; outside a cluster all but scaling.
    Controller(Controller),
    /// Work jobs.
    Worker(Box<Worker>),
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
    /// Jobs by the clock.
    Schedules {
        #[command(subcommand)]
        command: SchedulesCommand,
    },
    /// Why a Deployment has as many replicas as it has.
    Explain(Explain),
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
    /// Run the controller's decision over a load, beside KEDA with the HPA and Knative; needs no database.
    Simulate(Simulate),
    /// Copy this program to DIR/rowlock.
    Install { dir: PathBuf },
    /// Watches over a worker's processes; started by the worker itself.
    #[command(hide = true)]
    Guardian { worker: Uuid, dir: PathBuf },
    /// Runs a job's command in its Pod; put there by the worker.
    #[command(hide = true)]
    PodRun {
        #[arg(long, value_parser = humantime::parse_duration)]
        grace: Duration,
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// A completion script for a shell.
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
pub(super) enum MigrateCommand {
    /// Apply what is missing.
    Up,
    /// Shows which files are applied and which are missing.
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
pub(super) struct Bench {
    /// Jobs waiting throughout, in the measurement with a backlog; 0 leaves it out.
    #[arg(long, env = "ROWLOCK_BENCH_BACKLOG", default_value_t = 1_000_000)]
    pub backlog: u64,
    #[arg(long, env = "ROWLOCK_BENCH_BATCH", default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch: u16,
    #[arg(long, env = "ROWLOCK_BENCH_CLIENTS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub clients: u16,
    /// How long each side of a ratio is measured, in slices of a second.
    #[arg(long, env = "ROWLOCK_BENCH_TIME", default_value = "6s", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// How long a transaction stays open in the measurement beside one; 0s leaves it out.
    #[arg(long, env = "ROWLOCK_BENCH_OLD_TRANSACTION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub old_transaction: Duration,
    /// Jobs a second offered beside that transaction.
    #[arg(long, env = "ROWLOCK_BENCH_RATE", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Measure launches instead: commands beside a bare loop, handlers beside Rust, --clients at once.
    #[arg(long, env = "ROWLOCK_BENCH_LAUNCH")]
    pub launch: bool,
}

#[derive(clap::Args)]
pub(super) struct Simulate {
    /// Jobs from a file, one a line: {"at": 12.5, "type": "mail", "service": 0.2} or 12.5,mail,0.2 (seconds);
    /// - is standard input.
    #[arg(long, env = "ROWLOCK_SIMULATE_TRACE", conflicts_with = "shape")]
    pub trace: Option<PathBuf>,
    /// Jobs of a synthetic load: spike, ramp, diurnal, heavy, mixed or steady.
    #[arg(long, env = "ROWLOCK_SIMULATE_SHAPE", default_value = "spike")]
    pub shape: Shape,
    /// How long the synthetic load lasts.
    #[arg(long, env = "ROWLOCK_SIMULATE_DURATION", value_parser = span, default_value = "30m")]
    pub duration: Duration,
    /// The same seed gives the same run.
    #[arg(long, env = "ROWLOCK_SIMULATE_SEED", default_value_t = Options::default().seed)]
    pub seed: u64,
    /// The objective: how long a ready job may wait.
    #[arg(long, env = "ROWLOCK_SIMULATE_TARGET_WAIT", value_parser = pause,
        default_value = shown(Options::default().target_wait))]
    pub target_wait: Duration,
    #[arg(long, env = "ROWLOCK_SIMULATE_MAX_REPLICAS", default_value_t = Options::default().max_replicas,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_replicas: u32,
    /// Jobs a replica runs at once.
    #[arg(long, env = "ROWLOCK_SIMULATE_SLOTS", default_value_t = Options::default().slots,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: u32,
    /// How long the highest need holds.
    #[arg(long, env = "ROWLOCK_SIMULATE_SCALE_DOWN_DELAY", value_parser = humantime::parse_duration,
        default_value = shown(Options::default().scale_down_delay))]
    pub scale_down_delay: Duration,
    /// From the order of a replica to its first claim.
    #[arg(long, env = "ROWLOCK_SIMULATE_POD_START", value_parser = humantime::parse_duration,
        default_value = shown(Options::default().pod_start))]
    pub pod_start: Duration,
    /// Draw it into this file, too.
    #[arg(long, env = "ROWLOCK_SIMULATE_SVG")]
    pub svg: Option<PathBuf>,
}
