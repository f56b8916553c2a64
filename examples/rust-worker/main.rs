//! A program that runs jobs itself, by three handlers: `DATABASE_URL=… cargo run --example rust-worker`.

use rowlock::{Failure, Job, JobQueue, worker::JobContext, worker::Worker};
use tokio::signal::unix::{SignalKind, signal};

async fn send_email(job: Job, _: JobContext) -> Result<String, Failure> {
    let to: serde_json::Value = job.payload_as()?;
    to["to"].as_str().map(|to| format!("sent to {to}")).ok_or_else(|| Failure::permanent("payload/to: expected a text"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = JobQueue::connect(&std::env::var("DATABASE_URL")?).await?;
    let worker = Worker::builder(&queue)
        .handler("send_email", send_email)
        .handler("count", |_, ctx| async move { Ok::<_, Failure>(ctx.progress("counted")) })
        .handler("wait", |_, ctx| async move { Err::<(), _>(format!("{:?}", ctx.stopped().await)) })
        .timeout(std::time::Duration::from_secs(60))
        .build()?;
    let mut terminate = signal(SignalKind::terminate())?;
    worker.run(async move { _ = terminate.recv().await }).await?;
    Ok(())
}
