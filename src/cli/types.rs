//! `rowlock types`.

use std::path::Path;

use super::{
    args::TypesCommand,
    catalog,
    output::{self, Output},
};
use crate::JobQueue;

/// Checks a file; it needs no database.
pub(super) fn lint(file: &Path) -> anyhow::Result<()> {
    let catalog = catalog::read(file)?;
    let (types, schedules) = (catalog.types.len(), catalog.schedules.len());
    let said = [(types, "type"), (schedules, "schedule")].map(|(n, word)| (n > 0).then(|| catalog::count(n, word)));
    let said: Vec<String> = said.into_iter().flatten().collect();
    let verb = if types + schedules == 1 { "is" } else { "are" };
    output::message(&match said.is_empty() {
        true => "no types and no schedules are in it; expected types: or schedules:".to_owned(),
        false => format!("{} {verb} right", said.join(" and ")),
    });
    Ok(())
}

pub(super) async fn run(queue: &JobQueue, out: &Output, command: TypesCommand) -> anyhow::Result<()> {
    match command {
        TypesCommand::Lint { file } => lint(&file),
        TypesCommand::Apply { file } => {
            let read = catalog::read(&file)?;
            crate::catalog::apply(queue, &read.types, &[]).await?;
            let left = catalog::left_out(read.schedules.len(), "schedule", "schedules", &file);
            output::message(&format!("applied {}{left}", catalog::count(read.types.len(), "type")));
            Ok(())
        }
        TypesCommand::List => {
            let columns = ["name", "queue", "launch", "command", "timeout", "max_retries", "priority"];
            let wide = ["args", "env", "backoff", "keep", "image", "updated_at"];
            out.view(queue, "job_types", &columns, &wide).await
        }
    }
}
