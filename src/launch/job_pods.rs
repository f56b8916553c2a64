//! The settings that all Pods of a worker's jobs have, beside those of their types.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Map, Value, json};

/// The settings that all Pods of a worker's jobs have. A type's own `pod_template` goes before them.
///
/// ```
/// let pods: rowlock::launch::JobPods = r#"{"nodeSelector": {"pool": "jobs"}}"#.parse().unwrap();
/// assert_eq!(pods.node_selector["pool"], "jobs");
/// assert!(r#"{"nodeSelectors": {}}"#.parse::<rowlock::launch::JobPods>().is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JobPods {
    /// Secrets with which the images are pulled: `[{"name": …}]`.
    pub image_pull_secrets: Vec<Value>,
    /// When the images are pulled; by default as Kubernetes decides.
    pub pull_policy: Option<String>,
    /// When the image of this program is pulled, where that differs.
    pub program_pull_policy: Option<String>,
    /// The labels of the nodes.
    pub node_selector: BTreeMap<String, String>,
    /// The taints that are tolerated.
    pub tolerations: Vec<Value>,
    /// The priority class.
    pub priority_class_name: Option<String>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    pub annotations: BTreeMap<String, String>,
    /// More variables for the job's container, as a container has them. The type's own go before them.
    pub env: Vec<Value>,
    /// The resources of jobs whose type says nothing of them.
    pub resources: Option<Value>,
}

impl FromStr for JobPods {
    type Err = String;

    fn from_str(text: &str) -> Result<JobPods, String> {
        let settings: Map<String, Value> = serde_json::from_str(if text.trim().is_empty() { "{}" } else { text })
            .map_err(|e| format!("expected the settings of jobs' Pods as a JSON object: {e}"))?;
        for (key, value) in &settings {
            serde_json::from_value::<JobPods>(json!({key: value})).map_err(|e| format!("{key}: {e}"))?;
        }
        let read: JobPods = serde_json::from_value(Value::Object(settings)).map_err(|e| e.to_string())?;
        // Noticed now, not at the first job.
        let mut pod = read.overlay();
        let container = json!({"name": "job", "env": read.env, "resources": read.resources});
        pod["spec"]["containers"] = json!([container]);
        serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod).map_err(|e| format!("no Pod has this: {e}"))?;
        Ok(read)
    }
}

impl JobPods {
    /// The part that is laid over each Pod before its type's template is.
    pub(super) fn overlay(&self) -> Value {
        let mut spec = Map::new();
        let mut set = |key: &str, empty: bool, value: Value| {
            if !empty {
                spec.insert(key.to_owned(), value);
            }
        };
        set("imagePullSecrets", self.image_pull_secrets.is_empty(), json!(self.image_pull_secrets));
        set("nodeSelector", self.node_selector.is_empty(), json!(self.node_selector));
        set("tolerations", self.tolerations.is_empty(), json!(self.tolerations));
        set("priorityClassName", self.priority_class_name.is_none(), json!(self.priority_class_name));
        json!({"metadata": {"labels": self.labels, "annotations": self.annotations}, "spec": spec})
    }

    /// The variables that the type does not have itself.
    pub(super) fn env<'a>(&'a self, has: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a Value> {
        self.env.iter().filter(move |v| !v["name"].as_str().is_some_and(&has))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_refused_by_name_and_by_what_a_pod_may_have() {
        assert_eq!("".parse::<JobPods>(), Ok(JobPods::default()));
        assert!(r#"{"tolerations": {}}"#.parse::<JobPods>().unwrap_err().contains("tolerations"));
        assert!(r#"{"pullPolicies": "Never"}"#.parse::<JobPods>().unwrap_err().contains("pullPolicies"));
        assert!(r#"{"env": [{"value": 1}]}"#.parse::<JobPods>().unwrap_err().contains("no Pod has this"));
    }
}
