//! `rowlock queues`.

use super::{
    args::QueueCommand,
    output::{self, Output},
};
use crate::JobQueue;

pub(super) async fn run(queue: &JobQueue, out: &Output, command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::Pause { queue: name } => {
            queue.pause_queue(&name).await?;
            output::message(&format!("queue {name} is paused; running jobs go on"));
            Ok(())
        }
        QueueCommand::Resume { queue: name } => {
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
