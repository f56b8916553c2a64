//! Deployments as what is scaled: those with the label `rowlock.dev/worker: "true"`, by their annotations. Its
//! rooms: `pod`, what a Pod's state means; `view`, a Deployment with its Pods as replicas; `mark`, which of them go first.
//!
//! A look reads the local copies that two watches keep, and costs no request; only what is done does. While the
//! API server is away what was seen last holds, and nothing is asked of it but now and then.
//!
//! What the service account needs, in its namespace and nothing else:
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
    view::{Known, uid},
};
use super::target::{Look, News, Target};
use crate::cluster::{Cluster, ClusterError, Events, Kind, Watched};

/// The label of a Deployment that is scaled.
pub const LABEL: &str = "rowlock.dev/worker=true";
/// Every Pod of a Deployment has it.
const PODS: &str = "pod-template-hash";

/// After a call that did not reach the API server the next one is made only then.
const REST: Duration = Duration::from_secs(2);
/// Whoever takes Pods away has seen a mark when we have seen it ourselves for so long.
const SEEN: Duration = Duration::from_millis(1500);
/// A Pod that was to be taken away and is there after so long was spared: another went.
const SPARED: Duration = Duration::from_secs(30);

/// The Deployments of a namespace.
pub struct Deployments {
    cluster: Cluster,
    events: Events,
    deployments: Watched<Deployment>,
    pods: Watched<Pod>,
    changed: Arc<Notify>,
    /// When each Pod was ordered, as far as we know.
    ordered: HashMap<String, Instant>,
    /// Pods that have ended and were told so, but are there still.
    ended: HashSet<String>,
    /// By Pod, since when.
    stopping: HashMap<String, Instant>,
    memories: HashMap<String, Memory>,
    away_until: Option<Instant>,
}

/// What is known of a Deployment beside its object.
struct Memory {
    /// What we set it to, while the watch shows it as of before: its version, and the size.
    set: Option<(String, u32)>,
    /// The same of a call without an answer: whether it had its effect is not known before another version is seen.
    tried: Option<(String, u32)>,
    short_since: Instant,
    /// Which Pods are to be marked, and since when exactly those are.
    marked: Option<(Vec<String>, Instant)>,
}

