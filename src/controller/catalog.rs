//! The catalogue: YAML into job types and schedules, each mistake with its place. Its rooms: `fields`, each checked
//! while it is read; `schedules`, jobs by the clock.

mod fields;
mod schedules;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use serde::Deserialize;
use serde_json::{Value, json};
use serde_saphyr::Spanned;
use tokio_postgres::types::Type;

use self::fields::EnvValue;
pub(crate) use self::schedules::Schedule;
use crate::{Error, JobQueue};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    types: Option<Vec<Spanned<JobType>>>,
    schedules: Option<Vec<Spanned<Schedule>>>,
}

/// What a file holds.
#[derive(Default)]
pub(crate) struct Catalog {
    pub types: Vec<JobType>,
    pub schedules: Vec<Schedule>,
}

/// A type as the file has it; the keys are the columns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobType {
    #[serde(deserialize_with = "fields::name")]
    name: String,
    #[serde(default, deserialize_with = "fields::queue")]
    queue: Option<String>,
    #[serde(default)]
    launch: Launch,
    image: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, EnvValue>,
    resources: Option<Value>,
    #[serde(default, deserialize_with = "fields::duration")]
    timeout: Option<Duration>,
    max_retries: Option<u16>,
    priority: Option<i16>,
    backoff: Option<Backoff>,
    #[serde(default, deserialize_with = "fields::duration")]
    expected: Option<Duration>,
    max_concurrency: Option<u32>,
    /// Starts per second.
    #[serde(default, deserialize_with = "fields::rate")]
    rate: Option<f64>,
    #[serde(default)]
    no_retry_exit_codes: Vec<u8>,
    #[serde(default, deserialize_with = "fields::schema")]
    payload_schema: Option<Value>,
    #[serde(default)]
    keep: Keep,
    service_account: Option<String>,
    pod_template: Option<Value>,
}

#[derive(Deserialize, Default, PartialEq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Launch {
    #[default]
    Process,
    Resident,
    Pod,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backoff {
    #[serde(default, deserialize_with = "fields::duration")]
    base: Option<Duration>,
    #[serde(default, deserialize_with = "fields::factor")]
    factor: Option<f64>,
    #[serde(default, deserialize_with = "fields::duration")]
    max: Option<Duration>,
    #[serde(default, deserialize_with = "fields::jitter")]
    jitter: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Keep {
    #[serde(default, deserialize_with = "fields::kept")]
    completed: Option<Duration>,
    #[serde(default, deserialize_with = "fields::kept")]
    failed: Option<Duration>,
}

/// Reads and checks the text of a file.
///
/// # Errors
/// The first mistake, with its line and its key.
pub(crate) fn parse(text: &str) -> Result<Catalog, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| {
        let text = e.to_string();
        text.strip_prefix("error: ").map_or(text.clone(), ToOwned::to_owned)
    })?;
    let mut types: Vec<JobType> = Vec::new();
    for Spanned { value: t, referenced: at, .. } in file.types.unwrap_or_default() {
        let place = || format!("line {}: type {}", at.line(), t.name);
        t.check().map_err(|e| format!("{}: {e}", place()))?;
        if types.iter().any(|o| o.name == t.name) {
            return Err(format!("{} is there twice", place()));
        }
        types.push(t);
    }
    Ok(Catalog { types, schedules: schedules::checked(file.schedules.unwrap_or_default())? })
}

/// Whether all keys of a value are Kubernetes's: what it does not know it would ignore, a typing error as well.
fn known<T: serde::de::DeserializeOwned + serde::Serialize>(value: &Value) -> Result<(), String> {
    let read: T = serde_json::from_value(value.clone())
        .map_err(|e| format!(": {e}; amounts are texts such as \"500m\" or \"64Mi\""))?;
    let kept = serde_json::to_value(read).map_err(|e| format!(": {e}"))?;
    match lost(value, &kept) {
        Some(at) => Err(format!("{at}: Kubernetes knows no such key")),
        None => Ok(()),
    }
}

