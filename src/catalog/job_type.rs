//! A job type: one struct for the entry of a file, for the row of the table and for the worker that runs it.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use super::fields::EnvValue;
use super::{Entry, fields, pod_keys};

/// A type as a file has it; `docs/cli.md` explains the keys.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobType {
    #[serde(deserialize_with = "fields::name")]
    pub name: String,
    #[serde(default, deserialize_with = "fields::queue")]
    pub queue: Option<String>,
    #[serde(default)]
    pub launch: LaunchKind,
    #[serde(default)]
    pub image: Option<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    #[serde(default)]
    pub resources: Option<Value>,
    #[serde(default, deserialize_with = "fields::timeout", serialize_with = "fields::interval")]
    pub timeout: Option<Duration>,
    #[serde(default, deserialize_with = "fields::max_retries")]
    pub max_retries: Option<u16>,
    #[serde(default, deserialize_with = "fields::priority")]
    pub priority: Option<i16>,
    #[serde(default)]
    pub backoff: Option<Backoff>,
    #[serde(default, deserialize_with = "fields::expected", serialize_with = "fields::interval")]
    pub expected: Option<Duration>,
    /// Refused until claims obey it.
    #[serde(default, deserialize_with = "fields::max_concurrency", skip_serializing)]
    pub max_concurrency: (),
    /// Refused until claims obey it.
    #[serde(default, deserialize_with = "fields::rate", skip_serializing)]
    pub rate: (),
    #[serde(default, deserialize_with = "fields::exit_codes")]
    pub no_retry_exit_codes: Vec<u8>,
    #[serde(default)]
    pub on_lost_lease: Option<OnLostLease>,
    #[serde(default, deserialize_with = "fields::schema")]
    pub payload_schema: Option<Value>,
    #[serde(default)]
    pub keep: Keep,
    #[serde(default)]
    pub service_account: Option<String>,
    #[serde(default)]
    pub pod_template: Option<Value>,
}

/// The way of a running job when its worker can no longer extend the lease because the database is away for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub(crate) enum OnLostLease {
    /// It goes on: nobody else can begin it.
    Continue,
    /// It stops when the lease does.
    Stop,
}

impl TryFrom<String> for OnLostLease {
    type Error = String;

    fn try_from(text: String) -> Result<OnLostLease, String> {
        match &*text {
            "continue" => Ok(OnLostLease::Continue),
            "stop" => Ok(OnLostLease::Stop),
            other => Err(format!("on_lost_lease: expected continue or stop, got {other}")),
        }
    }
}

impl From<OnLostLease> for &'static str {
    fn from(way: OnLostLease) -> &'static str {
        match way {
            OnLostLease::Continue => "continue",
            OnLostLease::Stop => "stop",
        }
    }
}

/// How a type is launched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum LaunchKind {
    /// A command per job.
    #[default]
    Process,
    /// A handler kept alive per slot.
    Resident,
    /// A Pod per job, in a cluster.
    Pod,
}

/// The pause before a retry. Absent keys are built in.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backoff {
    #[serde(default, deserialize_with = "fields::backoff_base", serialize_with = "fields::seconds")]
    pub base: Option<Duration>,
    #[serde(default, deserialize_with = "fields::backoff_factor")]
    pub factor: Option<f64>,
    #[serde(default, deserialize_with = "fields::backoff_max", serialize_with = "fields::seconds")]
    pub max: Option<Duration>,
    #[serde(default, deserialize_with = "fields::backoff_jitter")]
    pub jitter: Option<f64>,
}

/// How long ended jobs stay in history.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keep {
    #[serde(default, deserialize_with = "fields::keep_completed", serialize_with = "fields::interval")]
    pub completed: Option<Duration>,
    #[serde(default, deserialize_with = "fields::keep_failed", serialize_with = "fields::interval")]
    pub failed: Option<Duration>,
}

impl LaunchKind {
    /// The word in files, in rows and on the command line.
    ///
    /// ```
    /// use rowlock::catalog::LaunchKind;
    /// assert_eq!("pod".parse(), Ok(LaunchKind::Pod));
    /// assert_eq!(LaunchKind::Pod.as_str(), "pod");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            LaunchKind::Process => "process",
            LaunchKind::Resident => "resident",
            LaunchKind::Pod => "pod",
        }
    }
}

impl FromStr for LaunchKind {
    type Err = String;

    fn from_str(text: &str) -> Result<LaunchKind, String> {
        let all = [LaunchKind::Process, LaunchKind::Resident, LaunchKind::Pod];
        let known = all.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("launch: expected process, resident or pod, got {}", fields::shorten(text)))
    }
}

impl TryFrom<String> for LaunchKind {
    type Error = String;

