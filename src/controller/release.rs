//! Whose an object is. Several releases may live in one namespace, and none touches what Helm made for another. Pure.

use std::collections::BTreeMap;

const PART_OF: &str = "app.kubernetes.io/part-of";
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Whether an object is the release's, or nobody's: a person's own Deployment has no such labels, and is scaled.
pub(super) fn is_ours(labels: Option<&BTreeMap<String, String>>, release: Option<&str>) -> bool {
    let (Some(labels), Some(release)) = (labels, release) else { return true };
    let is_a_releases = labels.get(PART_OF).is_some_and(|part_of| part_of == "rowlock");
    !is_a_releases || labels.get(INSTANCE).is_none_or(|instance| instance == release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_made_for_another_release_is_left_alone() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let of = |release: &str| -> BTreeMap<String, String> { labels(&[(PART_OF, "rowlock"), (INSTANCE, release)]) };
        assert!(is_ours(Some(&of("mail")), Some("mail")));
        assert!(!is_ours(Some(&of("other")), Some("mail")));
        assert!(is_ours(Some(&of("other")), None), "a controller of no release has all");
        let own: BTreeMap<String, String> = labels(&[(INSTANCE, "shop"), (PART_OF, "shop")]);
        assert!(is_ours(Some(&own), Some("mail")) && is_ours(None, Some("mail")));
    }
}
