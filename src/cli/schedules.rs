//! `rowlock schedules`.

use serde_json::json;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    args::SchedulesCommand,
    catalog,
    output::{self, Output},
};
use crate::{Error, JobQueue};

pub(super) async fn run(queue: &JobQueue, out: &Output, command: SchedulesCommand) -> anyhow::Result<()> {
    let call = async |function: &str, name: &str| {
        // The function's name is this program's own, never input.
        super::query::rows(queue, &format!("SELECT rowlock.{function}_schedule($1)"), &[(&name, Type::TEXT)]).await
    };
    match command {
        SchedulesCommand::List => {
            let columns = ["name", "type", "cron", "every", "timezone", "enabled", "next_at", "last_at", "last_error"];
            let wide = ["queue", "catch_up", "last_job", "updated_at"];
            out.view(queue, "schedules", &columns, &wide).await
        }
        SchedulesCommand::Apply { file } => {
            let read = catalog::read(&file)?;
            crate::catalog::apply(queue, &[], &read.schedules).await?;
            let left = catalog::left_out(read.types.len(), "type", "types", &file);
            output::message(&format!("applied {}{left}", catalog::count(read.schedules.len(), "schedule")));
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
