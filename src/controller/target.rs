//! `Target` is the thing that the controller scales: Kubernetes Deployments, or processes of this machine.

use std::{fmt, future::Future, io, time::Instant};

use chrono::{DateTime, Utc};

use super::{
    decision::{Decision, Hold},
    limits::{InvalidLimits, Limits},
};
use crate::cluster::ClusterError;

/// A Deployment, or its local counterpart: a number of equal replicas.
#[derive(Debug)]
pub struct Scaled {
    /// The Deployment's name.
    pub name: String,
    /// Its annotations, read.
    pub limits: Result<Limits, InvalidLimits>,
    /// Its replicas, without those that were told to stop.
    pub replicas: Vec<Replica>,
    /// The number of replicas that no node has room for; they are among those that have not started.
    pub unschedulable: u32,
    /// The reason for which no replica can be taken away now.
    pub hold: Option<Hold>,
}

/// One Pod, or one process.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The identity of its workers begins with this text, up to the first `/`.
    pub key: String,
    /// The ReplicaSet of a Pod; empty for a replica that has no Pod yet. While there are several, the number of
    /// replicas
    /// that each loses is not for this program to say.
    pub group: String,
    /// The controller ordered it at this time.
    pub ordered: Instant,
    /// Its program runs as far as the target knows, so it may have a job, even if no worker of it is to be seen.
    pub up: bool,
}

/// The state of the target at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Everything that is to be scaled.
    pub deployments: Vec<Scaled>,
    /// Keys of replicas that have ended since the last observation, for whatever reason. Their leases end with them.
    pub terminated: Vec<String>,
    /// Replicas that still exist but whose program was started again, and the time of that start. Workers that
    /// started in such a replica before that time have ended. The time is on the same clock as the start time in a
    /// worker's identity.
    pub restarted: Vec<(String, DateTime<Utc>)>,
}

/// A message that is shown on the scaled object, as a Kubernetes Event.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The controller carries out this decision.
    Decided(&'a Decision),
    /// The controller does not scale the object, because its annotations are wrong.
    Invalid(&'a InvalidLimits),
    /// The controller does not scale the object, because a controller of another namespace or release leads on the same
    /// database.
    Rival(&'a str),
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Decided(decision) => f.write_str(&decision.explain()),
            Notice::Invalid(error) => error.fmt(f),
            Notice::Rival(leader) => write!(
                f,
                "the controller {leader} leads on this database, so nothing is scaled here. Give each release a \
                 database \
                 of its own, or remove one of the two"
            ),
        }
    }
}

/// The target could not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The Kubernetes API refused a call, or did not answer.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A process of this machine could not be started, or its end could not be seen.
    #[error("{act}")]
    Process {
        /// The act that failed, as a sentence without its end.
        act: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A place where replicas run.
pub trait Target: Send {
    /// Answers the state of everything that is to be scaled.
    ///
    /// # Errors
    /// If the target cannot be seen: then the controller changes nothing.
    fn observe(&mut self) -> impl Future<Output = Result<Snapshot, TargetError>> + Send;

    /// Orders replicas until there are `to` of them; false if the order has to be repeated.
    ///
    /// # Errors
    /// If the order is refused. Some replicas may have been ordered.
    fn grow(&mut self, deployment: &str, to: u32) -> impl Future<Output = Result<bool, TargetError>> + Send;

    /// Answers whether replicas can be taken away now.
    ///
    /// # Errors
    /// If the target cannot find out.
    fn may_shrink(&mut self, deployment: &str) -> impl Future<Output = Result<bool, TargetError>> + Send {
        let _ = deployment;
        std::future::ready(Ok(true))
    }

    /// Marks exactly these replicas, so that [`stop`](Self::stop) takes them and no others; false until that is
    /// certain.
    ///
    /// # Errors
    /// If the mark is refused.
    fn mark(
        &mut self,
        deployment: &str,
        replicas: &[String],
    ) -> impl Future<Output = Result<bool, TargetError>> + Send {
        let _ = (deployment, replicas);
        std::future::ready(Ok(true))
    }

    /// Takes away `fewer` of these marked replicas; false if the call has to be repeated. They are idle,
    /// and their workers claim no more. Where replicas are of several groups, more are marked than go.
    ///
    /// # Errors
    /// If the call is refused. Some replicas may have been stopped.
    fn stop(
        &mut self,
        deployment: &str,
        replicas: &[String],
        fewer: u32,
    ) -> impl Future<Output = Result<bool, TargetError>> + Send;

    /// Shows a message on the scaled object.
    fn publish(&mut self, deployment: &str, notice: Notice<'_>) {
        let _ = (deployment, notice);
    }

    /// Returns when an observation would see something new. The next reconciliation observes in any case.
    fn changed(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Outside a cluster the controller does everything except scaling.
impl Target for () {
    async fn observe(&mut self) -> Result<Snapshot, TargetError> {
        Ok(Snapshot::default())
    }

    async fn grow(&mut self, _: &str, _: u32) -> Result<bool, TargetError> {
        Ok(true)
    }

    async fn stop(&mut self, _: &str, _: &[String], _: u32) -> Result<bool, TargetError> {
        Ok(true)
    }
}
