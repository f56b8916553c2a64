//! The Pods of jobs in a namespace: one watch of them all, and what is done to one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, LogParams, PostParams, Preconditions};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    PodOptions, Remains,
    report::{PROGRESS, Report},
    spec::{CONTAINER, LABEL, SELECTOR},
};
use crate::{
    Session,
    cluster::{Cluster, ClusterError, Watched},
    worker::launch::progress::{BYTES, Progress},
};

/// Between two looks for Pods whose job has ended elsewhere.
const SWEEP: Duration = Duration::from_secs(5);
/// What such a Pod has to end in.
const SWEPT_GRACE: u32 = 5;
/// Until one that was taken away is gone, if nothing is wrong.
const GONE: Duration = Duration::from_secs(10);
/// Between two attempts to take one away.
const AGAIN: Duration = Duration::from_secs(1);
/// A chatty job's log is followed no faster: this much, and a pause.
const FOLLOW_BYTES: usize = 256 * 1024;
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);

/// The Pods of all jobs in the namespace, and this worker's way to them.
#[derive(Debug)]
pub(in crate::worker) struct Pods {
    cluster: Cluster,
    pub(super) options: PodOptions,
    watched: Watched<Pod>,
    /// Those this worker attends to, by UID; with what was last seen of one that is gone.
    mine: Mutex<HashMap<String, Option<Arc<Pod>>>>,
    changed: watch::Sender<()>,
    telling: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What the watch knows of a Pod.
pub(super) enum Seen {
    Not,
    There(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// Attends to a Pod as long as it lives.
pub(super) struct Attending<'a> {
    pods: &'a Pods,
    pub uid: String,
    pub changed: watch::Receiver<()>,
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        self.pods.mine().remove(&self.uid);
    }
}

impl Attending<'_> {
    pub(super) fn seen(&self) -> Seen {
        if let Some(last) = self.pods.mine().get(&self.uid).and_then(Clone::clone) {
            return Seen::Gone(last);
        }
        self.pods.watched.get(&self.uid).map_or(Seen::Not, Seen::There)
    }
}

impl Pods {
    /// Begins to watch.
    pub(in crate::worker) fn start(cluster: Cluster, options: PodOptions) -> Arc<Pods> {
        let notify = Arc::new(Notify::new());
        let watched = cluster.watch::<Pod>(SELECTOR, notify.clone());
        let (changed, _) = watch::channel(());
        let (mine, telling) = (Mutex::default(), Mutex::default());
        let pods = Arc::new(Pods { cluster, options, watched, mine, changed, telling });
        let weak = Arc::downgrade(&pods);
        let task = tokio::spawn(async move {
            loop {
                notify.notified().await;
                let Some(pods) = weak.upgrade() else { return };
                for pod in pods.watched.take_gone() {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    pods.mine().entry(uid).and_modify(|last| *last = Some(pod));
                }
                pods.changed.send_replace(());
            }
        });
        *pods.telling.lock().expect("nobody panics with it") = Some(AbortOnDropHandle::new(task));
        pods
    }

