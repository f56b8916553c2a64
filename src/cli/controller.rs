//! `rowlock controller`.

use super::{
    args::Controller,
    output,
    worker::{log, stop_on_signal},
};
use crate::{JobQueue, controller};

pub(super) async fn run(queue: JobQueue, args: Controller) -> anyhow::Result<()> {
    log();
    let stop = stop_on_signal()?;
    let options = controller::Options { lease: args.lease, tick: args.tick, listen_url: args.listen_url };
    output::message("no cluster: schedules, rescue and keeping; nothing is scaled");
    controller::run(queue, (), options, stop.drain).await?;
    Ok(())
}
