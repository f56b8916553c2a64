//! `rowlock worker`.

use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::Worker,
    output::{self, Output},
};
use crate::{
    JobQueue,
    worker::{self, Shutdown, WorkerOptions},
};

pub(super) async fn run(queue: JobQueue, out: &Output, args: Worker) -> anyhow::Result<()> {
    log();
    let options = WorkerOptions {
        queues: args.queues,
        concurrency: args.concurrency.into(),
        launch: args.launch,
        lease: args.lease,
        poll: args.poll,
        grace: args.grace,
        stop_when_empty: args.stop_when_empty,
        name: None,
        listen_url: args.listen_url,
        guardian: Some(super::install::this_program()?),
    };
    let summary = worker::run(queue, options, stop_on_signal()?).await?;
    output::message("done");
    out.one(&summary, "worker")
}

/// Drains on the first SIGTERM or SIGINT, hurries on the second.
pub(super) fn stop_on_signal() -> anyhow::Result<Shutdown> {
    let stop = Shutdown::default();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        for token in [told.drain, told.hurry] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            token.cancel();
        }
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
