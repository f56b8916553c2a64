//! `rowlock worker`.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    args::Worker,
    exit::Exit,
    output::{self, Output},
};
use crate::{
    JobQueue,
    worker::{self, WorkerOptions},
};

pub(super) async fn run(queue: JobQueue, out: &Output, args: Worker) -> anyhow::Result<()> {
    if let Some(other) = args.launch.iter().find(|l| *l != "process") {
        return Err(Exit::Usage(format!("--launch: this version runs process only, not {other}")).into());
    }
    log();
    let options = WorkerOptions {
        queues: args.queues,
        concurrency: args.concurrency.into(),
        lease: args.lease,
        poll: args.poll,
        grace: args.grace,
        stop_when_empty: args.stop_when_empty,
        name: None,
        listen_url: args.listen_url,
    };
    let summary = worker::run(queue, options, stop_on_signal()?).await?;
    output::message("done");
    out.one(&summary, "worker")
}

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// Logs to stderr: RUST_LOG chooses how much.
pub(super) fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("rowlock=info"));
    let color = std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_target(false)
        .init();
}
