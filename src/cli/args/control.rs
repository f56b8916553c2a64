//! What a controller is told: in `rowlock dev`, by itself, about schedules; and what it is asked.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use super::{Serve, pause};

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
    #[arg(long, env = "ROWLOCK_MAX_WORKERS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_workers: u32,
    /// The objective: how long a ready job may wait.
    #[arg(long, env = "ROWLOCK_TARGET_WAIT", value_parser = pause, default_value = "5s")]
    pub target_wait: Duration,
    /// How long the highest need holds.
    #[arg(long, env = "ROWLOCK_SCALE_DOWN_DELAY", value_parser = humantime::parse_duration, default_value = "30s")]
    pub scale_down_delay: Duration,
    /// Seed real jobs, show the workers come and go, and end; fails if a job is lost.
    #[arg(long, env = "ROWLOCK_DEMO", conflicts_with_all = ["persist", "workers"])]
    pub demo: bool,
    /// Jobs at once in each.
    #[arg(long, env = "ROWLOCK_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Subcommand)]
pub(in crate::cli) enum SchedulesCommand {
    List,
    /// Check a catalogue file and load its schedules.
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
    #[arg(long, env = "ROWLOCK_EXPLAIN_LAST", default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub last: i64,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Controller {
    /// How long the leadership lasts without a sign of life.
    #[arg(long, env = "ROWLOCK_LEADER_LEASE", value_parser = pause, default_value = "15s")]
    pub lease: Duration,
    /// Between two looks at the demand.
    #[arg(long, env = "ROWLOCK_TICK", value_parser = pause, default_value = "1s")]
    pub tick: Duration,
    /// A direct connection for LISTEN, where the database URL is a pooler's.
    #[arg(long, env = "ROWLOCK_LISTEN_URL", hide_env_values = true)]
    pub listen_url: Option<String>,
    #[command(flatten)]
    pub serve: Serve,
}
