//! `rowlock bench`.

use super::{
    args::Bench,
    output::{self, Output},
};
use crate::{
    JobQueue, bench,
    local_postgres::{LocalPostgres, Options},
};

/// A real server's promises, for a server whose data is in memory: what is measured is the queue, not a disk.
const DURABLE: &[&str] = &[
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=2GB",
    "max_wal_size=8GB",
    "autovacuum_naptime=10s",
    "autovacuum_vacuum_cost_limit=2000",
];

/// Without a database it makes one, in memory, which is gone afterwards.
pub(super) async fn run(given: Option<JobQueue>, out: &Output, args: Bench) -> anyhow::Result<()> {
    let mut server = None;
    let queue = match given {
        Some(queue) => queue,
        None => {
            let settings = DURABLE.iter().map(|&s| s.to_owned()).collect();
            let postgres = LocalPostgres::start(Options { ram: true, settings, ..Options::default() }).await?;
            let queue = JobQueue::connect(&postgres.url("postgres")).await?;
            server = Some(postgres);
            queue.migrate().await?;
            queue
        }
    };
    if args.launch {
        let options = bench::launch::LaunchOptions { concurrency: args.clients.into(), time: args.time };
        let figures = bench::launch::run(queue, options, output::message).await?;
        drop(server);
        return out.one(&figures, "bench");
    }
    let options = bench::BenchOptions {
        backlog: args.backlog,
        batch: args.batch.into(),
        clients: args.clients.into(),
        time: args.time,
        old_transaction: args.old_transaction,
        rate: args.rate,
    };
    let figures = bench::run(queue, options, output::message).await?;
    drop(server);
    out.one(&figures, "bench")
}
