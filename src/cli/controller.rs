//! `rowlock controller`.

use super::{args::Controller, output, serve, worker::stop_on_signal};
use crate::{JobQueue, controller, metrics::Facts};

pub(super) async fn run(queue: JobQueue, args: Controller) -> anyhow::Result<()> {
    serve::log(&args.serve);
    let stop = stop_on_signal()?;
    let facts = Facts::new("controller");
    let _served = serve::http(&args.serve, &queue, &facts).await?;
    let options = controller::Options { lease: args.lease, tick: args.tick, listen_url: args.listen_url, facts };
    output::message("no cluster: schedules, rescue and keeping; nothing is scaled");
    controller::run(queue, (), options, stop.drain).await?;
    Ok(())
}
