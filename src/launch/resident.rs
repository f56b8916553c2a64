//! The `resident` launch: a handler per slot, kept alive from job to job.

use std::{
    io,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    lines::{Lines, Said, cancel_line, job_line, understand},
    process_group::{Group, ProcessGroups, signal_of},
    run::Run,
    slot::Slot,
    spec::Spec,
    tail::{LAST_WORDS, Tail},
};
use crate::{
    Failure, Reason,
    worker::{launcher::Outcome, stop::Step},
};

/// How long a handler may take to end after its stdin was closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The handler that waits in a slot for the next job, if one does.
#[derive(Default)]
pub(super) struct Warm {
    handler: Option<Handler>,
    starts: Starts,
}

/// A handler: it runs one job at a time, and waits between them.
struct Handler {
    spec: Arc<Spec>,
    child: Child,
    group: Group,
    input: ChildStdin,
    output: Lines<ChildStdout>,
    tail: Tail,
    reading: AbortOnDropHandle<()>,
    /// Whether it ever ended a job. One that dies before is not started again at once.
    proven: bool,
}

/// When a handler that keeps dying at its start may be started again.
#[derive(Debug, Default)]
struct Starts {
    failed: u32,
    not_before: Option<Instant>,
}

impl Starts {
    fn failed(&mut self, now: Instant) {
        self.not_before = Some(now + pause(self.failed));
        self.failed += 1;
    }
}

/// 200 ms, doubled with each failed start, at most 10 s.
fn pause(failed: u32) -> Duration {
    Duration::from_millis(200 << failed.min(6)).min(Duration::from_secs(10))
}

/// How one job went with one handler.
enum Talk {
    /// The handler goes on to the next job.
    Ended(Outcome),
    /// It ended by itself after earlier jobs, and not a word on this one: it had not begun.
    Retired,
    /// It is gone, or has to go.
    Broken(Outcome),
}

impl Warm {
    /// The command of the handler that waits here.
    pub(super) fn spec(&self) -> Option<&Spec> {
        self.handler.as_ref().map(|handler| &*handler.spec)
    }

    /// Ends the handler, if there is one.
    pub(super) async fn close(mut self) {
        if let Some(handler) = self.handler.take() {
            handler.retire().await;
        }
    }

    /// A handler for the job: the one that waits if it fits and is well, else a new one.
    async fn ready(&mut self, slot: &Slot, run: &mut Run<'_>) -> Result<Handler, Outcome> {
        if let Some(mut handler) = self.handler.take() {
            if handler.spec != run.plan.spec {
                self.starts = Starts::default();
                handler.retire().await;
            } else if handler.is_well() {
                return Ok(handler);
            }
        }
        if let Some(at) = self.starts.not_before {
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                // There is nothing to stop yet.
                _ = run.stops.step(false) => return Err(Outcome::Released),
            }
        }
        let started = start(slot, run).await;
        match started {
            Ok(handler) => {
                run.host.works();
                Ok(handler)
            }
            Err(error) => {
                self.starts.failed(Instant::now());
                Err(run.not_started(&error))
            }
        }
    }
}

pub(super) async fn run(slot: &Slot, warm: &mut Warm, run: &mut Run<'_>) -> Outcome {
    let outcome = loop {
        let mut handler = match warm.ready(slot, run).await {
            Ok(handler) => handler,
            Err(outcome) => break outcome,
        };
        match handler.talk(run).await {
            Talk::Ended(outcome) => {
                handler.proven = true;
                warm.starts = Starts::default();
                // A handler that got a signal may end at any moment, under the next job.
                if !run.stops.signalled() {
                    warm.handler = Some(handler);
                }
                break outcome;
            }
            Talk::Retired => {}
            Talk::Broken(outcome) => {
                if !handler.proven && run.stops.reason().is_none() {
                    warm.starts.failed(Instant::now());
                }
                break outcome;
            }
        }
    };
    run.stops.reason().map_or(outcome, |reason| run.stopped(reason))
}

