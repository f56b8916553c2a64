//! Takes Pods away: after their job's end, and when their job has ended elsewhere.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use uuid::Uuid;

use super::{
    database,
    pods::{PodRef, Pods, Seen},
    spec::{DATABASE, LABEL},
    status,
};
use crate::JobQueue;

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
        let mut kept = Kept::default();
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            // Seen first, asked then: a job that is not running any more when it is asked had this Pod before.
            let others = self.others(&mut kept);
            if others.is_empty() {
                continue;
            }
            let ids: Vec<Uuid> = others.iter().map(|(job, _)| *job).collect();
            let active: HashSet<Uuid> = match database::active_jobs(&queue, &ids).await {
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

    /// The Pods that nobody supervises here and that are not kept, with their jobs.
    fn others(&self, kept: &mut Kept) -> Vec<(Uuid, PodRef)> {
        let supervised = self.supervised();
        let all = self.watched.all().unwrap_or_default();
        let others = all.iter().filter_map(|pod| Some((pod, of_job(pod, self.database)?)));
        let others: Vec<_> = others.filter(|(_, (_, pod))| !supervised.contains_key(&pod.uid)).collect();
        kept.forget(&others.iter().map(|(_, (_, pod))| pod.uid.as_str()).collect());
        let (now, keep) = (Instant::now(), self.options.keep_failed);
        let due = others.into_iter().filter(|(pod, (_, at))| !kept.is_kept(pod, &at.uid, keep, now));
        due.map(|(_, other)| other).take(10_000).collect()
    }
}

/// Since when the sweep has seen Pods whose job has failed, by UID.
#[derive(Default)]
struct Kept(HashMap<String, Instant>);

impl Kept {
    fn is_kept(&mut self, pod: &Pod, uid: &str, keep: Duration, now: Instant) -> bool {
        status::has_failed(pod) && now.duration_since(*self.0.entry(uid.to_owned()).or_insert(now)) < keep
    }

    fn forget(&mut self, there: &HashSet<&str>) {
        self.0.retain(|uid, _| there.contains(uid.as_str()));
    }
}

/// The job of a Pod, if it is one of this database's and not on its way out already.
fn of_job(pod: &Pod, database: Uuid) -> Option<(Uuid, PodRef)> {
    let labels = pod.metadata.labels.as_ref()?;
    let is_ours = labels.get(DATABASE).is_some_and(|of| *of == database.to_string());
    let job = labels.get(LABEL)?.parse().ok()?;
    (is_ours && pod.metadata.deletion_timestamp.is_none()).then(|| (job, PodRef::of(pod)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_databases_pod_is_never_taken_away() {
        let (job, ours) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let pod = |labels| -> Pod { serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap() };
        assert_eq!(of_job(&pod(json!({LABEL: job, DATABASE: ours})), ours).unwrap().0, job);
        assert!(of_job(&pod(json!({LABEL: job, DATABASE: Uuid::from_u128(3)})), ours).is_none());
        assert!(of_job(&pod(json!({LABEL: job})), ours).is_none(), "nobody's");
    }

    #[test]
    fn a_failed_pod_is_kept_for_its_time_and_no_other_is() {
        let pod = |phase| -> Pod { serde_json::from_value(json!({"status": {"phase": phase}})).unwrap() };
        let (mut kept, now, keep) = (Kept::default(), Instant::now(), Duration::from_secs(60));
        assert!(kept.is_kept(&pod("Failed"), "a", keep, now) && !kept.is_kept(&pod("Succeeded"), "b", keep, now));
        assert!(kept.is_kept(&pod("Failed"), "a", keep, now + keep / 2));
        assert!(!kept.is_kept(&pod("Failed"), "a", keep, now + keep), "it has an end");
        kept.forget(&HashSet::new());
        assert!(kept.0.is_empty() && !kept.is_kept(&pod("Failed"), "a", Duration::ZERO, now));
    }
}