impl Deployments {
    /// Begins to watch.
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
            pods: cluster.watch(PODS, changed.clone()),
            cluster,
            changed,
            ordered: HashMap::new(),
            ended: HashSet::new(),
            stopping: HashMap::new(),
            memories: HashMap::new(),
            away_until: None,
        }
    }

    /// The object as it was seen last.
    fn deployment(&self, name: &str) -> Option<Arc<Deployment>> {
        self.deployments.all()?.into_iter().find(|d| d.metadata.name.as_deref() == Some(name))
    }

    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }

    /// Remembers whether the API server answers. False for an answer that says: look again.
    fn heard<T>(&mut self, answer: Result<T, ClusterError>) -> anyhow::Result<Option<T>> {
        let away = answer.as_ref().is_err_and(ClusterError::is_away);
        self.away_until = away.then(|| Instant::now() + REST);
        match answer {
            Ok(it) => Ok(Some(it)),
            Err(ClusterError::Conflict(_) | ClusterError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What it is set to: by us a moment ago, or by what is seen of it.
    fn set_to(&mut self, deployment: &Deployment) -> u32 {
        let seen = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let version = deployment.metadata.resource_version.as_deref();
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let memory = self.memories.get_mut(name);
        let set = memory.and_then(|m| {
            m.set.take_if(|(before, _)| version != Some(before.as_str()));
            m.set.as_ref().map(|(_, to)| *to)
        });
        set.unwrap_or_else(|| u32::try_from(seen).unwrap_or(0))
    }

    /// Sets the size, if the Deployment is still as it was seen.
    async fn scale(&mut self, name: &str, size: impl FnOnce(u32) -> u32) -> anyhow::Result<bool> {
        let Some(deployment) = self.deployment(name).filter(|_| !self.is_away()) else { return Ok(false) };
        let present = self.set_to(&deployment);
        let to = size(present);
        let version = deployment.metadata.resource_version.clone().unwrap_or_default();
        let Some(memory) = self.memories.get_mut(name) else { return Ok(false) };
        // It had its effect, and is not to be done twice.
        let did = memory.tried.take_if(|(before, _)| *before != version).is_some_and(|(_, tried)| tried == present);
        if to == present || did {
            return Ok(true);
        }
        // One change at a time: the version of the last is not known before it is seen.
        if memory.set.is_some() {
            return Ok(false);
        }
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": to}}));
        let api = self.cluster.api::<Deployment>();
        let params = PatchParams::default();
        let what = format!("scale deployment {name}");
        let answer = self.cluster.call(&what, api.patch_scale(name, &params, &patch)).await;
        if let Some(memory) = self.memories.get_mut(name) {
            match &answer {
                Ok(_) => memory.set = Some((version, to)),
                Err(error) if error.is_away() => memory.tried = Some((version, to)),
                Err(_) => {}
            }
        }
        Ok(self.heard(answer)?.is_some())
    }

    /// Pods that have ended since the last look, by UID; and what is no longer there is forgotten.
    fn gone(&mut self, pods: &[Arc<Pod>], ours: &HashSet<String>) -> Vec<String> {
        let is_ours = |p: &Pod| pod::deployment(p).is_some_and(|d| ours.contains(d));
        let mut gone: Vec<String> = Vec::new();
        for pod in self.pods.take_gone() {
            if is_ours(&pod) && !self.ended.remove(uid(&pod)) {
                gone.push(uid(&pod).to_owned());
            }
        }
        for pod in pods.iter().filter(|p| is_ours(p) && pod::state(p) == State::Ended) {
            if self.ended.insert(uid(pod).to_owned()) {
                gone.push(uid(pod).to_owned());
            }
        }
        let there: HashSet<&str> = pods.iter().map(|p| uid(p)).collect();
        self.ordered.retain(|key, _| there.contains(key.as_str()));
        self.ended.retain(|key| there.contains(key.as_str()));
        let now = Instant::now();
        self.stopping.retain(|key, since| there.contains(key.as_str()) && now.duration_since(*since) < SPARED);
        gone
    }
}

/// A Pod that was made a while ago was ordered then; one that was made just now, now.
fn ordered(pod: &Pod) -> Instant {
    let now = Instant::now();
    let made = pod.metadata.creation_timestamp.as_ref().and_then(pod::instant);
    let age = made.and_then(|made| (chrono::Utc::now() - made).to_std().ok()).unwrap_or_default();
    // The API's times are whole seconds, by another clock.
    if age < Duration::from_secs(5) { now } else { now.checked_sub(age).unwrap_or(now) }
}

impl Target for Deployments {
    async fn look(&mut self) -> anyhow::Result<Look> {
        let (Some(deployments), Some(pods)) = (self.deployments.all(), self.pods.all()) else {
            return Ok(Look::default());
        };
        let now = Instant::now();
        let new = || Memory { set: None, tried: None, short_since: now, marked: None };
        for d in &deployments {
            self.memories.entry(d.metadata.name.clone().unwrap_or_default()).or_insert_with(new);
        }
        let ours: HashSet<String> = self.memories.keys().cloned().collect();
        let gone = self.gone(&pods, &ours);
        let mut by_deployment: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &pods {
            if let Some(name) = pod::deployment(pod).filter(|d| ours.contains(*d)) {
                self.ordered.entry(uid(pod).to_owned()).or_insert_with(|| ordered(pod));
                by_deployment.entry(name).or_default().push(pod);
            }
        }
        let mut look = Look { gone, ..Look::default() };
        for d in deployments.iter().filter(|d| d.metadata.deletion_timestamp.is_none()) {
            let name = d.metadata.name.as_deref().unwrap_or_default();
            let set_to = self.set_to(d);
            let pods = by_deployment.get(name).map(Vec::as_slice).unwrap_or_default();
            let there = pods.iter().filter(|p| !matches!(pod::state(p), State::Ended | State::Leaving)).count();
            let Some(memory) = self.memories.get_mut(name) else { continue };
            if there >= set_to as usize {
                memory.short_since = now;
            }
            let known =
                Known { ordered: &self.ordered, stopping: &self.stopping, short_since: memory.short_since, now };
            look.deployments.push(view::scaled(d, pods, set_to, &known));
            look.anew.extend(pods.iter().filter_map(|p| Some((uid(p).to_owned(), pod::anew(p)?))));
        }
        // A Deployment that is gone is remembered for as long as it has Pods: their ends are to be told.
        let seen: HashSet<&str> = deployments.iter().filter_map(|d| d.metadata.name.as_deref()).collect();
        self.memories.retain(|name, _| seen.contains(name.as_str()) || by_deployment.contains_key(name.as_str()));
        Ok(look)
    }

    async fn grow(&mut self, deployment: &str, to: u32) -> anyhow::Result<bool> {
        self.scale(deployment, |present| to.max(present)).await
    }

    async fn may_shrink(&mut self, deployment: &str) -> anyhow::Result<bool> {
        let Some(seen) = self.deployment(deployment).filter(|_| !self.is_away()) else { return Ok(false) };
        if !view::is_settled(&seen) {
            return Ok(false);
        }
        // Workers that drain do not work: not before the API server is known to answer.
        let api = self.cluster.api::<Deployment>();
        let what = format!("get scale of deployment {deployment}");
        let answer = self.cluster.call(&what, api.get_scale(deployment)).await;
        Ok(self.heard(answer)?.is_some())
    }

    async fn mark(&mut self, deployment: &str, replicas: &[String]) -> anyhow::Result<bool> {
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
            return Ok(marked.1.elapsed() >= SEEN);
        }
        memory.marked = None;
        for answer in mark::change(&self.cluster, &surplus, &lacking).await {
            self.heard(answer)?;
        }
        Ok(false)
    }

    async fn stop(&mut self, deployment: &str, replicas: &[String]) -> anyhow::Result<bool> {
        let fewer = u32::try_from(replicas.len()).unwrap_or(u32::MAX);
        let done = self.scale(deployment, |present| present.saturating_sub(fewer)).await?;
        if done {
            let now = Instant::now();
            self.stopping.extend(replicas.iter().map(|key| (key.clone(), now)));
        }
        Ok(done)
    }

    fn tell(&mut self, deployment: &str, news: News<'_>) {
        let Some(at) = self.deployment(deployment).map(|d| d.object_ref(&())) else { return };
        match news {
            News::Decided(decision) => {
                let reason = if decision.wanted > decision.current { "ScalingOut" } else { "ScalingIn" };
                self.events.tell(at, Kind::Normal, reason, decision.explain());
            }
            News::Invalid(error) => self.events.tell(at, Kind::Warning, "InvalidAnnotations", error.to_string()),
        }
    }

    async fn changed(&mut self) {
        self.changed.notified().await;
    }
}
