//! `rowlock dev`: a private Postgres and workers on this machine.

use super::{
    args::Dev,
    catalog,
    output::{self, Output},
    worker::{log, stop_on_signal},
};
use crate::{
    JobQueue,
    local_postgres::{LocalPostgres, Options},
    worker::{self, WorkerOptions},
};

pub(super) async fn run(out: &Output, args: Dev) -> anyhow::Result<()> {
    let types = args.types.as_deref().map(catalog::read).transpose()?.unwrap_or_default();
    log();
    let stop = stop_on_signal()?;
    let postgres = LocalPostgres::start(Options { persist: args.persist, ram: false }).await?;
    let url = postgres.url("postgres");
    let queue = JobQueue::connect(&url).await?;
    queue.migrate().await?;
    catalog::apply(&queue, &types).await?;
    // Scripts read this line; it is true only now, when the schema is there.
    out.text(&format!("DATABASE_URL={url}"))?;
    output::message(&format!(
        "{} workers of {} slots (a fixed number: scaling comes with the controller). End with Ctrl-C.",
        args.workers, args.concurrency
    ));

    let rows = super::rows(&queue, "SELECT DISTINCT coalesce(queue, 'default') FROM rowlock.job_types", &[]).await?;
    let mut queues = vec!["default".to_owned()];
    queues.extend(rows.iter().map(|r| r.get::<_, String>(0)).filter(|q| q != "default"));
    let mut workers = tokio::task::JoinSet::new();
    if args.workers == 0 {
        stop.drain.cancelled().await;
    }
    for n in 1..=args.workers {
        let options = WorkerOptions {
            queues: queues.clone(),
            concurrency: args.concurrency.into(),
            name: Some(format!("dev-{n}")),
            guardian: Some(super::install::this_program()?),
            ..WorkerOptions::default()
        };
        workers.spawn(worker::run(queue.clone(), options, stop.clone()));
    }
    // A worker that fails takes the others with it: half a `dev` would only puzzle.
    while let Some(ended) = workers.join_next().await {
        stop.drain.cancel();
        ended??;
    }
    Ok(())
}
