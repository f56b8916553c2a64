//! Which commands a worker launches, and with what.

use std::{path::PathBuf, time::Duration};

use super::{job_pods::JobPods, spec::Kind};
use crate::{Error, cluster::Cluster, metrics::Facts};

/// Which commands a worker launches, and with what.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// The kinds of launch accepted. Jobs of another fail their attempt here.
    pub accept: Vec<Kind>,
    /// The program `rowlock`, to be started as the guardian of this worker's processes. Without one they
    /// outlive a worker that is killed.
    pub guardian: Option<PathBuf>,
    /// Where Pods are made; needed to accept [`Kind::Pod`].
    pub cluster: Option<Cluster>,
    /// How Pods are made.
    pub pods: PodOptions,
    /// Where the worker leaves what it knows of itself, for [`crate::http`].
    pub facts: Facts,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        LaunchOptions {
            accept: vec![Kind::Process, Kind::Resident],
            guardian: None,
            cluster: None,
            pods: PodOptions::default(),
            facts: Facts::new("worker"),
        }
    }
}

impl LaunchOptions {
    /// Whether what is accepted can be launched here; [`super::run`] asks first of all.
    ///
    /// # Errors
    /// [`Error::Config`], which says what to give.
    ///
    /// ```
    /// use rowlock::launch::{Kind, LaunchOptions};
    /// assert!(LaunchOptions::default().check().is_ok());
    /// assert!(LaunchOptions { accept: vec![Kind::Pod], ..LaunchOptions::default() }.check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        let lacks = |what: &str| Err(Error::Config(format!("launch pod needs {what}")));
        if !self.accept.contains(&Kind::Pod) {
            Ok(())
        } else if self.pods.image.is_empty() {
            lacks("the image of this program: give --pod-image, or set ROWLOCK_POD_IMAGE")
        } else if self.cluster.is_none() {
            lacks("a cluster: run in one, or give --kubeconfig or KUBECONFIG")
        } else {
            Ok(())
        }
    }
}

/// How a worker makes Pods.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// The image that holds this program; an init container copies it into each Pod.
    pub image: String,
    /// A job gets this long to end when its Pod is taken away.
    pub grace: Duration,
    /// How long a Pod may find no node, or not start, before its job goes back.
    pub pending: Duration,
    /// How long its image may not be found before its job has failed.
    pub pull: Duration,
    /// The settings that all these Pods have, beside those of their types.
    pub job_pods: JobPods,
    /// The ConfigMap that owns these Pods, and that has to be there; by default one that the worker makes, if it may.
    pub owner: Option<String>,
    /// How long a Pod whose job has failed stays, for people to look into; no longer than [`PodOptions::LONGEST_KEEP`].
    pub keep_failed: Duration,
}

impl PodOptions {
    /// A Pod whose job has failed stays no longer.
    pub const LONGEST_KEEP: Duration = Duration::from_secs(3600);
}

impl Default for PodOptions {
    fn default() -> Self {
        PodOptions {
            image: String::new(),
            grace: Duration::from_secs(30),
            pending: Duration::from_secs(300),
            pull: Duration::from_secs(90),
            job_pods: JobPods::default(),
            owner: None,
            keep_failed: Duration::ZERO,
        }
    }
}
