//! Which Pods go first: the deletion cost, which whoever takes Pods away looks at.

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

/// Pods with this cost go first. Others have their own, or none, which is 0.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const MARK: &str = "-1000000000";
/// Marks are set by so many calls side by side.
const AT_ONCE: usize = 10;

/// Which Pods have a mark that they should not have, and which lack it. Pure.
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
    pod.metadata.annotations.as_ref().and_then(|a| a.get(COST)).is_some_and(|cost| cost == MARK)
}

/// Takes the mark from the first, and gives it to the others.
pub(super) async fn change(
    cluster: &Cluster,
    surplus: &[&Pod],
    lacking: &[&Pod],
) -> Vec<Result<PartialObjectMeta<Pod>, ClusterError>> {
    let changes = surplus.iter().map(|p| (*p, None)).chain(lacking.iter().map(|p| (*p, Some(MARK))));
    let calls: Vec<_> = changes.map(|(pod, cost)| set(cluster.clone(), pod, cost)).collect();
    stream::iter(calls).buffer_unordered(AT_ONCE).collect().await
}

fn set(
    cluster: Cluster,
    pod: &Pod,
    cost: Option<&'static str>,
) -> impl Future<Output = Result<PartialObjectMeta<Pod>, ClusterError>> + use<> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    // The UID is a condition: under this name there may be another by now.
    let patch = Patch::Merge(json!({"metadata": {"uid": uid(pod), "annotations": {COST: cost}}}));
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
        pod.metadata.annotations = cost.map(|c| [(COST.to_owned(), c.to_owned())].into());
        pod
    }

    #[test]
    fn exactly_the_chosen_pods_are_marked() {
        let (a, b, c) = (pod("a", None), pod("b", Some(MARK)), pod("c", Some("17")));
        let (surplus, lacking) = differ(&[&a, &b, &c], &["a".into(), "mail#0".into()]);
        let uids = |pods: Vec<&Pod>| pods.iter().map(|p| uid(p).to_owned()).collect::<Vec<_>>();
        assert_eq!((uids(surplus), uids(lacking)), (vec!["b".to_owned()], vec!["a".to_owned()]), "c has its own");
    }
}
