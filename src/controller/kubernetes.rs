//! Deployments with the label `rowlock.dev/worker: "true"` as the target. Its rooms: `pod`, the meaning of a Pod's
//! state; `view`, a Deployment with its Pods as replicas; `mark`, the choice of the Pods that go first; `size`, the
//! changes of the number.
//!
//! An observation reads the local copies that two watches keep, and costs no request; only acts do. While the API
//! server is away the last observation holds, and calls to it are rare.
//!
//! The service account needs these rights, in its namespace only:
//!
//! ```yaml
//! - {apiGroups: [apps], resources: [deployments], verbs: [list, watch]}
//! - {apiGroups: [apps], resources: [deployments/scale], verbs: [get, patch]}
//! - {apiGroups: [""], resources: [pods], verbs: [list, watch, patch]}      # patch: the deletion cost
//! - {apiGroups: [""], resources: [configmaps], verbs: [list, watch]}       # the catalogue
//! - {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
//! ```

mod mark;
mod pod;
mod size;
mod terminated;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Resource,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Notify;

use self::{
    pod::State,
    size::{Answer, Change, Plan, Size},
    view::{Known, uid},
};
use super::{
    release,
    target::{Notice, Snapshot, Target, TargetError},
};
use crate::cluster::{Cluster, ClusterError, Events, Kind, Watched};

/// The label of a Deployment that is scaled.
pub const LABEL: &str = "rowlock.dev/worker=true";
/// Every Pod of a Deployment has this label.
const POD_SELECTOR: &str = "pod-template-hash";

/// After a call that did not reach the API server, the next one waits this long.
const API_COOLDOWN: Duration = Duration::from_secs(2);
/// The controller that deletes Pods has seen a deletion cost when this program has seen it for this time.
const DELETION_COST_SETTLE: Duration = Duration::from_millis(1500);
/// A Pod that still exists this long after its Deployment was made smaller was spared: another Pod went.
const POD_DELETE_RETRY: Duration = Duration::from_secs(30);

/// The Deployments of a namespace.
pub struct Deployments {
    cluster: Cluster,
    events: Events,
    deployments: Watched<Deployment>,
    pods: Watched<Pod>,
    changed: Arc<Notify>,
    /// The time at which each Pod was ordered, as far as it is known.
    ordered: HashMap<String, Instant>,
    /// Terminated Pods that were already reported to the database but still exist.
    ended: HashSet<String>,
    /// Pods that are to be deleted, and since when.
    stopping: HashMap<String, Instant>,
    memories: HashMap<String, Memory>,
    away_until: Option<Instant>,
    /// The Helm release that this controller belongs to; Deployments of other releases are left alone.
    release: Option<String>,
}

/// The facts about a Deployment that its object does not hold.
struct Memory {
    size: Size,
    short_since: Instant,
    /// A rollout goes on since this time.
    unsettled_since: Option<Instant>,
    /// The marked Pods, and since when exactly those are marked.
    marked: Option<(Vec<String>, Instant)>,
}

impl Deployments {
    /// Begins to watch the Deployments of the namespace and their Pods.
    ///
    /// ```no_run
    /// # async fn f(cluster: rowlock::cluster::Cluster, queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// use rowlock::{cluster::Events, controller::{self, kubernetes::Deployments}};
    /// let events = Events::new(cluster.clone(), "controller");
    /// let target = Deployments::watch(cluster, events);
    /// let end = tokio_util::sync::CancellationToken::new();
    /// controller::run(queue, target, controller::Options::default(), end).await?;
    /// # Ok(()) }
    /// ```
    pub fn watch(cluster: Cluster, events: Events) -> Deployments {
        let changed = Arc::new(Notify::new());
        Deployments {
            events,
            deployments: cluster.watch(LABEL, changed.clone()),
            pods: cluster.watch(POD_SELECTOR, changed.clone()),
            cluster,
            changed,
            ordered: HashMap::new(),
            ended: HashSet::new(),
            stopping: HashMap::new(),
            memories: HashMap::new(),
            away_until: None,
            release: None,
        }
    }

