//! Commands that go on until they are told to end: worker, controller, `rowlock dev`. And commands about a controller.

use std::{path::PathBuf, time::Duration};

use clap::{Subcommand, ValueEnum};

use super::times::{pause, shown};
use crate::controller::{self, limits::DEFAULT_TARGET_WAIT};

#[derive(clap::Args)]
pub(in crate::cli) struct Worker {
    /// A queue to serve; repeat for more.
    #[arg(long = "queue", env = "ROWLOCK_QUEUES", value_delimiter = ',', default_value = "default")]
    pub queues: Vec<String>,
    /// Jobs at once.
    #[arg(long, env = "ROWLOCK_CONCURRENCY", default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// The kinds of launch accepted: process, resident, and pod, which needs a cluster and --pod-image.
    #[arg(long, env = "ROWLOCK_LAUNCH", value_delimiter = ',', default_value = "process,resident")]
    pub launch: Vec<crate::launch::Kind>,
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
    /// The image that holds this program, for the Pods of jobs (launch pod).
    #[arg(long, env = "ROWLOCK_POD_IMAGE", default_value = "", hide_default_value = true)]
    pub pod_image: String,
    /// How long a Pod may find no node, or not start, before its job is handed back.
    #[arg(long, env = "ROWLOCK_POD_PENDING", value_parser = humantime::parse_duration, default_value = "5m")]
    pub pod_pending: Duration,
    /// How long a Pod's image may not be found before its job has failed.
    #[arg(long, env = "ROWLOCK_POD_PULL", value_parser = humantime::parse_duration, default_value = "90s")]
    pub pod_pull: Duration,
    /// How long the Pod of a job that has failed stays, to be looked into: an hour at most, and not beyond the job's
    /// next attempt.
    #[arg(long, env = "ROWLOCK_POD_KEEP_FAILED", value_parser = humantime::parse_duration, default_value = "0s")]
    pub pod_keep_failed: Duration,
    /// The ConfigMap that owns the Pods of jobs, which go when it goes. It has to be there; without this, the worker
    /// makes one, if it may.
    #[arg(long, env = "ROWLOCK_POD_OWNER", value_name = "CONFIGMAP")]
    pub pod_owner: Option<String>,
    /// Gives all Pods of jobs these settings, as JSON: imagePullSecrets, pullPolicy, programPullPolicy, nodeSelector,
    /// tolerations, priorityClassName, labels, annotations, env, resources. A type's own settings go before these.
    #[arg(long, env = "ROWLOCK_JOB_PODS", value_name = "JSON", default_value = "", hide_default_value = true,
        value_parser = clap::value_parser!(crate::launch::JobPods))]
    pub job_pods: crate::launch::JobPods,
    #[command(flatten)]
    pub listen: Listen,
    /// End when standard input does: whoever started it holds the other end.
    #[arg(long, hide = true)]
    pub leash: bool,
    #[command(flatten)]
    pub serve: Serve,
}

/// Where to LISTEN.
#[derive(clap::Args)]
pub(in crate::cli) struct Listen {
    /// A direct connection for LISTEN, where the database URL is a pooler's.
    #[arg(long, env = "ROWLOCK_LISTEN_URL", hide_env_values = true, value_name = "URL")]
    pub listen_url: Option<String>,
    /// A file with that URL, which is read again for each connection.
    #[arg(long, env = "ROWLOCK_LISTEN_URL_FILE", value_name = "FILE")]
    pub listen_url_file: Option<PathBuf>,
}

/// Flags of every process that goes on for long.
#[derive(clap::Args)]
pub(in crate::cli) struct Serve {
    /// Where to serve /livez, /readyz and /metrics; port 0 finds a free one, [::] serves IPv6 and
    /// IPv4. By default port 9464 of 127.0.0.1 and ::1, if free.
    #[arg(long, env = "ROWLOCK_HTTP", value_name = "ADDR")]
    pub http: Option<std::net::SocketAddr>,
    /// How to log; by default json in a cluster, else text.
    #[arg(long, env = "ROWLOCK_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Debug)]
pub(in crate::cli) enum LogFormat {
    Text,
    Json,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Dev {
    /// Keep the database here; without it, it is gone at the end.
    #[arg(long, env = "ROWLOCK_PERSIST")]
    pub persist: Option<PathBuf>,
    /// A catalogue of job types (YAML).
    #[arg(long, env = "ROWLOCK_TYPES")]
    pub types: Option<PathBuf>,
    /// So many workers, always; without it their number follows the demand.
    #[arg(long, env = "ROWLOCK_WORKERS", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub workers: Option<u32>,
    /// Never more workers.
    #[arg(long, env = "ROWLOCK_MAX_WORKERS", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_workers: u32,
    /// The objective: how long a ready job may wait.
    #[arg(long, env = "ROWLOCK_TARGET_WAIT", value_parser = pause, default_value = shown(DEFAULT_TARGET_WAIT))]
    pub target_wait: Duration,
    /// How long the highest need holds.
    #[arg(long, env = "ROWLOCK_SCALE_DOWN_DELAY", value_parser = humantime::parse_duration, default_value = "30s")]
    pub scale_down_delay: Duration,
    /// Seed real jobs, show the workers come and go, and end; fails if a job is lost.
    #[arg(long, env = "ROWLOCK_DEMO", conflicts_with_all = ["persist", "workers"])]
    pub demo: bool,
    /// Jobs at once in each.
    #[arg(long, env = "ROWLOCK_CONCURRENCY", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Subcommand)]
pub(in crate::cli) enum SchedulesCommand {
    List,
    /// Check a catalogue file, and add or replace its schedules; others stay.
    Apply {
        /// YAML; - is standard input.
        #[arg(short, long, env = "ROWLOCK_SCHEDULES")]
        file: PathBuf,
    },
    /// From now on; what was missed meanwhile is not run.
    Enable {
        name: String,
    },
    Disable {
        name: String,
    },
    /// Forget it; what it enqueued runs.
    Remove {
        name: String,
    },
    /// Enqueue its job now, beside its ticks.
    Run {
        name: String,
    },
}

#[derive(clap::Args)]
pub(in crate::cli) struct Explain {
    /// The Deployment; in `rowlock dev` it is called dev.
    pub deployment: String,
    /// How many decisions, the latest last.
    #[arg(long, env = "ROWLOCK_EXPLAIN_LAST", default_value_t = 1,
        value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub last: i64,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Controller {
    /// How long the leadership lasts without a sign of life.
    #[arg(long, env = "ROWLOCK_LEADER_LEASE", value_parser = pause,
        default_value = shown(controller::Options::default().lease))]
    pub lease: Duration,
    /// Between two looks at the demand.
    #[arg(long, env = "ROWLOCK_TICK", value_parser = pause, default_value = shown(controller::Options::default().tick))]
    pub tick: Duration,
    #[command(flatten)]
    pub listen: Listen,
    /// The Helm release it belongs to: what Helm made for another one is left alone.
    #[arg(long, env = "ROWLOCK_RELEASE")]
    pub release: Option<String>,
    #[command(flatten)]
    pub serve: Serve,
}
