//! A program that runs jobs itself, by three handlers: `DATABASE_URL=… cargo run --example rust-worker`.
#![expect(clippy::print_stdout, reason = "a program prints")]

use rowlock::{Failure, Job, JobQueue, worker::JobContext, worker::Worker};

async fn send_email(job: Job, _: JobContext) -> Result<String, Failure> {
    let payload: serde_json::Value = job.payload_as()?;
    let to = payload["to"].as_str().ok_or_else(|| Failure::permanent("payload/to: expected a text"))?;
    Ok(format!("sent to {to}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = JobQueue::connect(&std::env::var("DATABASE_URL")?).await?;
    let worker = Worker::builder(&queue)
        .handler("send_email", send_email)
        .handler("echo", |job, _| async move { Ok::<_, Failure>(job.payload) })
        .handler("wait", |_, ctx| async move { Err::<(), _>(format!("told to stop: {:?}", ctx.stopped().await)) })
        .timeout(std::time::Duration::from_secs(60))
        .build()?;
    let interrupt = async { tokio::signal::ctrl_c().await.expect("the runtime hears signals") };
    println!("{:?}", worker.run(interrupt).await?);
    Ok(())
}
