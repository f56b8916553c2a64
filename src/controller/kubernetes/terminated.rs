//! Pods that have ended.

use std::{collections::HashSet, sync::Arc, time::Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{
    Deployments, POD_DELETE_RETRY,
    pod::{self, State},
    view::uid,
};

impl Deployments {
    /// The UIDs of Pods that have ended since the last observation. Pods that no longer exist are forgotten.
    pub(super) fn terminated(&mut self, pods: &[Arc<Pod>], ours: &HashSet<String>) -> Vec<String> {
        let is_ours = |p: &Pod| pod::deployment(p).is_some_and(|d| ours.contains(d));
        let mut terminated: Vec<String> = Vec::new();
        for pod in self.pods.take_gone() {
            if is_ours(&pod) && !self.ended.remove(uid(&pod)) {
                terminated.push(uid(&pod).to_owned());
            }
        }
        for pod in pods.iter().filter(|p| is_ours(p) && pod::state(p) == State::Ended) {
            if self.ended.insert(uid(pod).to_owned()) {
                terminated.push(uid(pod).to_owned());
            }
        }
        let there: HashSet<&str> = pods.iter().map(|p| uid(p)).collect();
        self.ordered.retain(|key, _| there.contains(key.as_str()));
        self.ended.retain(|key| there.contains(key.as_str()));
        let now = Instant::now();
        self.stopping
            .retain(|key, since| there.contains(key.as_str()) && now.duration_since(*since) < POD_DELETE_RETRY);
        terminated
    }
}
