//! `rowlock controller`.

use super::{args::Controller, database, output, serve, worker::stop_on_signal};
use crate::{
    JobQueue,
    cluster::{Cluster, ClusterOptions, Events},
    controller::{self, configmaps::Source, kubernetes::Deployments},
    metrics::Facts,
};

pub(super) async fn run(queue: JobQueue, place: &ClusterOptions, args: Controller) -> anyhow::Result<()> {
    serve::log(&args.serve);
    let stop = stop_on_signal()?;
    let cluster = Cluster::find(place).await?;
    if let Some(cluster) = cluster.as_ref().filter(|c| !c.is_inside()) {
        // A person may not know which cluster the environment points to, and this program is about to change it.
        output::message(&format!(
            "about to scale Deployments in namespace {} of the cluster at {}",
            cluster.namespace(),
            cluster.origin()
        ));
    }
    let facts = Facts::new("controller");
    let _served = serve::http(&args.serve, &queue, &facts).await?;
    let mut options = controller::Options {
        lease: args.lease,
        tick: args.tick,
        listen: database::listen(args.listen)?,
        facts,
        catalog: None,
        namespace: None,
        release: None,
    };
    let Some(cluster) = cluster else {
        output::message("no cluster: schedules, rescue and keeping; nothing is scaled");
        controller::run(queue, (), options, stop.drain).await?;
        return Ok(());
    };
    tracing::info!(namespace = cluster.namespace(), cluster = cluster.origin(), "scaling Deployments");
    let events = Events::new(cluster.clone(), "controller");
    options.namespace = Some(cluster.namespace().to_owned());
    options.release = args.release.clone();
    let source = Source { cluster: cluster.clone(), events: events.clone(), release: args.release.clone() };
    options.catalog = Some(source);
    let target = Deployments::watch(cluster, events).of_release(args.release);
    controller::run(queue, target, options, stop.drain).await?;
    Ok(())
}