/// The path of the first key that is not kept. Nulls are: they remove a key.
fn lost(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), _) => given.iter().filter(|(_, v)| !v.is_null()).find_map(|(key, value)| {
            let below = match kept.get(key) {
                Some(kept) => lost(value, kept)?,
                // One that is empty may be left out.
                None if value.as_object().is_some_and(serde_json::Map::is_empty) => return None,
                None if value.as_array().is_some_and(Vec::is_empty) => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(given), Value::Array(kept)) => {
            given.iter().zip(kept).enumerate().find_map(|(n, (g, k))| Some(format!("[{n}]{}", lost(g, k)?)))
        }
        _ => None,
    }
}

impl JobType {
    fn check(&self) -> Result<(), String> {
        if self.command.is_empty() {
            let why = if self.launch == Launch::Pod { "; the one in the image is not known" } else { "" };
            return Err(format!("command: expected what is to be run{why}"));
        }
        if self.launch == Launch::Pod {
            if self.image.as_deref().is_none_or(|i| i.trim().is_empty()) {
                return Err("image: launch: pod needs one".into());
            }
            let checked = |key, value: &Option<Value>, check: fn(&Value) -> Result<(), String>| {
                value.as_ref().map_or(Ok(()), |v| check(v).map_err(|e| format!("{key}{e}")))
            };
            checked("resources", &self.resources, known::<ResourceRequirements>)?;
            checked("pod_template", &self.pod_template, known::<PodTemplateSpec>)?;
        }
        if self.launch != Launch::Pod {
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
            Some(key) => Err(format!("env: expected a variable's name, got {key:?}")),
            None => Ok(()),
        }
    }

    /// The row of `rowlock.job_type`.
    pub(crate) fn row(&self) -> Value {
        let interval = |d: Option<Duration>| d.map(|d| format!("{} seconds", d.as_secs_f64()));
        let env: BTreeMap<&str, Value> = self
            .env
            .iter()
            .map(|(k, v)| {
                let value = match v {
                    EnvValue::Constant(text) => json!(text),
                    EnvValue::Secret(s) => json!({"from_secret": {"name": s.name, "key": s.key}}),
                };
                (k.as_str(), value)
            })
            .collect();
        let launch = match self.launch {
            Launch::Process => "process",
            Launch::Resident => "resident",
            Launch::Pod => "pod",
        };
        let backoff = self.backoff.as_ref().map(|b| {
            json!({"base": b.base.map(|d| d.as_secs_f64()), "factor": b.factor, "max": b.max.map(|d| d.as_secs_f64()), "jitter": b.jitter})
        });
        json!({
            "name": self.name, "queue": self.queue, "launch": launch, "image": self.image, "command": self.command,
            "args": self.args, "env": env, "resources": self.resources, "timeout": interval(self.timeout),
            "max_retries": self.max_retries, "priority": self.priority, "backoff": backoff, "expected": interval(self.expected),
            "max_concurrency": self.max_concurrency, "rate": self.rate, "no_retry_exit_codes": self.no_retry_exit_codes,
            "payload_schema": self.payload_schema, "keep_completed": interval(self.keep.completed),
            "keep_failed": interval(self.keep.failed), "service_account": self.service_account, "pod_template": self.pod_template,
        })
    }
}

