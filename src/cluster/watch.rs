//! A local copy of the objects of one kind, kept by a watch: reading it costs no request.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Cluster;

/// A watch is renewed this often, in seconds; one that is silent for five seconds more is dead.
const WATCH_SECONDS: u32 = 40;
/// So many deleted objects are remembered: in a controller that does not lead nobody asks for them.
const MAX_DELETED: usize = 10_000;

/// Objects as they were a moment ago. The watch ends when this is dropped.
#[derive(Debug)]
pub struct Watched<K> {
    state: Arc<Mutex<State<K>>>,
    _end: DropGuard,
}

#[derive(Debug)]
struct State<K> {
    /// The objects by UID: one that was made anew under its old name is another.
    objects: BTreeMap<String, Arc<K>>,
    /// The objects of a list that is not complete yet.
    coming: BTreeMap<String, Arc<K>>,
    complete: bool,
    /// The objects may be out of date: the watch is being made anew.
    is_broken: bool,
    gone: VecDeque<Arc<K>>,
}

impl Cluster {
    /// Watches the objects with these labels, and notifies `changed` of every change. A half-open connection is noticed
    /// within a minute, and a lost one is made anew within seconds of the server's return.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster) {
    /// let changed = std::sync::Arc::new(tokio::sync::Notify::new());
    /// let pods = cluster.watch::<k8s_openapi::api::core::v1::Pod>("app=web", changed.clone());
    /// assert!(pods.all().is_none(), "nothing is known yet");
    /// # }
    /// ```
    pub fn watch<K>(&self, labels: &str, changed: Arc<Notify>) -> Watched<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Default,
    {
        let state = Arc::new(Mutex::new(State::default()));
        let end = CancellationToken::new();
        let config = watcher::Config::default().labels(labels).timeout(WATCH_SECONDS);
        let objects = watcher::watcher(self.api::<K>(), config).backoff(WatchBackoff::default());
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let (shared, ended) = (state.clone(), end.clone());
        tokio::spawn(async move {
            let mut objects = pin!(objects);
            let mut well = true;
            loop {
                let next = tokio::select! {
                    next = objects.next() => next,
                    () = ended.cancelled() => return,
                };
                match next {
                    Some(Ok(event)) => {
                        if !std::mem::replace(&mut well, true) {
                            tracing::info!(kind, "watching again");
                        }
                        let mut shared = lock(&shared);
                        shared.is_broken = false;
                        if shared.apply(event) {
                            changed.notify_one();
                        }
                    }
                    Some(Err(error)) => {
                        lock(&shared).is_broken = true;
                        // It is logged once, and tried again for as long as it takes.
                        if std::mem::replace(&mut well, false) {
                            tracing::warn!(kind, %error, "the watch broke; what was seen last holds");
                        }
                    }
                    None => return,
                }
            }
        });
        Watched { state, _end: end.drop_guard() }
    }
}

fn lock<K>(state: &Mutex<State<K>>) -> MutexGuard<'_, State<K>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Watched<K> {
    /// All objects; none until the first list is complete.
    ///
    /// ```no_run
    /// # fn f(pods: &rowlock::cluster::Watched<k8s_openapi::api::core::v1::Pod>) {
    /// println!("{} Pods", pods.all().unwrap_or_default().len());
    /// # }
    /// ```
    pub fn all(&self) -> Option<Vec<Arc<K>>> {
        let state = lock(&self.state);
        state.complete.then(|| state.objects.values().cloned().collect())
    }

    /// Whether the objects are as the API server has them, but for a moment.
    ///
    /// ```no_run
    /// # fn f(pods: &rowlock::cluster::Watched<k8s_openapi::api::core::v1::Pod>) {
    /// println!("{}", if pods.is_well() { "as it is" } else { "as it was" });
    /// # }
    /// ```
    pub fn is_well(&self) -> bool {
        let state = lock(&self.state);
        state.complete && !state.is_broken
    }

    /// The object with this UID.
    ///
    /// ```no_run
    /// # fn f(pods: &rowlock::cluster::Watched<k8s_openapi::api::core::v1::Pod>) {
    /// assert!(pods.get("no UID").is_none());
    /// # }
    /// ```
    pub fn get(&self, uid: &str) -> Option<Arc<K>> {
        lock(&self.state).objects.get(uid).cloned()
    }

    /// The objects that were deleted, as they were last seen. Each is answered once.
    ///
    /// ```no_run
    /// # fn f(pods: &rowlock::cluster::Watched<k8s_openapi::api::core::v1::Pod>) {
    /// for pod in pods.take_gone() {
    ///     println!("{:?} is gone", pod.metadata.name);
    /// }
    /// # }
    /// ```
    pub fn take_gone(&self) -> Vec<Arc<K>> {
        lock(&self.state).gone.drain(..).collect()
    }
}

