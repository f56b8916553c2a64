//! The deletion cost: the controller that deletes Pods deletes the cheapest first.

use std::collections::HashSet;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;

use super::view::uid;
use crate::cluster::{Cluster, ClusterError};

const COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Pods with this cost go first. Others have their own, or none, which is 0.
const CHEAPEST: &str = "-1000000000";
/// So many calls set marks side by side.
const MAX_CALLS: usize = 10;

/// Finds the Pods that have a mark and should not, and those that lack one. Pure.
pub(super) fn differ<'a>(pods: &[&'a Pod], wanted: &[String]) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let wanted: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let (mut surplus, mut lacking) = (Vec::new(), Vec::new());
    for pod in pods {
        match (is_marked(pod), wanted.contains(uid(pod))) {
            (true, false) => surplus.push(*pod),
            (false, true) => lacking.push(*pod),
            _ => {}
        }
    }
    (surplus, lacking)
}

fn is_marked(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(COST_ANNOTATION)).is_some_and(|cost| cost == CHEAPEST)
}

/// Takes the mark from the first Pods, and gives one to the others.
pub(super) async fn change(
    cluster: &Cluster,
    surplus: &[&Pod],
    lacking: &[&Pod],
) -> Vec<Result<PartialObjectMeta<Pod>, ClusterError>> {
    let changes = surplus.iter().map(|p| (*p, None)).chain(lacking.iter().map(|p| (*p, Some(CHEAPEST))));
    let calls: Vec<_> = changes.map(|(pod, cost)| set(cluster.clone(), pod, cost)).collect();
    stream::iter(calls).buffer_unordered(MAX_CALLS).collect().await
}

fn set(
    cluster: Cluster,
    pod: &Pod,
    cost: Option<&'static str>,
) -> impl Future<Output = Result<PartialObjectMeta<Pod>, ClusterError>> + use<> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    // The UID is a condition: another Pod may have this name by now.
    let patch = Patch::Merge(json!({"metadata": {"uid": uid(pod), "annotations": {COST_ANNOTATION: cost}}}));
    async move {
        let (api, params) = (cluster.api::<Pod>(), PatchParams::default());
        cluster.call(&format!("mark pod {name}"), api.patch_metadata(&name, &params, &patch)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cost: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        pod.metadata.annotations = cost.map(|c| [(COST_ANNOTATION.to_owned(), c.to_owned())].into());
        pod
    }

    #[test]
    fn exactly_the_chosen_pods_are_marked() {
        let (a, b, c) = (pod("a", None), pod("b", Some(CHEAPEST)), pod("c", Some("17")));
        let (surplus, lacking) = differ(&[&a, &b, &c], &["a".into(), "mail#0".into()]);
        let uids = |pods: Vec<&Pod>| pods.iter().map(|p| uid(p).to_owned()).collect::<Vec<_>>();
        assert_eq!((uids(surplus), uids(lacking)), (vec!["b".to_owned()], vec!["a".to_owned()]), "c has its own");
    }
}