/// Loads them, all or none.
///
/// # Errors
/// What the database refuses, with the type's or the schedule's name.
pub(crate) async fn apply(queue: &JobQueue, types: &[JobType], schedules: &[Schedule]) -> anyhow::Result<()> {
    let types = types.iter().map(|t| ("SELECT rowlock.put_job_type($1)", t.row(), format!("type {}", t.name)));
    let schedules =
        schedules.iter().map(|s| ("SELECT rowlock.put_schedule($1)", s.row(), format!("schedule {}", s.name())));
    let mut client = queue.pool().get().await.map_err(Error::from)?;
    let tx = client.transaction().await.map_err(Error::from)?;
    for (sql, row, what) in types.chain(schedules) {
        tx.query_typed(sql, &[(&row, Type::JSONB)])
            .await
            .map_err(|e| anyhow::Error::from(Error::from(e)).context(what))?;
    }
    Ok(tx.commit().await.map_err(Error::from)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_type_becomes_its_row() {
        let types = parse("types:\n  - name: a\n    command: [\"true\"]\n    timeout: 1m\n    rate: 60/m\n    keep: {completed: 2h}\n").unwrap().types;
        let row = types[0].row();
        assert_eq!(row["timeout"], "60 seconds");
        assert_eq!(row["rate"], 1.0);
        assert_eq!(row["keep_completed"], "7200 seconds");
    }

    #[test]
    fn mistakes_name_the_key_and_the_line() {
        for (text, line, want) in [
            ("types:\n  - name: a\n    command: [x]\n    tiemout: 1s\n", "line 4", "tiemout"),
            ("types:\n  - name: a\n    command: [x]\n    timeout: soon\n", "line 4", "duration"),
            ("types:\n  - name: a\n    command: [x]\n    rate: fast\n", "line 4", "rate"),
            ("types:\n  - name: a\n    command: [x]\n    backoff:\n      jitter: 2\n", "line 5", "jitter"),
            ("types:\n  - name: a\n    command: [x]\n    env:\n      PORT: 80\n", "line 5", "in quotes"),
            ("types:\n  - name: a\n    command: [x]\n    payload_schema: {type: 3}\n", "line 4", "payload_schema"),
            ("types:\n  - name: a\n    command: [x]\n    keep: {failed: 9000d}\n", "line 4", "keep"),
            ("types:\n  - name: ''\n    command: [x]\n", "line 2", "printable"),
            ("types:\n  - name: a\n", "line 2", "command"),
            ("types:\n  - name: a\n    command: [x]\n    image: b\n", "line 2", "image: only with launch: pod"),
            ("types:\n  - name: a\n    launch: pod\n    command: [x]\n", "line 2", "image: launch: pod needs one"),
            ("types:\n  - name: a\n    launch: pod\n    image: i\n", "line 2", "command: expected"),
            (
                "types:\n  - name: a\n    launch: pod\n    image: i\n    command: [x]\n    resources: {limit: {memory: 1Gi}}\n",
                "line 2",
                "resources.limit: Kubernetes knows no such key",
            ),
            (
                "types:\n  - name: a\n    launch: pod\n    image: i\n    command: [x]\n    pod_template: {spec: {containers: [{name: job, imige: x}]}}\n",
                "line 2",
                "pod_template.spec.containers[0].imige",
            ),
            (
                "types:\n  - name: a\n    command: [x]\n    env: {A: {from_secret: {name: s, key: k}}}\n",
                "line 2",
                "from_secret",
            ),
            ("types:\n  - {name: a, command: [x]}\n  - {name: a, command: [x]}\n", "line 3", "twice"),
            ("schedules:\n  - {name: a, type: t, cron: 61 * * * *}\n", "line 2", "schedule a: cron: expected five"),
            ("schedules:\n  - {name: a, type: t}\n", "line 2", "cron, every: expected one of the two"),
            ("schedules:\n  - {name: a, type: t, every: 1s, timezone: UTC}\n", "line 2", "timezone: only with cron"),
            ("schedules:\n  - {name: a, type: t, every: 1ms}\n", "line 2", "every: expected 1s to 366days"),
            ("schedules:\n  - name: a\n    type: t\n    cron: '@daily'\n    catch_up: some\n", "line 5", "some"),
            ("schedules:\n  - {name: a, type: t, cron: '@daily', timezone: Here}\n", "line 2", "timezone: expected"),
            ("schedules:\n  - {name: a, type: t, every: 1s}\n  - {name: a, type: t, every: 1s}\n", "line 3", "twice"),
        ] {
            let got = parse(text).map(drop).unwrap_err();
            assert!(got.contains(line) && got.contains(want), "{text}: {got}");
        }
    }
}
