//! `rowlock worker`.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::Worker,
    database,
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
        listen: database::listen(args.listen)?,
    };
    let launch = LaunchOptions {
        accept: args.launch,
        guardian: Some(super::install::this_program()?),
        cluster,
        pods: PodOptions {
            image: args.pod_image,
            grace: args.grace,
            pending: args.pod_pending,
            pull: args.pod_pull,
            job_pods: args.job_pods,
            owner: args.pod_owner,
            keep_failed: args.pod_keep_failed.min(PodOptions::LONGEST_KEEP),
        },
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

/// Drains on the first signal that asks to end, hurries on the second.
pub(super) fn stop_on_signal() -> anyhow::Result<Shutdown> {
    let stop = Shutdown::default();
    let mut signals = Signals::new()?;
    let told = stop.clone();
    tokio::spawn(async move {
        for token in [told.drain, told.hurry] {
            signals.end().await;
            token.cancel();
        }
        loop {
            signals.end().await;
        }
    });
    Ok(stop)
}

/// All signals whose default is to end the process at once, with its jobs.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    users: [Signal; 2],
    /// A terminal that goes away says so by SIGHUP.
    has_terminal: bool,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            users: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            has_terminal: io::stderr().is_terminal(),
        })
    }

    /// Waits for a signal that asks to end. Others are for programs that read their configuration or open their log
    /// anew, which this one need not.
    async fn end(&mut self) {
        let [first, second] = &mut self.users;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => if self.has_terminal { return } else { tracing::info!("SIGHUP is ignored") },
                _ = first.recv() => tracing::info!("SIGUSR1 is ignored"),
                _ = second.recv() => tracing::info!("SIGUSR2 is ignored"),
            }
        }
    }
}
