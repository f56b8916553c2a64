//! What is scaled: a seam. Two kinds of it there will be, processes of this machine and Kubernetes Deployments.

use std::{future::Future, time::Instant};

use super::limits::{InvalidLimits, Limits};

/// Something with replicas.
#[derive(Debug)]
pub struct Scaled {
    /// The Deployment's name.
    pub name: String,
    /// What its annotations ask for.
    pub limits: Result<Limits, InvalidLimits>,
    /// Its replicas, but those told to stop.
    pub replicas: Vec<Replica>,
    /// Of those that have not started, the ones no node has room for.
    pub unschedulable: u32,
}

/// One Pod, or one process.
#[derive(Debug, Clone)]
pub struct Replica {
    /// What its workers' identity begins with, up to the first `/`.
    pub key: String,
    /// When it was ordered.
    pub ordered: Instant,
}

/// What a look at the target saw.
#[derive(Debug, Default)]
pub struct Look {
    /// All that is to be scaled.
    pub deployments: Vec<Scaled>,
    /// Keys of replicas that have ended since the last look, however they did: their leases end with them.
    pub gone: Vec<String>,
}

/// A place where replicas run.
pub trait Target: Send {
    /// What there is.
    ///
    /// # Errors
    /// If it cannot be seen: then nothing is changed.
    fn look(&mut self) -> impl Future<Output = anyhow::Result<Look>> + Send;

    /// Orders replicas until there are so many.
    ///
    /// # Errors
    /// If it is refused. Some may have been ordered.
    fn grow(&mut self, deployment: &str, to: u32) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Stops exactly these, by their keys. They are idle, and claim no more.
    ///
    /// # Errors
    /// If it is refused. Some may have been stopped.
    fn stop(&mut self, deployment: &str, replicas: &[String]) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Returns when a look would see something new; at the latest the next turn does.
    fn changed(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Outside a cluster: all but scaling.
impl Target for () {
    async fn look(&mut self) -> anyhow::Result<Look> {
        Ok(Look::default())
    }

    async fn grow(&mut self, _: &str, _: u32) -> anyhow::Result<()> {
        Ok(())
    }

    async fn stop(&mut self, _: &str, _: &[String]) -> anyhow::Result<()> {
        Ok(())
    }
}
