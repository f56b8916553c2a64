//! `rowlock jobs logs`.

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use uuid::Uuid;

use super::{
    exit::Exit,
    output::{self, Output},
};
use crate::{
    JobQueue,
    cluster::{Cluster, ClusterError, ClusterOptions},
    launch::pod::{is_jobs_own, spec},
};

pub(super) async fn run(
    queue: &JobQueue,
    out: &Output,
    id: Uuid,
    tail: u32,
    place: &ClusterOptions,
) -> anyhow::Result<()> {
    let Some(job) = queue.get_job(id).await? else {
        return Err(Exit::NotFound(format!("no job {id}; it may have left history")).into());
    };
    if let Some(log) = of_pod(id, tail, place).await? {
        for line in log.lines().filter(|line| is_jobs_own(line)) {
            out.text(&output::printable(line))?;
        }
        return Ok(());
    }
    match job.error {
        Some(error) => {
            output::message("it has no Pod now; this is the error of its last attempt");
            out.text(&output::printable(&error))
        }
        None => Err(Exit::NotFound(format!("job {id} is {} and has no Pod", job.status.as_str())).into()),
    }
}

/// None if there is no Pod, or no cluster to ask.
async fn of_pod(id: Uuid, tail: u32, place: &ClusterOptions) -> anyhow::Result<Option<String>> {
    let Some(cluster) = Cluster::find(place).await? else { return Ok(None) };
    let name = spec::name(id);
    let params =
        LogParams { container: Some(spec::CONTAINER.into()), tail_lines: Some(tail.into()), ..LogParams::default() };
    match cluster.call(&format!("read log of pod {name}"), cluster.api::<Pod>().logs(&name, &params)).await {
        Ok(log) => Ok(Some(log)),
        Err(ClusterError::NotFound(_)) => Ok(None),
        Err(ClusterError::Refused { code: 400, message, .. }) => {
            Err(Exit::NotFound(format!("the job's container has not started: {message}")).into())
        }
        Err(e) => Err(e.into()),
    }
}
