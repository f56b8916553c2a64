//! `rowlock dev`: a private Postgres, a controller, and workers that come and go, on this machine.

use std::time::Duration;

use super::{
    args::Dev,
    catalog, demo,
    output::{self, Output},
    serve,
    worker::stop_on_signal,
};
use crate::{
    JobQueue,
    controller::{
        self, Limits, Rule,
        local::{LocalOptions, LocalProcesses},
    },
    local_postgres::{LocalPostgres, Options},
    metrics::Facts,
    worker::Shutdown,
};

const DEMO_DELAY: Duration = Duration::from_secs(8);

pub(super) async fn run(out: &Output, args: Dev) -> anyhow::Result<()> {
    let catalog = args.types.as_deref().map(catalog::read).transpose()?.unwrap_or_default();
    serve::log(&args.serve);
    let stop = stop_on_signal()?;
    let postgres =
        LocalPostgres::start(Options { persist: args.persist.clone(), ram: false, ..Options::default() }).await?;
    let url = postgres.url("postgres");
    let queue = JobQueue::connect(&url).await?;
    queue.migrate().await?;
    crate::catalog::apply(&queue, &catalog.types, &catalog.schedules).await?;
    if args.demo {
        demo::prepare(&queue).await?;
    }
    // Scripts read this line; it is true only now, since the schema exists now.
    out.text(&format!("DATABASE_URL={url}"))?;
    output::message(&match args.workers {
        Some(n) => format!("{n} workers of {} slots. End with Ctrl-C.", args.concurrency),
        None => format!("0 to {} workers of {} slots. End with Ctrl-C.", args.max_workers, args.concurrency),
    });
    let facts = Facts::new("dev");
    let _served = serve::http(&args.serve, &queue, &facts).await?;
    let target = LocalProcesses::new(LocalOptions {
        name: "dev".into(),
        program: super::install::this_program()?,
        database_url: url,
        limits: limits(&args, served(&queue).await?),
        concurrency: args.concurrency,
    })?;
    if args.demo {
        // The demo stops the rest when it has ended.
        let demo = tokio::spawn(demo::run(queue.clone(), stop.drain.clone()));
        work(queue, target, facts, stop).await?;
        return demo.await?;
    }
    work(queue, target, facts, stop).await
}

/// Runs until it is told to stop; then no worker is left.
async fn work(queue: JobQueue, target: LocalProcesses, facts: Facts, stop: Shutdown) -> anyhow::Result<()> {
    let options = controller::Options { facts, ..controller::Options::default() };
    let target = controller::run(queue, target, options, stop.drain).await?;
    target.end(stop.hurry).await;
    Ok(())
}

/// The queues of the catalogue, and the one named default.
async fn served(queue: &JobQueue) -> anyhow::Result<Vec<String>> {
    let rows =
        super::query::rows(queue, "SELECT DISTINCT coalesce(queue, 'default') FROM rowlock.job_types", &[]).await?;
    let mut queues = vec!["default".to_owned()];
    queues.extend(rows.iter().map(|r| r.get::<_, String>(0)).filter(|q| q != "default"));
    Ok(queues)
}

fn limits(args: &Dev, queues: Vec<String>) -> Limits {
    Limits {
        max_replicas: args.max_workers,
        slots: Some(args.concurrency.into()),
        rule: Rule::TargetWait(args.target_wait),
        // The demo is to end, too.
        scale_down_delay: if args.demo { args.scale_down_delay.min(DEMO_DELAY) } else { args.scale_down_delay },
        pin_replicas: args.workers,
        ..Limits::new(queues)
    }
}
