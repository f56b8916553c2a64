//! What is scaled: a seam. Two kinds of it there are, processes of this machine and Kubernetes Deployments.

use std::{future::Future, time::Instant};

use chrono::{DateTime, Utc};

use super::{
    decision::Decision,
    limits::{InvalidLimits, Limits},
};

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
    /// Replicas that are there and began anew: what ran in one before that instant has ended. By the clock by
    /// which workers tell in their identity when they started.
    pub anew: Vec<(String, DateTime<Utc>)>,
}

/// What people are told at what is scaled.
#[derive(Debug)]
pub enum News<'a> {
    /// A decision is being done.
    Decided(&'a Decision),
    /// Nothing is done.
    Invalid(&'a InvalidLimits),
}

/// A place where replicas run.
pub trait Target: Send {
    /// What there is.
    ///
    /// # Errors
    /// If it cannot be seen: then nothing is changed.
    fn look(&mut self) -> impl Future<Output = anyhow::Result<Look>> + Send;

    /// Orders replicas until there are so many; false if it has to be asked again.
    ///
    /// # Errors
    /// If it is refused. Some may have been ordered.
    fn grow(&mut self, deployment: &str, to: u32) -> impl Future<Output = anyhow::Result<bool>> + Send;

    /// Whether replicas can be taken away now.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn may_shrink(&mut self, deployment: &str) -> impl Future<Output = anyhow::Result<bool>> + Send {
        let _ = deployment;
        std::future::ready(Ok(true))
    }

    /// Marks exactly these, so that stopping takes them and no other; false until that is certain.
    ///
    /// # Errors
    /// If it is refused.
    fn mark(&mut self, deployment: &str, replicas: &[String]) -> impl Future<Output = anyhow::Result<bool>> + Send {
        let _ = (deployment, replicas);
        std::future::ready(Ok(true))
    }

    /// Stops exactly these, by their keys; false if it has to be asked again. They are idle, and claim no more.
    ///
    /// # Errors
    /// If it is refused. Some may have been stopped.
    fn stop(&mut self, deployment: &str, replicas: &[String]) -> impl Future<Output = anyhow::Result<bool>> + Send;

    /// Tells people who look at what is scaled.
    fn tell(&mut self, deployment: &str, news: News<'_>) {
        let _ = (deployment, news);
    }

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

    async fn grow(&mut self, _: &str, _: u32) -> anyhow::Result<bool> {
        Ok(true)
    }

    async fn stop(&mut self, _: &str, _: &[String]) -> anyhow::Result<bool> {
        Ok(true)
    }
}
