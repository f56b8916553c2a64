//! The `process` launch: a command in this container per job, in a process group of its own.

use std::{path::Path, process::Stdio};

use super::{
    process_group::signal_of,
    run::Run,
    runner::{End, Running, Start},
    slot::Slot,
};
use crate::worker::launcher::Outcome;

pub(super) async fn run(slot: &mut Slot, run: &mut Run<'_>) -> Outcome {
    let mut running = match start(slot, run) {
        Ok(running) => running,
        Err(error) => return run.worker_io(&error),
    };
    let end = loop {
        tokio::select! {
            biased;
            end = running.end() => break end,
            step = run.stops.step(false) => running.signal(signal_of(step)),
        }
    };
    match &end {
        End::Succeeded(_) | End::Failed { .. } => run.host.works(),
        // Its thread may have ended.
        End::Unknown(_) => slot.forget_runner(),
        End::NotStarted(_) => {}
    }
    match (end, run.stops.reason()) {
        (End::NotStarted(error), _) => run.not_started(&error),
        (_, Some(reason)) => run.stopped(reason),
        (End::Succeeded(result), None) => result.map_or_else(Outcome::Failed, Outcome::Completed),
        (End::Failed { status, stderr }, None) => Outcome::Failed(run.ended_badly("", status, &stderr)),
        (End::Unknown(error), None) => run.worker_io(&error),
    }
}

fn start(slot: &mut Slot, run: &Run<'_>) -> std::io::Result<Running> {
    let (job, files, groups, place) = (run.job, slot.files(), slot.groups.clone(), slot.command_place());
    let mut command = groups.command(&run.plan.spec);
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
        // A job's output belongs to the log, not to the worker's own output.
        .stdout(Stdio::from(std::io::stderr()))
        .stderr(Stdio::piped());
    let (payload, progress) = (job.payload.clone(), run.progress.clone());
    Ok(slot.runner()?.start(Start { command, payload, files, groups, place, progress }))
}
