//! Schedules as the catalogue has them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::fields;
use crate::controller::schedule;

/// A schedule as the file has it; the keys are the columns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    #[serde(deserialize_with = "fields::name")]
    name: String,
    #[serde(rename = "type", deserialize_with = "fields::name")]
    job_type: String,
    #[serde(default, deserialize_with = "fields::queue")]
    queue: Option<String>,
    #[serde(default)]
    payload: Map<String, Value>,
    cron: Option<String>,
    #[serde(default, deserialize_with = "fields::duration")]
    every: Option<Duration>,
    timezone: Option<String>,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default = "yes")]
    enabled: bool,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum CatchUp {
    Skip,
    #[default]
    One,
    All,
}

fn yes() -> bool {
    true
}

/// Checks them; the first mistake with its line.
pub(super) fn checked(list: Vec<Spanned<Schedule>>) -> Result<Vec<Schedule>, String> {
    let mut schedules: Vec<Schedule> = Vec::new();
    for Spanned { value: s, referenced: at, .. } in list {
        let place = || format!("line {}: schedule {}", at.line(), s.name);
        s.check().map_err(|e| format!("{}: {e}", place()))?;
        if schedules.iter().any(|o| o.name == s.name) {
            return Err(format!("{} is there twice", place()));
        }
        schedules.push(s);
    }
    Ok(schedules)
}

impl Schedule {
    fn check(&self) -> Result<(), String> {
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        match (&self.cron, self.every) {
            (Some(cron), None) => schedule::Schedule::cron(cron, zone).map(drop),
            (None, Some(_)) if self.timezone.is_some() => Err("timezone: only with cron".into()),
            (None, Some(every)) => schedule::Schedule::every(every).map(drop),
            _ => Err("cron, every: expected one of the two".into()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The argument of `put_schedule`.
    pub(crate) fn row(&self) -> Value {
        let catch_up = match self.catch_up {
            CatchUp::Skip => "skip",
            CatchUp::One => "one",
            CatchUp::All => "all",
        };
        json!({
            "name": self.name, "type": self.job_type, "queue": self.queue, "payload": self.payload, "cron": self.cron,
            "every": self.every.map(|d| format!("{} seconds", d.as_secs_f64())),
            "timezone": self.timezone, "catch_up": catch_up, "enabled": self.enabled,
        })
    }
}
