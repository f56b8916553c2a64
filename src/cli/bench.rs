//! `rowlock bench`.

use super::{args::Bench, output::Output};
use crate::{JobQueue, bench};

pub(super) async fn run(queue: JobQueue, out: &Output, args: Bench) -> anyhow::Result<()> {
    let options = bench::BenchOptions {
        jobs: args.backlog,
        batch: args.batch.into(),
        clients: args.clients.into(),
        seconds: args.seconds,
    };
    let figures = bench::run(queue, options).await?;
    out.one(&figures, "bench")
}
