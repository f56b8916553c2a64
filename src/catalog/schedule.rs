//! Schedules as a file has them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{entry::Entry, fields};
use crate::schedule;

/// A schedule as a file has it; the keys are the columns.
#[derive(Deserialize, Serialize)]
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
    #[serde(default)]
    cron: Option<String>,
    #[serde(default, deserialize_with = "fields::every", serialize_with = "fields::interval")]
    every: Option<Duration>,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default = "yes")]
    enabled: bool,
}

#[derive(Deserialize, Serialize, Default, Clone, Copy)]
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

impl Entry for Schedule {
    const WORD: &'static str = "schedule";

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), String> {
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        match (&self.cron, self.every) {
            (Some(cron), None) => schedule::Schedule::cron(cron, zone).map(drop),
            (None, Some(_)) if self.timezone.is_some() => Err("timezone: only with cron".into()),
            (None, Some(every)) => schedule::Schedule::every(every).map(drop),
            _ => Err("cron, every: expected one of the two".into()),
        }
    }
}

impl Schedule {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The argument of `rowlock.put_schedule`.
    pub(crate) fn row(&self) -> Value {
        // A struct whose map has texts for keys is an object.
        serde_json::to_value(self).unwrap_or_default()
    }
}
