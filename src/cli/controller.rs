//! `rowlock controller`.

use super::{
    args::{Controller, Place},
    output, serve,
    worker::stop_on_signal,
};
use crate::{
    JobQueue,
    cluster::{Cluster, ClusterOptions, Events},
    controller::{self, kubernetes::Deployments},
    metrics::Facts,
};

pub(super) async fn run(queue: JobQueue, args: Controller) -> anyhow::Result<()> {
    serve::log(&args.serve);
    let stop = stop_on_signal()?;
    let cluster = Cluster::find(&options(&args.place)).await?;
    let facts = Facts::new("controller");
    let _served = serve::http(&args.serve, &queue, &facts).await?;
    let options = controller::Options { lease: args.lease, tick: args.tick, listen_url: args.listen_url, facts };
    let Some(cluster) = cluster else {
        output::message("no cluster: schedules, rescue and keeping; nothing is scaled");
        controller::run(queue, (), options, stop.drain).await?;
        return Ok(());
    };
    tracing::info!(namespace = cluster.namespace(), "scaling Deployments");
    let events = Events::new(cluster.clone(), "controller");
    let target = Deployments::watch(cluster, events);
    controller::run(queue, target, options, stop.drain).await?;
    Ok(())
}

pub(super) fn options(place: &Place) -> ClusterOptions {
    ClusterOptions {
        kubeconfig: place.kubeconfig.clone(),
        context: place.context.clone(),
        namespace: place.namespace.clone(),
    }
}
