//! `rowlock queues`.

use tokio_postgres::types::Type;

use super::{
    args::QueueCommand,
    exit::Exit,
    output::{self, Output},
};
use crate::{Error, JobQueue};

pub(super) async fn run(queue: &JobQueue, out: &Output, command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::Pause { queue: name } => {
            must_exist(queue, &name).await?;
            queue.pause_queue(&name).await?;
            output::message(&format!("queue {name} is paused; running jobs go on"));
            Ok(())
        }
        QueueCommand::Resume { queue: name } => {
            must_exist(queue, &name).await?;
            queue.resume_queue(&name).await?;
            output::message(&format!("queue {name} is resumed"));
            Ok(())
        }
        QueueCommand::List => {
            let columns = ["queue", "paused", "pending", "scheduled", "running", "failed", "oldest_age_seconds"];
            out.view(queue, "queues", &columns, &[]).await
        }
    }
}

/// A queue with a mistake in its name would be made, and the one that was meant would go on.
async fn must_exist(queue: &JobQueue, name: &str) -> anyhow::Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM rowlock.queues WHERE queue = $1)";
    let exists: bool =
        super::query::rows(queue, sql, &[(&name, Type::TEXT)]).await?[0].try_get(0).map_err(Error::from)?;
    if exists {
        return Ok(());
    }
    Err(Exit::NotFound(format!("no queue {name}: rowlock queues list shows those that are known")).into())
}