async fn start(slot: &Slot, run: &Run<'_>) -> io::Result<Handler> {
    let mut command = slot.groups.command(&run.plan.spec);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, group) = spawn(slot.groups.clone(), slot.handler_place(), command.into()).await?;
    let tail = Tail::default();
    let (stderr, filled) = (child.stderr.take().expect("stderr is piped"), tail.clone());
    // A task of its own: it may write between jobs, and must not be held up then.
    let reading = AbortOnDropHandle::new(tokio::spawn(async move { filled.fill(stderr).await }));
    Ok(Handler {
        spec: run.plan.spec.clone(),
        input: child.stdin.take().expect("stdin is piped"),
        output: Lines::new(child.stdout.take().expect("stdout is piped")),
        child,
        group,
        tail,
        reading,
        proven: false,
    })
}

/// On a thread that may wait: a start lasts until the child has become its command, and the loop and its
/// connection would stand behind every start of a batch. Given up on, the process ends with the answer.
async fn spawn(groups: Arc<ProcessGroups>, place: usize, mut command: Command) -> io::Result<(Child, Group)> {
    command.kill_on_drop(true);
    let started = tokio::task::spawn_blocking(move || {
        let child = command.spawn()?;
        let group = groups.enter(place, child.id().unwrap_or_default())?;
        Ok((child, group))
    });
    started.await?
}

impl Handler {
    /// Whether it can have a job: it lives, and wrote nothing since the last one. Any line could be taken for an answer
    /// to the next job.
    fn is_well(&mut self) -> bool {
        let silent = self.output.next().now_or_never().is_none();
        silent && matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its stdin, which is the sign to end, and waits a moment. Its group ends with it.
    async fn retire(self) {
        let Handler { mut child, input, group, .. } = self;
        drop(input);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, child.wait()).await;
        drop(group);
    }

    async fn talk(&mut self, run: &mut Run<'_>) -> Talk {
        let mut silent = true;
        match self.listen(run, &mut silent).await {
            Some(talk) => talk,
            None => self.died(run, silent).await,
        }
    }

    /// Listens to the job's end; none if its stdout is closed before.
    async fn listen(&mut self, run: &mut Run<'_>, silent: &mut bool) -> Option<Talk> {
        self.tail.clear();
        let mut unsent = job_line(run);
        loop {
            tokio::select! {
                biased;
                line = self.output.next() => match line {
                    Ok(Some(line)) => {
                        *silent = false;
                        match understand(&line, run.job.id) {
                            Ok(Said::Progress(value)) => run.progress.value(value),
                            Ok(Said::Ended(outcome)) if unsent.is_empty() => return Some(Talk::Ended(outcome)),
                            // It has not read the job to its end, nor would it the next.
                            Ok(Said::Ended(outcome)) => return Some(Talk::Broken(outcome)),
                            Ok(Said::Stale) => {}
                            Err(failure) => return Some(Talk::Broken(Outcome::Failed(failure))),
                        }
                    }
                    Ok(None) => return None,
                    Err(failure) => return Some(Talk::Broken(Outcome::Failed(failure))),
                },
                step = run.stops.step(true) => match step {
                    Step::Notify => unsent.extend(cancel_line(run.job.id)),
                    Step::Terminate | Step::Kill => self.group.signal(signal_of(step)),
                },
                sent = self.input.write(&unsent), if !unsent.is_empty() => match sent {
                    Ok(n) => drop(unsent.drain(..n)),
                    // It closed its stdin; what it says or how it ends will tell.
                    Err(_) => unsent.clear(),
                },
            }
        }
    }

    /// Its stdout is closed: it has ended, or is of no more use.
    async fn died(&mut self, run: &mut Run<'_>, silent: bool) -> Talk {
        let status = loop {
            tokio::select! {
                biased;
                status = tokio::time::timeout(LAST_WORDS, self.child.wait()) => break status,
                step = run.stops.step(false) => self.group.signal(signal_of(step)),
            }
        };
        match status {
            Ok(Ok(status)) if status.success() && silent && self.proven => Talk::Retired,
            Ok(Ok(status)) => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut self.reading).await;
                Talk::Broken(Outcome::Failed(run.ended_badly(
                    "the handler ended before its job: ",
                    status,
                    &self.tail.text(),
                )))
            }
            Ok(Err(e)) => Talk::Broken(run.worker_io(&e)),
            Err(_) => Talk::Broken(Outcome::Failed(no_stdout())),
        }
    }
}

fn no_stdout() -> Failure {
    Failure::of(Reason::InvalidResult, true, "stdout: the handler closed it without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_keeps_dying_is_started_ever_more_rarely() {
        let pauses: Vec<u128> = (0..8).map(|n| pause(n).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