    fn mine(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Pod>>>> {
        self.mine.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn attend(&self, uid: &str) -> Attending<'_> {
        let changed = self.changed.subscribe();
        self.mine().insert(uid.to_owned(), None);
        Attending { pods: self, uid: uid.to_owned(), changed }
    }

    pub(super) async fn create(&self, name: &str, pod: &Pod) -> Result<Pod, ClusterError> {
        let api = self.cluster.api::<Pod>();
        self.cluster.call(&format!("create pod {name}"), api.create(&PostParams::default(), pod)).await
    }

    /// The Pod of that name, if there is one.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Pod>, ClusterError> {
        let api = self.cluster.api::<Pod>();
        match self.cluster.call(&format!("get pod {name}"), api.get(name)).await {
            Ok(pod) => Ok(Some(pod)),
            Err(ClusterError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a payload's Secret; one that is there already is the same.
    pub(super) async fn create_secret(&self, secret: &Secret) -> Result<(), ClusterError> {
        let api = self.cluster.api::<Secret>();
        let what = format!("create secret {}", secret.metadata.name.as_deref().unwrap_or_default());
        match self.cluster.call(&what, api.create(&PostParams::default(), secret)).await {
            Ok(_) | Err(ClusterError::Exists(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes away exactly this Pod, not one made anew under its name; one that is gone is no error.
    pub(super) async fn delete(&self, pod: &Remains, grace: Option<u32>) -> Result<(), ClusterError> {
        let api = self.cluster.api::<Pod>();
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let how =
            DeleteParams { grace_period_seconds: grace, preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.cluster.call(&format!("delete pod {}", pod.name), api.delete(&pod.name, &how)).await {
            Ok(_) | Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes a Pod away and waits until it is gone, within a bound. What is left then, the sweep finds, or whoever has the
    /// job next.
    pub(in crate::worker) async fn remove(&self, pod: &Remains, by_force: bool) {
        let mut attending = self.attend(&pod.uid);
        let going = async {
            while let Err(error) = self.delete(pod, by_force.then_some(0)).await {
                tracing::warn!(%error, "a Pod could not be taken away yet");
                tokio::time::sleep(AGAIN).await;
            }
            while let Seen::There(_) = attending.seen() {
                if attending.changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(GONE, going).await.is_err() {
            tracing::warn!(pod = pod.name, "a Pod is not gone yet");
        }
    }

    /// A report of which the message has a part only, from the container's log.
    pub(super) async fn report(&self, pod: &str, bytes: usize) -> Result<Option<Report>, ClusterError> {
        let lines = i64::try_from(Report::lines(bytes)).ok();
        let params = LogParams { container: Some(CONTAINER.into()), tail_lines: lines, ..LogParams::default() };
        let api = self.cluster.api::<Pod>();
        let log = self.cluster.call(&format!("read log of pod {pod}"), api.logs(pod, &params)).await?;
        Ok(Report::from_log(&log, bytes))
    }

    /// Takes progress from the log as it is written, until the container ends.
    pub(super) async fn follow(&self, pod: &str, progress: &Progress) {
        let params = LogParams { container: Some(CONTAINER.into()), follow: true, ..LogParams::default() };
        let mut pause = Duration::from_secs(1);
        loop {
            match self.cluster.api::<Pod>().log_stream(pod, &params).await {
                Ok(log) => match read(log, progress).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, pod, "its log broke off"),
                },
                Err(error) => tracing::debug!(%error, pod, "its log cannot be followed"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    /// Takes away Pods whose job has ended, now and then, as long as it is polled.
    pub(in crate::worker) async fn sweep(self: Arc<Self>, session: Arc<Session>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            // Seen first, asked then: a job that is not running any more when it is asked had this Pod before.
            let others: Vec<(Uuid, Remains)> = {
                let mine = self.mine();
                let all = self.watched.all().unwrap_or_default();
                all.iter()
                    .filter_map(|pod| of_job(pod))
                    .filter(|(_, pod)| !mine.contains_key(&pod.uid))
                    .take(10_000)
                    .collect()
            };
            if others.is_empty() {
                continue;
            }
            let ids: Vec<Uuid> = others.iter().map(|(job, _)| *job).collect();
            let living: HashSet<Uuid> = match session.living(&ids).await {
                Ok(living) => living.into_iter().collect(),
                Err(error) => {
                    tracing::warn!(%error, "the sweep does not know which jobs live");
                    continue;
                }
            };
            for (job, pod) in others.iter().filter(|(job, _)| !living.contains(job)) {
                tracing::info!(%job, pod = pod.name, "its job has ended: taken away");
                if let Err(error) = self.delete(pod, Some(SWEPT_GRACE)).await {
                    tracing::warn!(%error, "a Pod without a job is left to the next sweep");
                }
            }
        }
    }
}

/// The job of a Pod, if it is one of ours and not on its way out already.
fn of_job(pod: &Pod) -> Option<(Uuid, Remains)> {
    let job = pod.metadata.labels.as_ref()?.get(LABEL)?.parse().ok()?;
    pod.metadata.deletion_timestamp.is_none().then(|| (job, Remains::of(pod)))
}

async fn read(log: impl futures_util::AsyncBufRead, progress: &Progress) -> std::io::Result<()> {
    let mut lines = std::pin::pin!(log.lines());
    let mut read = 0;
    while let Some(line) = lines.try_next().await? {
        if let Some(value) = line.strip_prefix(PROGRESS).filter(|v| v.len() <= BYTES) {
            progress.line(value);
        }
        read += line.len() + 1;
        if read >= FOLLOW_BYTES {
            read = 0;
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }
    Ok(())
}
