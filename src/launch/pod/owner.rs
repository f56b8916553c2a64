//! The owner of all Pods of a database's jobs, a ConfigMap: `kubectl drain` moves a Pod that somebody controls, and if
//! the owner goes, as with its release, the cluster takes the Pods and their Secrets away.
//!
//! No worker is the owner, nor its Deployment: a Pod outlives both, and another worker adopts it.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::api::PostParams;
use serde_json::json;
use uuid::Uuid;

use super::spec::{DATABASE, MANAGED};
use crate::cluster::{Cluster, ClusterError};

/// One that was made anew has another UID, and the cluster takes away what names the old one.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// The owner, as it was found last.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    database: Uuid,
    /// Somebody else makes it: a Pod without it would stay behind when all the rest has gone.
    is_given: bool,
    found: Mutex<Option<Found>>,
}

#[derive(Debug, Clone)]
struct Found {
    at: Instant,
    owner: Option<OwnerReference>,
}

impl Owner {
    pub(super) fn new(given: Option<&str>, database: Uuid) -> Owner {
        let name = given.map_or_else(|| format!("rowlock-jobs-{database}"), ToOwned::to_owned);
        Owner { name, database, is_given: given.is_some(), found: Mutex::default() }
    }

    /// The reference for a new Pod; none where this worker may neither read nor make the owner. Jobs that begin at the
    /// same time may ask at the same time: nobody waits for the answer to another.
    pub(super) async fn find(&self, cluster: &Cluster) -> Result<Option<OwnerReference>, ClusterError> {
        if let Some(known) = self.found().as_ref().filter(|f| f.at.elapsed() < FRESH_FOR) {
            return Ok(known.owner.clone());
        }
        let owner = match self.look(cluster).await {
            Ok(map) => Some(reference(&map)),
            Err(ClusterError::Forbidden { message, .. }) if !self.is_given => {
                if self.found().is_none() {
                    tracing::warn!(
                        message,
                        "the Pods of jobs have no owner, so kubectl drain refuses their nodes; let the worker get and \
                         create ConfigMaps, or make one and give its name with --pod-owner"
                    );
                }
                None
            }
            Err(error) => return Err(error),
        };
        *self.found() = Some(Found { at: Instant::now(), owner: owner.clone() });
        Ok(owner)
    }

    /// A Pod was taken away, perhaps because its owner has gone: the next one asks again.
    pub(super) fn forget(&self) {
        *self.found() = None;
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().expect("no code panics while it holds this lock")
    }

    async fn look(&self, cluster: &Cluster) -> Result<ConfigMap, ClusterError> {
        let (api, name) = (cluster.api::<ConfigMap>(), &self.name);
        let what = format!("get configmap {name}, the owner of jobs' Pods");
        let get = || cluster.call(&what, api.get(name));
        match get().await {
            Err(ClusterError::NotFound(_)) if !self.is_given => {}
            answer => return answer,
        }
        let made = self.object();
        match cluster.call(&format!("create configmap {name}"), api.create(&PostParams::default(), &made)).await {
            Err(ClusterError::Exists(_)) => get().await,
            answer => answer,
        }
    }

    fn object(&self) -> ConfigMap {
        let labels = json!({MANAGED: "rowlock", DATABASE: self.database});
        let about = "This owns the Pods of jobs. If it is deleted, the cluster deletes these Pods.";
        serde_json::from_value(
            json!({"metadata": {"name": self.name, "labels": labels}, "data": {"about": about}, "immutable": true}),
        )
        .expect("these are a ConfigMap's fields")
    }
}

/// As a controller: else `kubectl drain` counts a Pod as nobody's.
fn reference(map: &ConfigMap) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: map.metadata.name.clone().unwrap_or_default(),
        uid: map.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_an_owner_of_its_own_and_owns_as_a_controller() {
        let owner = Owner::new(None, Uuid::from_u128(7));
        let map = owner.object();
        assert_eq!(map.metadata.name.as_deref(), Some("rowlock-jobs-00000000-0000-0000-0000-000000000007"));
        assert_ne!(Owner::new(None, Uuid::from_u128(8)).name, owner.name);
        assert_eq!((reference(&map).controller, reference(&map).block_owner_deletion), (Some(true), None));
        assert!(Owner::new(Some("mail-jobs"), Uuid::nil()).is_given);
    }
}
