//! The catalogue from a cluster: ConfigMaps with the label `rowlock.dev/job-types: "true"`. Each of their keys holds
//! a file as `rowlock types apply` takes it. All of a ConfigMap is loaded or nothing: with a mistake in it the last
//! good version stays. An entry that is taken out of a ConfigMap ends: a schedule at once, a type when no job of it
//! is left.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{lead::LeaderTerm, release, scaler_error::ScalerError, sources::Sources, store::Store};
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
    /// The Helm release that this controller belongs to; ConfigMaps of other releases are left alone.
    pub release: Option<String>,
}

impl Source {
    fn has(&self, map: &ConfigMap) -> bool {
        release::is_ours(map.metadata.labels.as_ref(), self.release.as_deref())
    }
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
    let mut sync = Sync { store, source, maps, epoch: -1, sources: Sources::default() };
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
    sources: Sources,
}

impl Sync {
    async fn round(&mut self, epoch: i64) -> Result<(), Error> {
        // No entry is removed before all ConfigMaps are known.
        let Some(maps) = self.maps.all() else { return Ok(()) };
        let maps: Vec<_> = maps.iter().filter(|m| self.source.has(m)).collect();
        let prefix = format!("configmap {}/", self.source.cluster.namespace());
        let name = |m: &ConfigMap| format!("{prefix}{}", m.metadata.name.as_deref().unwrap_or_default());
        let there: Vec<(String, String)> =
            maps.iter().map(|m| (name(m), m.metadata.resource_version.clone().unwrap_or_default())).collect();
        if self.epoch != epoch {
            self.epoch = epoch;
            self.sources = Sources::default();
            let names: Vec<String> = there.iter().map(|(source, _)| source.clone()).collect();
            for gone in self.store.other_catalog_sources(&prefix, &names).await? {
                self.sources.done(gone, String::new(), None);
            }
        }
        let plan = self.sources.plan(&there, Instant::now());
        for n in plan.load {
            let again = self.load(&there[n].0, maps[n], &plan.gone).await?;
            let (source, version) = there[n].clone();
            self.sources.done(source, version, again.then(|| Instant::now() + RETRY_AFTER));
        }
        for source in plan.end {
            let none = Value::Array(Vec::new());
            let complete = self.store.sync_catalog(epoch, &source, "", &none, &none, &[]).await?;
            tracing::info!(source, complete, "a source of the catalogue is gone");
            match complete {
                true => self.sources.forget(&source),
                false => self.sources.done(source, String::new(), Some(Instant::now() + RETRY_AFTER)),
            }
        }
        Ok(())
    }

    /// Loads one ConfigMap; answers whether it has to be tried again.
    async fn load(&self, source: &str, map: &ConfigMap, former: &[String]) -> Result<bool, Error> {
        let answer = match read(map) {
            Ok((catalog, digest)) => {
                let types = Value::Array(catalog.types.iter().map(catalog::JobType::row).collect());
                let schedules = Value::Array(catalog.schedules.iter().map(catalog::Schedule::row).collect());
                self.store.sync_catalog(self.epoch, source, &digest, &types, &schedules, former).await
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
