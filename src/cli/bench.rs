//! `rowlock bench`.

use super::{args::Bench, output::Output};
use crate::{JobQueue, bench};

pub(super) async fn run(queue: JobQueue, out: &Output, args: Bench) -> anyhow::Result<()> {
    if args.launch {
        let options = bench::launch::LaunchOptions { concurrency: args.clients.into(), seconds: args.seconds };
        return out.one(&bench::launch::run(queue, options).await?, "bench");
    }
    let options = bench::BenchOptions {
        jobs: args.backlog,
        batch: args.batch.into(),
        clients: args.clients.into(),
        seconds: args.seconds,
    };
    let figures = bench::run(queue, options).await?;
    out.one(&figures, "bench")
}
