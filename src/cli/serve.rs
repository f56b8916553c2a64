//! Every process that goes on for long writes a log and answers on a port of its own.

use std::{env, ffi::OsString, io::IsTerminal};

use anyhow::Context as _;

use super::args::{LogFormat, Serve};
use crate::{
    JobQueue,
    http::{self, Served, State},
    metrics::Facts,
};

/// Logs to stderr: RUST_LOG chooses how much.
pub(super) fn log(args: &Serve) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("rowlock=info"));
    let color = env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        // A log that nobody reads any more must not end the program: it would be said on the same stream.
        .log_internal_errors(false)
        .with_target(false);
    match log_format(args.log_format, env::var_os("KUBERNETES_SERVICE_HOST")) {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
    }
}

/// In a cluster a collector reads the log, elsewhere a person.
fn log_format(asked: Option<LogFormat>, cluster: Option<OsString>) -> LogFormat {
    asked.unwrap_or(if cluster.is_some() { LogFormat::Json } else { LogFormat::Text })
}

/// Serves health and metrics. The usual port may be taken by another process here: then it is said, and that
/// is all. An address that was asked for must be free.
pub(super) async fn http(args: &Serve, queue: &JobQueue, facts: &Facts) -> anyhow::Result<Option<Served>> {
    let address = args.http.unwrap_or(http::DEFAULT_ADDRESS);
    match http::serve(address, State::new(queue.clone(), facts.clone())).await {
        Ok(served) => {
            tracing::info!(address = %served.address, "serving /livez, /readyz and /metrics");
            Ok(Some(served))
        }
        Err(error) if args.http.is_none() => {
            tracing::warn!(%address, %error, "no metrics are served here; give this process an address with --http");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("--http: cannot listen on {address}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_json_in_a_cluster_and_text_elsewhere_unless_told_otherwise() {
        let cluster = || Some(OsString::from("10.0.0.1"));
        assert_eq!(log_format(None, None), LogFormat::Text);
        assert_eq!(log_format(None, cluster()), LogFormat::Json);
        assert_eq!(log_format(Some(LogFormat::Text), cluster()), LogFormat::Text);
        assert_eq!(log_format(Some(LogFormat::Json), None), LogFormat::Json);
    }
}
