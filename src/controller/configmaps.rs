//! The catalogue from a cluster: ConfigMaps with the label `rowlock.dev/job-types: "true"`. Each of their keys holds
//! a file as `rowlock types apply` takes it. All of a ConfigMap is loaded or nothing: with a mistake in it the last
//! good version stays. An entry that is taken out of a ConfigMap ends: a schedule at once, a type when no job of it
//! is left.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{lead::LeaderTerm, scaler_error::ScalerError, store::Store};
use crate::{
    Error,
    catalog::{self, Catalog},
    cluster::{Cluster, Events, Kind, Watched},
};

const LABEL: &str = "rowlock.dev/job-types=true";
/// A ConfigMap that was refused, or whose types still have jobs, is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Without a change, the leadership is asked after this often.
const LEADER_POLL: Duration = Duration::from_secs(1);

/// The cluster that has the ConfigMaps, and the Events that say what is wrong with one.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Source {
    pub cluster: Cluster,
    pub events: Events,
}

/// Loads the ConfigMaps while this controller leads, until `end`.
pub(super) async fn sync(
    store: Store,
    source: Source,
    term: watch::Receiver<Option<LeaderTerm>>,
    end: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let maps = source.cluster.watch::<ConfigMap>(LABEL, changed.clone());
    let mut sync = Sync { store, source, maps, epoch: -1, done: HashMap::new() };
    loop {
        let leads = term.borrow().filter(LeaderTerm::lasts);
        if let Some(leads) = leads
            && let Err(error) = sync.round(leads.epoch).await
        {
            tracing::warn!(%error, "the catalogue cannot be loaded; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(LEADER_POLL) => {}
            () = changed.notified(), if leads.is_some() => {}
            () = end.cancelled() => return,
        }
    }
}

struct Sync {
    store: Store,
    source: Source,
    maps: Watched<ConfigMap>,
    epoch: i64,
    /// By source: the version that was dealt with, and when it is tried again.
    done: HashMap<String, (String, Option<Instant>)>,
}

impl Sync {
    async fn round(&mut self, epoch: i64) -> Result<(), Error> {
        // No entry is removed before all ConfigMaps are known.
        let Some(maps) = self.maps.all() else { return Ok(()) };
        let prefix = format!("configmap {}/", self.source.cluster.namespace());
        let name = |m: &ConfigMap| format!("{prefix}{}", m.metadata.name.as_deref().unwrap_or_default());
        let there: Vec<String> = maps.iter().map(|m| name(m)).collect();
        if self.epoch != epoch {
            self.epoch = epoch;
            self.done.clear();
            for gone in self.store.other_catalog_sources(&prefix, &there).await? {
                self.done.insert(gone, (String::new(), Some(Instant::now())));
            }
        }
        for map in &maps {
            let (source, version) = (name(map), map.metadata.resource_version.clone().unwrap_or_default());
            let is_due = |(done, again): &(String, Option<Instant>)| {
                *done != version || again.is_some_and(|at| Instant::now() >= at)
            };
            if self.done.get(&source).is_none_or(is_due) {
                let again = self.load(&source, map).await?;
                self.done.insert(source, (version, again.then(|| Instant::now() + RETRY_AFTER)));
            }
        }
        let gone: Vec<String> = self.done.keys().filter(|s| !there.contains(s)).cloned().collect();
        for source in gone {
            if self.done.get(&source).is_some_and(|(_, again)| again.is_some_and(|at| Instant::now() < at)) {
                continue;
            }
            let none = Value::Array(Vec::new());
            let all = self.store.sync_catalog(epoch, &source, "", &none, &none).await?;
            tracing::info!(source, complete = all, "a source of the catalogue is gone");
            match all {
                true => drop(self.done.remove(&source)),
                false => drop(self.done.insert(source, (String::new(), Some(Instant::now() + RETRY_AFTER)))),
            }
        }
        Ok(())
    }

    /// Loads one ConfigMap; answers whether it has to be tried again.
    async fn load(&self, source: &str, map: &ConfigMap) -> Result<bool, Error> {
        let answer = match read(map) {
            Ok((catalog, digest)) => {
                let types = Value::Array(catalog.types.iter().map(catalog::JobType::row).collect());
                let schedules = Value::Array(catalog.schedules.iter().map(catalog::Schedule::row).collect());
                self.store.sync_catalog(self.epoch, source, &digest, &types, &schedules).await
            }
            Err(problem) => return self.report_invalid(source, map, &problem).await,
        };
        match answer {
            Ok(complete) => {
                tracing::info!(source, "the catalogue is loaded");
                Ok(!complete)
            }
            Err(error) if error.code() == Some("RL030") || error.is_transient() => Err(error),
            Err(error) => self.report_invalid(source, map, &error.to_string()).await,
        }
    }

    async fn report_invalid(&self, source: &str, map: &ConfigMap, problem: &str) -> Result<bool, Error> {
        tracing::error!(source, problem, "refused; the version that was loaded before stays");
        let note = format!("{problem}. Correct it; until then the last good version stays");
        self.source.events.publish(map.object_ref(&()), Kind::Warning, "InvalidCatalog", note);
        let name = map.metadata.name.as_deref().unwrap_or_default();
        self.store.count_error(self.epoch, name, ScalerError::InvalidCatalog).await?;
        Ok(true)
    }
}

/// Reads all keys of a ConfigMap as one catalogue, with a digest of their text.
fn read(map: &ConfigMap) -> Result<(Catalog, String), String> {
    let mut all = Catalog::default();
    let mut hash = DefaultHasher::new();
    for (key, text) in map.data.iter().flatten() {
        let catalog = catalog::parse(text).map_err(|e| format!("{key}: {e}"))?;
        all.types.extend(catalog.types);
        all.schedules.extend(catalog.schedules);
        (key, text).hash(&mut hash);
    }
    Ok((all, format!("{:016x}", hash.finish())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn map(files: &[(&str, &str)]) -> ConfigMap {
        let data = files.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn every_key_is_a_file_and_a_mistake_names_key_and_line() {
        let good = "types:\n  - {name: a, command: [x]}\nschedules:\n  - {name: s, type: a, every: 1m}\n";
        let (catalog, digest) =
            read(&map(&[("a.yaml", good), ("b.yaml", "types:\n  - {name: b, command: [x]}\n")])).unwrap();
        assert_eq!((catalog.types.len(), catalog.schedules.len()), (2, 1));
        assert_ne!(digest, read(&map(&[("a.yaml", good)])).unwrap().1);
        let bad = "types:\n  - name: a\n    command: [x]\n    tiemout: 1s\n";
        let problem = read(&map(&[("a.yaml", good), ("b.yaml", bad)])).map(drop).unwrap_err();
        assert!(
            problem.starts_with("b.yaml: ") && problem.contains("line 4") && problem.contains("tiemout"),
            "{problem}"
        );
    }
}