impl<K> Default for State<K> {
    fn default() -> Self {
        State {
            objects: BTreeMap::new(),
            coming: BTreeMap::new(),
            complete: false,
            is_broken: false,
            gone: VecDeque::new(),
        }
    }
}

impl<K: Resource> State<K> {
    /// Applies an event; answers whether a reader sees anything new.
    fn apply(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => drop(store(&mut self.coming, object)),
            Event::InitDone => {
                let before = std::mem::replace(&mut self.objects, std::mem::take(&mut self.coming));
                let lost: Vec<_> =
                    before.into_iter().filter(|(uid, _)| !self.objects.contains_key(uid)).map(|(_, o)| o).collect();
                lost.into_iter().for_each(|o| self.end(o));
                self.complete = true;
                return true;
            }
            Event::Apply(object) => {
                store(&mut self.objects, object);
                return true;
            }
            Event::Delete(object) => {
                let last = store(&mut self.objects, object);
                self.objects.remove(&uid(last.as_ref()));
                self.end(last);
                return true;
            }
        }
        false
    }

    fn end(&mut self, object: Arc<K>) {
        if self.gone.len() == MAX_DELETED {
            self.gone.pop_front();
        }
        self.gone.push_back(object);
    }
}

fn uid<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

fn store<K: Resource>(objects: &mut BTreeMap<String, Arc<K>>, mut object: K) -> Arc<K> {
    // It is the longest part of most objects, and nobody reads it here.
    object.managed_fields_mut().clear();
    let object = Arc::new(object);
    objects.insert(uid(object.as_ref()), object.clone());
    object
}

/// The pause between two attempts. It doubles up to a low bound, so that a server that is back is heard soon.
#[derive(Debug)]
struct WatchBackoff(Duration);

const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

impl Default for WatchBackoff {
    fn default() -> Self {
        WatchBackoff(MIN_BACKOFF)
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX_BACKOFF);
        Some(pause)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0 = MIN_BACKOFF;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod
    }

    fn uids(state: &State<Pod>) -> Vec<&str> {
        state.objects.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_list_replaces_what_was_known_only_once_it_is_complete() {
        let mut state = State::default();
        assert!(!state.apply(Event::Init) && !state.apply(Event::InitApply(pod("a", "1"))));
        assert!(uids(&state).is_empty() && !state.complete);
        assert!(state.apply(Event::InitDone));
        assert!(state.complete && uids(&state) == ["1"]);
        // The watch broke: a list that is under way hides nothing.
        state.apply(Event::Init);
        assert_eq!(uids(&state), ["1"]);
        state.apply(Event::InitApply(pod("a", "2")));
        state.apply(Event::InitDone);
        assert_eq!(uids(&state), ["2"]);
        assert_eq!(state.gone.iter().map(|p| uid(p.as_ref())).collect::<Vec<_>>(), ["1"], "its end was missed");
    }

    #[test]
    fn one_that_ends_is_told_as_it_was_last() {
        let mut state = State::default();
        state.apply(Event::Apply(pod("a", "1")));
        let mut last = pod("a", "1");
        last.metadata.generation = Some(7);
        assert!(state.apply(Event::Delete(last)));
        assert!(uids(&state).is_empty());
        assert_eq!(state.gone.pop_front().unwrap().metadata.generation, Some(7));
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let pauses: Vec<_> = WatchBackoff::default().take(8).collect();
        assert_eq!((pauses[0], pauses[1], pauses[7]), (MIN_BACKOFF, MIN_BACKOFF * 2, MAX_BACKOFF));
    }
}
