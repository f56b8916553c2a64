//! The `process` launch: a command in this container per job, in a process group of its own.

use std::{path::Path, process::Stdio, time::Duration};

use futures_util::future::{FusedFuture, FutureExt};
use rustix::process::Signal;
use tokio::process::Child;

use super::{
    Launch, Outcome, Run, Slot, files::Files, home::Group, orders::Step, progress::Progress, tail::Tail, worker_io,
};

/// Grandchildren may hold stderr open; what was written is enough.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(super) struct Process;

impl Launch for Process {
    async fn run(slot: &mut Slot, run: &mut Run) -> Outcome {
        let mut files = slot.files();
        match start(slot, run, &files).await {
            Ok((child, group)) => attend(run, &mut files, child, group).await,
            Err(outcome) => outcome,
        }
    }
}

async fn start(slot: &Slot, run: &Run, files: &Files) -> Result<(Child, Group), Outcome> {
    let job = &run.job;
    let stdin = files.stdin(&job.payload).map_err(|e| worker_io(&e))?;
    let mut command = slot.home.command(&run.plan.spec);
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
        .stdin(stdin)
        // What a job prints belongs to the log, not to the worker's own output.
        .stdout(Stdio::from(std::io::stderr()))
        .stderr(Stdio::piped());
    slot.home.spawn(2 * slot.number, command).await.map_err(|e| Outcome::Failed(run.not_started(&e)))
}

async fn attend(run: &mut Run, files: &mut Files, mut child: Child, group: Group) -> Outcome {
    let (tail, progress) = (Tail::default(), Progress::default());
    let mut seen = 0;
    let reading = tail.fill(child.stderr.take().expect("stderr is piped")).fuse();
    tokio::pin!(reading);
    let storing = progress.store(&run.session, &run.job);
    tokio::pin!(storing);
    let status = {
        let following = files.follow(&mut seen, &progress);
        tokio::pin!(following);
        loop {
            tokio::select! {
                biased;
                status = child.wait() => break status,
                step = run.orders.step(false) => match step {
                    Step::Tell | Step::Term => group.signal(Signal::TERM),
                    Step::Kill => group.signal(Signal::KILL),
                },
                () = &mut reading => {}
                () = &mut following => {}
                () = &mut storing => {}
            }
        }
    };
    // Whatever the command left running does not outlive the job.
    drop(group);
    files.last_look(&mut seen, &progress);
    progress.finish(storing).await;
    if let Some(why) = run.orders.why() {
        return run.ordered(why);
    }
    match status {
        Ok(status) if status.success() => files.result().map_or_else(Outcome::Failed, Outcome::Completed),
        Ok(status) => {
            if !reading.is_terminated() {
                let _ = tokio::time::timeout(LAST_WORDS, reading).await;
            }
            Outcome::Failed(run.ended_badly("", status, &tail.text()))
        }
        Err(e) => worker_io(&e),
    }
}
