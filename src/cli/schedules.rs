//! `rowlock schedules`, and schedules as the catalogue file has them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    args::SchedulesCommand,
    catalog, fields,
    output::{self, Output},
};
use crate::{Error, JobQueue, controller::schedule};

/// A schedule as the file has it; the keys are the columns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
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

    /// The argument of `put_schedule`.
    fn row(&self) -> Value {
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

/// Loads schedules, all or none.
pub(super) async fn apply(queue: &JobQueue, schedules: &[Schedule]) -> anyhow::Result<()> {
    let mut client = queue.pool().get().await.map_err(Error::from)?;
    let tx = client.transaction().await.map_err(Error::from)?;
    for s in schedules {
        tx.query_typed("SELECT rowlock.put_schedule($1)", &[(&s.row(), Type::JSONB)])
            .await
            .map_err(|e| anyhow::Error::from(Error::from(e)).context(format!("schedule {}", s.name)))?;
    }
    Ok(tx.commit().await.map_err(Error::from)?)
}

pub(super) async fn run(queue: &JobQueue, out: &Output, command: SchedulesCommand) -> anyhow::Result<()> {
    let call = async |function: &str, name: &str| {
        // The function's name is this program's own, never input.
        super::rows(queue, &format!("SELECT rowlock.{function}_schedule($1)"), &[(&name, Type::TEXT)]).await
    };
    match command {
        SchedulesCommand::List => {
            let columns = ["name", "type", "cron", "every", "timezone", "enabled", "next_at", "last_at", "fault"];
            let wide = ["queue", "catch_up", "last_job", "updated_at"];
            out.view(queue, "schedules", &columns, &wide).await
        }
        SchedulesCommand::Apply { file } => {
            let schedules = catalog::read(&file)?.schedules;
            apply(queue, &schedules).await?;
            output::message(&format!("applied {} schedules", schedules.len()));
            Ok(())
        }
        SchedulesCommand::Enable { name } => {
            call("enable", &name).await?;
            output::message(&format!("schedule {name} is enabled, from now on"));
            Ok(())
        }
        SchedulesCommand::Disable { name } => {
            call("disable", &name).await?;
            output::message(&format!("schedule {name} is disabled; what it enqueued runs"));
            Ok(())
        }
        SchedulesCommand::Remove { name } => {
            call("remove", &name).await?;
            output::message(&format!("schedule {name} is removed; what it enqueued runs"));
            Ok(())
        }
        SchedulesCommand::Run { name } => {
            let id: Uuid = call("run", &name).await?[0].try_get(0).map_err(Error::from)?;
            out.one(&json!({"id": id, "schedule": name}), &id.to_string())
        }
    }
}
