//! `rowlock worker`.

use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::Worker,
    output::{self, Output},
    serve,
};
use crate::{
    JobQueue,
    cluster::{Cluster, ClusterOptions},
    launch::{self, Kind, LaunchOptions, PodOptions},
    metrics::Facts,
    worker::{Shutdown, WorkerOptions},
};

pub(super) async fn run(queue: JobQueue, out: &Output, place: &ClusterOptions, args: Worker) -> anyhow::Result<()> {
    serve::log(&args.serve);
    let cluster = if args.launch.contains(&Kind::Pod) { Cluster::find(place).await? } else { None };
    let facts = Facts::new("worker");
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
    let launch = LaunchOptions {
        accept: args.launch,
        guardian: Some(super::install::this_program()?),
        cluster,
        pods: PodOptions { image: args.pod_image, grace: args.grace, pending: args.pod_pending, pull: args.pod_pull },
        facts: facts.clone(),
    };
    launch.check()?;
    let _served = serve::http(&args.serve, &queue, &facts).await?;
    let stop = stop_on_signal()?;
    if args.leash {
        end_with_stdin(&stop);
    }
    let summary = launch::run(queue, options, launch, stop).await?;
    if args.leash {
        return Ok(()); // nobody reads it
    }
    output::message("done");
    out.one(&summary, "worker")
}

/// Whoever holds the other end of standard input has ended, perhaps killed, and the database with it: no reason to
/// take long.
fn end_with_stdin(stop: &Shutdown) {
    let stop = stop.clone();
    // A thread of its own, which nobody waits for: a read of standard input cannot be given up.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.drain.cancel();
        stop.hurry.cancel();
    });
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