    /// Leaves alone what Helm made for another release in the same namespace.
    ///
    /// ```no_run
    /// # fn f(target: rowlock::controller::kubernetes::Deployments) {
    /// let target = target.of_release(Some("mail".into()));
    /// # }
    /// ```
    pub fn of_release(mut self, release: Option<String>) -> Deployments {
        self.release = release;
        self
    }

    /// The object as the watch saw it last.
    fn deployment(&self, name: &str) -> Option<Arc<Deployment>> {
        self.deployments.all()?.into_iter().find(|d| d.metadata.name.as_deref() == Some(name))
    }

    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }

    /// Remembers whether the API server answers. None for an answer that says: observe again.
    fn heard<T>(&mut self, answer: Result<T, ClusterError>) -> Result<Option<T>, TargetError> {
        let away = answer.as_ref().is_err_and(ClusterError::is_away);
        self.away_until = away.then(|| Instant::now() + API_COOLDOWN);
        match answer {
            Ok(it) => Ok(Some(it)),
            Err(ClusterError::Conflict(_) | ClusterError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the size, if the Deployment is still as it was observed.
    async fn scale(&mut self, name: &str, change: Change) -> Result<bool, TargetError> {
        let Some(deployment) = self.deployment(name).filter(|_| !self.is_away()) else { return Ok(false) };
        let Some(memory) = self.memories.get_mut(name) else { return Ok(false) };
        let (version, seen) = set_to(&deployment);
        let present = memory.size.present(version, seen);
        let to = match memory.size.plan(version, present, change) {
            Plan::Done => return Ok(true),
            Plan::Wait => return Ok(false),
            Plan::Set(to) => to,
        };
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": to}}));
        let (api, params) = (self.cluster.api::<Deployment>(), PatchParams::default());
        let what = format!("scale deployment {name}");
        let answer = self.cluster.call(&what, api.patch_scale(name, &params, &patch)).await;
        let ended = match &answer {
            Ok(_) => Answer::Yes,
            Err(error) if error.is_away() => Answer::None,
            Err(_) => Answer::No,
        };
        memory.size.answered(version.to_owned(), to, change, ended);
        Ok(self.heard(answer)?.is_some())
    }
}

/// The version that the watch shows, and its size.
fn set_to(deployment: &Deployment) -> (&str, u32) {
    let size = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    (deployment.metadata.resource_version.as_deref().unwrap_or_default(), u32::try_from(size).unwrap_or(0))
}

impl Target for Deployments {
    async fn observe(&mut self) -> Result<Snapshot, TargetError> {
        let (Some(deployments), Some(pods)) = (self.deployments.all(), self.pods.all()) else {
            return Ok(Snapshot::default());
        };
        let is_ours = |d: &Arc<Deployment>| release::is_ours(d.metadata.labels.as_ref(), self.release.as_deref());
        let deployments: Vec<Arc<Deployment>> = deployments.into_iter().filter(is_ours).collect();
        let now = Instant::now();
        let new = || Memory { size: Size::default(), short_since: now, unsettled_since: None, marked: None };
        for d in &deployments {
            self.memories.entry(d.metadata.name.clone().unwrap_or_default()).or_insert_with(new);
        }
        let ours: HashSet<String> = self.memories.keys().cloned().collect();
        let terminated = self.terminated(&pods, &ours);
        let mut by_deployment: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &pods {
            if let Some(name) = pod::deployment(pod).filter(|d| ours.contains(*d)) {
                self.ordered.entry(uid(pod).to_owned()).or_insert_with(|| pod::ordered(pod));
                by_deployment.entry(name).or_default().push(pod);
            }
        }
        let is_away = self.is_away();
        let mut snapshot = Snapshot { terminated, ..Snapshot::default() };
        for d in deployments.iter().filter(|d| d.metadata.deletion_timestamp.is_none()) {
            let name = d.metadata.name.as_deref().unwrap_or_default();
            let pods = by_deployment.get(name).map(Vec::as_slice).unwrap_or_default();
            let there = pods.iter().filter(|p| !matches!(pod::state(p), State::Ended | State::Leaving)).count();
            let Some(memory) = self.memories.get_mut(name) else { continue };
            let (version, seen) = set_to(d);
            let set_to = memory.size.present(version, seen);
            if there >= set_to as usize {
                memory.short_since = now;
            }
            memory.unsettled_since = (!view::is_settled(d)).then(|| memory.unsettled_since.unwrap_or(now));
            let known = Known {
                ordered: &self.ordered,
                stopping: &self.stopping,
                short_since: memory.short_since,
                unsettled_since: memory.unsettled_since,
                is_away,
                now,
            };
            snapshot.deployments.push(view::scaled(d, pods, set_to, &known));
            snapshot.restarted.extend(pods.iter().filter_map(|p| Some((uid(p).to_owned(), pod::restarted(p)?))));
        }
        // A deleted Deployment is remembered for as long as it has Pods: their ends have to be reported.
        let seen: HashSet<&str> = deployments.iter().filter_map(|d| d.metadata.name.as_deref()).collect();
        self.memories.retain(|name, _| seen.contains(name.as_str()) || by_deployment.contains_key(name.as_str()));
        Ok(snapshot)
    }

    async fn grow(&mut self, deployment: &str, to: u32) -> Result<bool, TargetError> {
        self.scale(deployment, Change::AtLeast(to)).await
    }

    async fn may_shrink(&mut self, deployment: &str) -> Result<bool, TargetError> {
        if self.is_away() {
            return Ok(false);
        }
        // Draining workers do not work, so none drains before the API server is known to answer.
        let api = self.cluster.api::<Deployment>();
        let what = format!("get scale of deployment {deployment}");
        let answer = self.cluster.call(&what, api.get_scale(deployment)).await;
        Ok(self.heard(answer)?.is_some())
    }

    async fn mark(&mut self, deployment: &str, replicas: &[String]) -> Result<bool, TargetError> {
        let Some(pods) = self.pods.all().filter(|_| !self.is_away()) else { return Ok(false) };
        let own: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(|p| pod::deployment(p) == Some(deployment)).collect();
        let (surplus, lacking) = mark::differ(&own, replicas);
        let exact = surplus.is_empty() && lacking.is_empty();
        let Some(memory) = self.memories.get_mut(deployment) else { return Ok(false) };
        if exact {
            let marked = memory.marked.get_or_insert_with(|| (replicas.to_vec(), Instant::now()));
            if marked.0 != replicas {
                *marked = (replicas.to_vec(), Instant::now());
            }
            return Ok(marked.1.elapsed() >= DELETION_COST_SETTLE);
        }
        memory.marked = None;
        for answer in mark::change(&self.cluster, &surplus, &lacking).await {
            self.heard(answer)?;
        }
        Ok(false)
    }

    async fn stop(&mut self, deployment: &str, replicas: &[String], fewer: u32) -> Result<bool, TargetError> {
        let done = self.scale(deployment, Change::Fewer(fewer)).await?;
        if done {
            let now = Instant::now();
            self.stopping.extend(replicas.iter().map(|key| (key.clone(), now)));
        }
        Ok(done)
    }

    fn publish(&mut self, deployment: &str, notice: Notice<'_>) {
        let Some(at) = self.deployment(deployment).map(|d| d.object_ref(&())) else { return };
        match notice {
            Notice::Decided(decision) => {
                let reason = if decision.wanted > decision.current { "ScalingOut" } else { "ScalingIn" };
                self.events.publish(at, Kind::Normal, reason, decision.explain());
            }
            Notice::Rival(_) => self.events.publish(at, Kind::Warning, "AnotherRelease", notice.to_string()),
            Notice::Invalid(error) => self.events.publish(at, Kind::Warning, "InvalidAnnotations", error.to_string()),
        }
    }

    async fn changed(&mut self) {
        self.changed.notified().await;
    }
}
