//! Takes Pods away: after their job's end, and when their job has ended elsewhere.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    pods::{PodRef, Pods, Seen},
    spec::LABEL,
};
use crate::{Error, JobQueue};

/// Between two sweeps for Pods whose job has ended elsewhere.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The grace of a Pod that a sweep takes away, in seconds.
const SWEPT_GRACE: u32 = 5;
/// A Pod that was deleted is gone within this time, if nothing is wrong.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Between two attempts to delete a Pod.
const DELETE_RETRY: Duration = Duration::from_secs(1);

/// The cleanup after a job whose outcome the database knows: its Pod goes, and its place is free when the Pod is gone.
pub(super) fn afterwards(pods: Arc<Pods>, pod: PodRef) -> BoxFuture<'static, ()> {
    Box::pin(async move { pods.remove(&pod, false).await })
}

impl Pods {
    /// Takes a Pod away and waits until it is gone, within a bound. The sweep finds what is left then, or whoever has
    /// the job next does.
    pub(super) async fn remove(&self, pod: &PodRef, by_force: bool) {
        let mut watch = self.supervise(&pod.uid);
        let going = async {
            while let Err(error) = self.delete(pod, by_force.then_some(0)).await {
                tracing::warn!(%error, "a Pod could not be taken away yet");
                tokio::time::sleep(DELETE_RETRY).await;
            }
            while let Seen::There(_) = watch.seen() {
                if watch.changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(GONE_WITHIN, going).await.is_err() {
            tracing::warn!(pod = pod.name, "a Pod is not gone yet");
        }
    }

    /// Takes away Pods whose job has ended, now and then, as long as it is polled.
    pub(crate) async fn sweep(self: Arc<Self>, queue: JobQueue) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            // Seen first, asked then: a job that is not running any more when it is asked had this Pod before.
            let others: Vec<(Uuid, PodRef)> = {
                let supervised = self.supervised();
                let all = self.watched.all().unwrap_or_default();
                all.iter()
                    .filter_map(|pod| of_job(pod))
                    .filter(|(_, pod)| !supervised.contains_key(&pod.uid))
                    .take(10_000)
                    .collect()
            };
            if others.is_empty() {
                continue;
            }
            let ids: Vec<Uuid> = others.iter().map(|(job, _)| *job).collect();
            let active: HashSet<Uuid> = match active_jobs(&queue, &ids).await {
                Ok(active) => active.into_iter().collect(),
                Err(error) => {
                    tracing::warn!(%error, "the sweep does not know which jobs are active");
                    continue;
                }
            };
            for (job, pod) in others.iter().filter(|(job, _)| !active.contains(job)) {
                tracing::info!(%job, pod = pod.name, "its job has ended: taken away");
                if let Err(error) = self.delete(pod, Some(SWEPT_GRACE)).await {
                    tracing::warn!(%error, "a Pod without a job is left to the next sweep");
                }
            }
        }
    }
}

/// Of these jobs, those that run or are due.
async fn active_jobs(queue: &JobQueue, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let client = queue.pool().get().await?;
    let sql = "SELECT id FROM rowlock.active_jobs_v1($1)";
    let rows = client.query_typed(sql, &[(&ids, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// The job of a Pod, if it is one of ours and not on its way out already.
fn of_job(pod: &Pod) -> Option<(Uuid, PodRef)> {
    let job = pod.metadata.labels.as_ref()?.get(LABEL)?.parse().ok()?;
    pod.metadata.deletion_timestamp.is_none().then(|| (job, PodRef::of(pod)))
}