    fn try_from(text: String) -> Result<LaunchKind, String> {
        text.parse()
    }
}

impl From<LaunchKind> for &'static str {
    fn from(kind: LaunchKind) -> &'static str {
        kind.as_str()
    }
}

impl fmt::Display for LaunchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Entry for JobType {
    const WORD: &'static str = "type";

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), String> {
        if self.launch == LaunchKind::Pod {
            if self.image.as_deref().is_none_or(|i| i.trim().is_empty()) {
                return Err("image: launch: pod needs one".into());
            }
            if let Some(resources) = &self.resources {
                pod_keys::check_resources(resources).map_err(|e| format!("resources{e}"))?;
            }
            if let Some(template) = &self.pod_template {
                pod_keys::check_template(template).map_err(|e| format!("pod_template{e}"))?;
            }
        } else {
            let pod_only = [
                ("image", self.image.is_some()),
                ("resources", self.resources.is_some()),
                ("service_account", self.service_account.is_some()),
                ("pod_template", self.pod_template.is_some()),
                ("env: from_secret", self.env.values().any(|v| matches!(v, EnvValue::Secret(_)))),
            ];
            if let Some((key, _)) = pod_only.iter().find(|(_, set)| *set) {
                return Err(format!("{key}: only with launch: pod"));
            }
        }
        match self.env.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
            Some(key) => Err(format!("env: expected a variable's name, got {:?}", fields::shorten(key))),
            None => Ok(()),
        }
    }
}

impl JobType {
    /// The argument of `rowlock.put_job_type`. A key of the file is a column, but for `keep`, which is two.
    pub(crate) fn row(&self) -> Value {
        let mut row = object(self);
        if let Some(Value::Object(keep)) = row.remove("keep") {
            row.extend(keep.into_iter().map(|(status, time)| (format!("keep_{status}"), time)));
        }
        Value::Object(row)
    }

    /// A type from a row of `rowlock.job_types_v1`, as a JSON object. Columns that this version does not know are
    /// passed over: a newer schema may have more.
    ///
    /// # Errors
    /// The key whose value this version cannot use. Only this type is then out of use.
    pub(crate) fn from_row(row: Value) -> Result<JobType, String> {
        let Value::Object(row) = row else { return Err("expected a row as a JSON object".into()) };
        // All keys of a file are there in a default one.
        let known = object(&JobType::default());
        let column = |key: String| if key == "timeout_seconds" { "timeout".to_owned() } else { key };
        let columns = row.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (column(key), value));
        serde_json::from_value(Value::Object(columns.filter(|(key, _)| known.contains_key(key)).collect()))
            .map_err(|e| e.to_string())
    }
}

fn object(of: &JobType) -> serde_json::Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(map)) => map,
        // A struct whose map has texts for keys is an object.
        _ => serde_json::Map::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::parse;

    #[test]
    fn a_type_becomes_its_row() {
        let text = "types:\n  - name: a\n    command: [\"true\"]\n    timeout: 1m\n    keep: {completed: 2h}\n    \
         backoff: {base: 2s}\n    env: {A: b}\n";
        let row = parse(text).unwrap().types[0].row();
        assert_eq!(row["timeout"], "60 seconds");
        assert_eq!(row["keep_completed"], "7200 seconds");
        assert_eq!(
            (&row["launch"], &row["env"]["A"], &row["backoff"]["base"]),
            (&json!("process"), &json!("b"), &json!(2.0))
        );
        assert!(row.get("keep").is_none() && row.get("rate").is_none());
    }

    #[test]
    fn a_type_comes_back_from_the_row_that_a_worker_reads() {
        let row = json!({
            "name": "a", "launch": "pod", "command": ["x"], "args": ["y"], "image": "i", "resources": null,
            "env": {"A": "b", "S": {"from_secret": {"name": "s", "key": "k"}}}, "timeout_seconds": 1.5,
            "no_retry_exit_codes": [78], "payload_schema": {"type": "object"}, "service_account": null,
            "pod_template": null, "of_a_newer_schema": true,
        });
        let read = JobType::from_row(row).unwrap();
        assert_eq!((read.launch, read.timeout), (LaunchKind::Pod, Some(Duration::from_millis(1500))));
        assert_eq!(read.env["A"], EnvValue::Constant("b".into()));
        assert!(matches!(&read.env["S"], EnvValue::Secret(s) if (s.name.as_str(), s.key.as_str()) == ("s", "k")));
        assert_eq!(
            JobType::from_row(json!({"name": "b"})).unwrap(),
            JobType { name: "b".into(), ..JobType::default() }
        );
        let wrong = JobType::from_row(json!({"name": "b", "launch": "thread"})).unwrap_err();
        assert!(wrong.contains("launch: expected process, resident or pod, got thread"), "{wrong}");
    }
}
