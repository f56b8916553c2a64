//! The Pods of a database's jobs in a namespace: one watch of them all, and the calls for one.

use std::{
    collections::HashMap,
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
    backoff::Backoff,
    owner::Owner,
    report::{PROGRESS, Report},
    spec::{self, CONTAINER},
};
use crate::{
    ClaimedJob,
    cluster::{Cluster, ClusterError, Watched},
    launch::options::PodOptions,
    worker::progress::{BYTES, Progress},
};

/// A chatty job's log is followed no faster: this much, and a pause.
const FOLLOW_BYTES: usize = 256 * 1024;
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);

/// One Pod, whatever is made under its name later.
#[derive(Debug, Clone)]
pub(super) struct PodRef {
    pub name: String,
    pub uid: String,
}

impl PodRef {
    pub(super) fn of(pod: &Pod) -> PodRef {
        PodRef {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// The Pods of all jobs of a database in the namespace, and this worker's way to them.
#[derive(Debug)]
pub(crate) struct Pods {
    pub(super) cluster: Cluster,
    pub(super) options: PodOptions,
    /// Whose the Pods are.
    pub(super) database: Uuid,
    /// So many jobs run at once.
    pub(super) places: usize,
    pub(super) owner: Owner,
    backoff: Mutex<Backoff>,
    pub(super) watched: Watched<Pod>,
    /// The Pods that this worker supervises, by UID; with what was last seen of one that is gone.
    supervised: Mutex<HashMap<String, Option<Arc<Pod>>>>,
    changed: watch::Sender<()>,
    watching: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The knowledge of the watch about a Pod.
pub(super) enum Seen {
    Not,
    There(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// Supervises a Pod as long as this value lives.
pub(super) struct PodWatch<'a> {
    pods: &'a Pods,
    pub uid: String,
    pub changed: watch::Receiver<()>,
}

impl Drop for PodWatch<'_> {
    fn drop(&mut self) {
        self.pods.supervised().remove(&self.uid);
    }
}

/// A job has a place for its Pod as long as this value lives.
pub(super) struct Trying {
    pods: Arc<Pods>,
    job_type: String,
    job: Uuid,
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.pods.backoff().left(&self.job_type, self.job);
    }
}

impl PodWatch<'_> {
    pub(super) fn seen(&self) -> Seen {
        if let Some(last) = self.pods.supervised().get(&self.uid).and_then(Clone::clone) {
            return Seen::Gone(last);
        }
        self.pods.watched.get(&self.uid).map_or(Seen::Not, Seen::There)
    }
}

impl Pods {
    /// Starts the watch.
    pub(crate) fn start(cluster: Cluster, options: PodOptions, database: Uuid, places: usize) -> Arc<Pods> {
        let notify = Arc::new(Notify::new());
        let watched = cluster.watch::<Pod>(&spec::selector(database), notify.clone());
        let pods = Arc::new(Pods {
            owner: Owner::new(options.owner.as_deref(), database),
            cluster,
            options,
            database,
            places,
            backoff: Mutex::default(),
            watched,
            supervised: Mutex::default(),
            changed: watch::channel(()).0,
            watching: Mutex::default(),
        });
        let weak = Arc::downgrade(&pods);
        let task = tokio::spawn(async move {
            loop {
                notify.notified().await;
                let Some(pods) = weak.upgrade() else { return };
                for pod in pods.watched.take_gone() {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    pods.supervised().entry(uid).and_modify(|last| *last = Some(pod));
                }
                pods.changed.send_replace(());
            }
        });
        *pods.watching.lock().expect("nobody panics with it") = Some(AbortOnDropHandle::new(task));
        pods
    }

    pub(super) fn supervised(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Pod>>>> {
        self.supervised.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn trying(self: &Arc<Self>, job: &ClaimedJob) -> Trying {
        Trying { pods: self.clone(), job_type: job.job_type.clone(), job: job.id }
    }

    pub(super) fn supervise(&self, uid: &str) -> PodWatch<'_> {
        let changed = self.changed.subscribe();
        self.supervised().insert(uid.to_owned(), None);
        PodWatch { pods: self, uid: uid.to_owned(), changed }
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
    pub(super) async fn delete(&self, pod: &PodRef, grace: Option<u32>) -> Result<(), ClusterError> {
        let api = self.cluster.api::<Pod>();
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let how =
            DeleteParams { grace_period_seconds: grace, preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.cluster.call(&format!("delete pod {}", pod.name), api.delete(&pod.name, &how)).await {
            Ok(_) | Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => Ok(()),
            Err(e) => Err(e),
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
