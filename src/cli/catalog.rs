//! The catalogue file: YAML into job types, each mistake with its place.

use std::{collections::BTreeMap, io::Read, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::Exit;
use crate::{Error, JobQueue};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    types: Vec<JobType>,
}

/// A type as the file has it; the keys are the columns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobType {
    name: String,
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
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    max_retries: Option<u16>,
    priority: Option<i16>,
    backoff: Option<Backoff>,
    #[serde(default, deserialize_with = "duration")]
    expected: Option<Duration>,
    max_concurrency: Option<u32>,
    rate: Option<String>,
    #[serde(default)]
    no_retry_exit_codes: Vec<u8>,
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
#[serde(untagged)]
enum EnvValue {
    Constant(String),
    Secret { from_secret: SecretKey },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretKey {
    name: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backoff {
    #[serde(default, deserialize_with = "duration")]
    base: Option<Duration>,
    factor: Option<f64>,
    #[serde(default, deserialize_with = "duration")]
    max: Option<Duration>,
    jitter: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Keep {
    #[serde(default, deserialize_with = "duration")]
    completed: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    failed: Option<Duration>,
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
    if text == "0" {
        return Ok(Some(Duration::ZERO));
    }
    humantime::parse_duration(&text)
        .map(Some)
        .map_err(|e| D::Error::custom(format!("expected a duration such as 30s or 14d, got {text}: {e}")))
}

/// Reads and checks a file; `-` is standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<JobType>> {
    let name = path.display();
    let mut text = String::new();
    let got = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|t| text = t)
    };
    got.map_err(|e| Exit::Usage(format!("{name}: {e}")))?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| Exit::Refused(format!("{name}: {e}")))?;
    let mut seen = std::collections::BTreeSet::new();
    for t in &file.types {
        t.check().map_err(|e| Exit::Refused(format!("{name}: type {}: {e}", t.name)))?;
        if !seen.insert(&t.name) {
            return Err(Exit::Refused(format!("{name}: type {} is there twice", t.name)).into());
        }
    }
    Ok(file.types)
}

impl JobType {
    fn check(&self) -> Result<(), String> {
        if self.launch == Launch::Process && self.command.is_empty() {
            return Err("command: a process needs one".into());
        }
        if self.launch != Launch::Pod {
            let pod_only = [
                ("image", self.image.is_some()),
                ("resources", self.resources.is_some()),
                ("service_account", self.service_account.is_some()),
                ("pod_template", self.pod_template.is_some()),
                ("env: from_secret", self.env.values().any(|v| matches!(v, EnvValue::Secret { .. }))),
            ];
            if let Some((key, _)) = pod_only.iter().find(|(_, set)| *set) {
                return Err(format!("{key}: only with launch: pod"));
            }
        }
        if let Some(b) = &self.backoff {
            if b.factor.is_some_and(|f| !(1.0..=1000.0).contains(&f)) {
                return Err("backoff.factor: expected 1 to 1000".into());
            }
            if b.jitter.is_some_and(|j| !(0.0..=1.0).contains(&j)) {
                return Err("backoff.jitter: expected 0 to 1".into());
            }
        }
        if let Some(schema) = &self.payload_schema {
            jsonschema::validator_for(schema).map_err(|e| format!("payload_schema: {e}"))?;
        }
        self.rate().map(drop)
    }

    /// Starts per second.
    fn rate(&self) -> Result<Option<f64>, String> {
        let Some(text) = &self.rate else { return Ok(None) };
        let parsed = text.split_once('/').and_then(|(n, unit)| {
            let per = match unit.trim() {
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            n.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).map(|n| n / per)
        });
        parsed.map(Some).ok_or_else(|| format!("rate: expected a number per s, m or h such as 100/s, got {text}"))
    }

    /// The row of `rowlock.job_type`.
    fn row(&self) -> Result<Value, String> {
        let interval = |d: Option<Duration>| d.map(|d| format!("{} seconds", d.as_secs_f64()));
        let env: BTreeMap<&str, Value> = self
            .env
            .iter()
            .map(|(k, v)| {
                let value = match v {
                    EnvValue::Constant(text) => json!(text),
                    EnvValue::Secret { from_secret: s } => json!({"from_secret": {"name": s.name, "key": s.key}}),
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
        Ok(json!({
            "name": self.name, "queue": self.queue, "launch": launch, "image": self.image, "command": self.command,
            "args": self.args, "env": env, "resources": self.resources, "timeout": interval(self.timeout),
            "max_retries": self.max_retries, "priority": self.priority, "backoff": backoff, "expected": interval(self.expected),
            "max_concurrency": self.max_concurrency, "rate": self.rate()?, "no_retry_exit_codes": self.no_retry_exit_codes,
            "payload_schema": self.payload_schema, "keep_completed": interval(self.keep.completed),
            "keep_failed": interval(self.keep.failed), "service_account": self.service_account, "pod_template": self.pod_template,
        }))
    }
}

/// Loads types, all or none.
pub(super) async fn apply(queue: &JobQueue, types: &[JobType]) -> anyhow::Result<()> {
    let mut client = queue.pool().get().await.map_err(Error::from)?;
    let tx = client.transaction().await.map_err(Error::from)?;
    for t in types {
        let row = t.row().map_err(Exit::Refused)?;
        tx.query_typed("SELECT rowlock.put_job_type($1)", &[(&row, Type::JSONB)])
            .await
            .map_err(|e| anyhow::Error::from(Error::from(e)).context(format!("type {}", t.name)))?;
    }
    Ok(tx.commit().await.map_err(Error::from)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<JobType>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("types.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_type_becomes_its_row() {
        let types = read_text("types:\n  - name: a\n    command: [\"true\"]\n    timeout: 1m\n    rate: 60/m\n    keep: {completed: 2h}\n").unwrap();
        let row = types[0].row().unwrap();
        assert_eq!(row["timeout"], "60 seconds");
        assert_eq!(row["rate"], 1.0);
        assert_eq!(row["keep_completed"], "7200 seconds");
    }

    #[test]
    fn mistakes_name_the_key_and_the_line() {
        for (text, want) in [
            ("types:\n  - name: a\n    command: [x]\n    tiemout: 1s\n", "tiemout"),
            ("types:\n  - name: a\n    command: [x]\n    timeout: soon\n", "line 4"),
            ("types:\n  - name: a\n", "command"),
            ("types:\n  - name: a\n    command: [x]\n    image: b\n", "image: only with launch: pod"),
            ("types:\n  - {name: a, command: [x]}\n  - {name: a, command: [x]}\n", "twice"),
            ("types:\n  - name: a\n    command: [x]\n    rate: fast\n", "rate"),
            ("schedules: []\n", "schedules"),
        ] {
            let got = read_text(text).map(|_| ()).unwrap_err();
            assert!(got.contains(want), "{text}: {got}");
        }
    }
}
