//! The `process` launch: a command in this container per job, in a process group of its own.

use std::{path::Path, process::Stdio, sync::Arc};

use super::{
    Launch, Outcome, Run, Slot,
    progress::Progress,
    runner::{End, Running, Start},
    worker_io,
};

pub(super) struct Process;

impl Launch for Process {
    async fn run(slot: &mut Slot, run: &mut Run) -> Outcome {
        let progress = Arc::new(Progress::default());
        let mut running = match start(slot, run, progress.clone()) {
            Ok(running) => running,
            Err(error) => return worker_io(&error),
        };
        let storing = progress.store(&run.session, &run.job);
        tokio::pin!(storing);
        let end = loop {
            tokio::select! {
                biased;
                end = running.end() => break end,
                step = run.orders.step(false) => running.signal(step.signal()),
                () = &mut storing => {}
            }
        };
        progress.finish(storing).await;
        match (end, run.orders.why()) {
            (End::NotStarted(error), _) => Outcome::Failed(run.not_started(&error)),
            (_, Some(why)) => run.ordered(why),
            (End::Succeeded(result), None) => result.map_or_else(Outcome::Failed, Outcome::Completed),
            (End::Failed { status, stderr }, None) => Outcome::Failed(run.ended_badly("", status, &stderr)),
            (End::Unknown(error), None) => worker_io(&error),
        }
    }
}

fn start(slot: &mut Slot, run: &Run, progress: Arc<Progress>) -> std::io::Result<Running> {
    let (job, files, home, place) = (&run.job, slot.files(), slot.home.clone(), 2 * slot.number);
    let mut command = home.command(&run.plan.spec);
    command
        .env("ROWLOCK_JOB_ID", job.id.to_string())
        .env("ROWLOCK_JOB_TYPE", &job.job_type)
        .env("ROWLOCK_QUEUE", &job.queue)
        .env("ROWLOCK_ATTEMPT", job.attempts.to_string())
        .env("ROWLOCK_LEASE", job.lease())
        .env("ROWLOCK_DEADLINE", run.deadline().unwrap_or_default())
        .env("TRACEPARENT", run.traceparent().unwrap_or_default())
        .env("ROWLOCK_PAYLOAD_FILE", files.payload.as_deref().unwrap_or(Path::new("")))
        .env("ROWLOCK_RESULT_FILE", &files.result)
        .env("ROWLOCK_PROGRESS_FILE", &files.progress)
        // What a job prints belongs to the log, not to the worker's own output.
        .stdout(Stdio::from(std::io::stderr()))
        .stderr(Stdio::piped());
    let payload = job.payload.clone();
    Ok(slot.runner()?.start(Start { command, payload, files, home, place, progress }))
}
