//! Of jobs: one in, looking at them, steering them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use uuid::Uuid;

#[derive(clap::Args)]
pub(in crate::cli) struct Enqueue {
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
pub(in crate::cli) struct Filter {
    #[arg(long, env = "ROWLOCK_FILTER_STATUS")]
    pub status: Option<crate::Status>,
    #[arg(long, env = "ROWLOCK_FILTER_QUEUE")]
    pub queue: Option<String>,
    #[arg(long = "type", env = "ROWLOCK_FILTER_TYPE")]
    pub job_type: Option<String>,
}

#[derive(Subcommand)]
pub(in crate::cli) enum JobsCommand {
    List {
        #[command(flatten)]
        filter: Filter,
        #[arg(long, env = "ROWLOCK_LIMIT", default_value_t = 50)]
        limit: i32,
    },
    Get {
        id: Uuid,
    },
    /// Shows the output of a job in a Pod while its Pod lives; after that, the last part, which the job's error keeps.
    Logs {
        id: Uuid,
        /// How many lines from the end.
        #[arg(long, env = "ROWLOCK_LOGS_TAIL", default_value_t = 100,
            value_parser = clap::value_parser!(u32).range(1..=100_000))]
        tail: u32,
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
