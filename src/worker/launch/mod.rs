//! The seam: what runs a job, and how a run can end.
//!
//! A run owns its job and its slot and gives both back with the outcome, so that a busy slot cannot be used
//! twice and a job cannot be ended while it runs. See `docs/launch-contract.md` for what the job sees.

pub(super) mod files;
pub(super) mod home;
mod lines;
pub(super) mod orders;
pub(crate) mod pod;
mod process;
mod progress;
pub(super) mod resident;
mod runner;
mod tail;
mod watch;

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use serde_json::value::RawValue;

use self::{files::Files, home::Home, orders::Orders, runner::Runner};
use crate::{ClaimedJob, Failure, Session};

/// Of a result, in bytes.
const RESULT_BYTES: usize = 1024 * 1024;
/// Of an error's text; with how the command ended before it, it stays below the 8 KiB that are kept.
const ERROR_BYTES: usize = 8 * 1024 - 64;

/// How a type is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command per job.
    Process,
    /// A handler kept alive per slot.
    Resident,
    /// A Pod per job, in a cluster.
    Pod,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        match text {
            "process" => Ok(Kind::Process),
            "resident" => Ok(Kind::Resident),
            "pod" => Ok(Kind::Pod),
            other => Err(format!("expected process, resident or pod, got {other}")),
        }
    }
}

/// What is started: a program and its surroundings. Two equal ones may share a warm handler.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Of a Pod, what else there is.
    pub pod: Option<pod::Parts>,
}

/// A job admitted to a launch.
pub(super) struct Plan {
    pub kind: Kind,
    pub spec: Arc<Spec>,
    pub timeout: Option<Duration>,
    pub no_retry_exit_codes: Vec<i32>,
}

/// One run of a job.
pub(super) struct Run {
    pub job: ClaimedJob,
    pub plan: Plan,
    pub orders: Orders,
    /// Stores progress.
    pub session: Arc<Session>,
    /// Where Pods are made, by a worker that makes them.
    pub pods: Option<Arc<pod::Pods>>,
    /// The Pod that is to go when the database knows how the job ended.
    pub remains: Option<pod::Remains>,
}

/// How a run ended.
pub(super) enum Outcome {
    Completed(Option<Box<RawValue>>),
    Failed(Failure),
    /// It was stopped before its end and goes back, no attempt consumed.
    Released,
    /// It goes back by no fault of its own, no attempt consumed, perhaps not at once; the text says why.
    HandedBack {
        after: Option<Duration>,
        error: String,
    },
}

/// Room for one running job, and for one handler that waits between jobs.
pub(super) struct Slot {
    number: usize,
    home: Arc<Home>,
    runs: u64,
    runner: Option<Runner>,
    handler: Option<resident::Handler>,
    starts: resident::Starts,
}

impl Slot {
    pub(super) fn new(number: usize, home: Arc<Home>) -> Slot {
        Slot { number, home, runs: 0, runner: None, handler: None, starts: resident::Starts::default() }
    }

    /// What its handler runs, if one waits here.
    pub(super) fn warm(&self) -> Option<&Spec> {
        self.handler.as_ref().map(resident::Handler::spec)
    }

    /// Whether the guardian has killed what ran here.
    pub(super) fn is_killed(&self) -> bool {
        self.home.is_killed()
    }

    /// Ends the handler, if there is one.
    pub(super) async fn close(mut self) {
        if let Some(handler) = self.handler.take() {
            handler.retire().await;
        }
    }

    /// Its thread, from its first command on.
    fn runner(&mut self) -> io::Result<&Runner> {
        if self.runner.is_none() {
            self.runner = Some(Runner::new()?);
        }
        Ok(self.runner.as_ref().expect("it was made just now"))
    }

    fn files(&mut self) -> Files {
        self.runs += 1;
        Files::new(self.home.dir(), &format!("{}.{}", self.number, self.runs))
    }
}

/// A way to run jobs.
trait Launch {
    /// Runs a job to its end in a slot that is lent for so long.
    fn run(slot: &mut Slot, run: &mut Run) -> impl Future<Output = Outcome> + Send;
}

pub(super) async fn run(slot: &mut Slot, run: &mut Run) -> Outcome {
    // A Pod's command is timed where it runs: an image may take long to come.
    run.orders.start_clock(run.plan.timeout.filter(|_| run.plan.kind != Kind::Pod));
    match run.plan.kind {
        Kind::Pod => pod::PodPerJob::run(slot, run).await,
        Kind::Process => process::Process::run(slot, run).await,
        Kind::Resident => resident::Resident::run(slot, run).await,
    }
}

/// Which of the free slots to use: a warm handler is worth most, and is kept from others while it can be.
/// Answers the index; there must be one.
pub(super) fn choose<'a>(warm: impl Iterator<Item = Option<&'a Spec>>, wanted: Option<&Spec>) -> usize {
    let rank = |spec: Option<&Spec>| match (spec, wanted) {
        (Some(has), Some(wants)) if has == wants => 2,
        (None, _) => 1,
        (Some(_), _) => 0,
    };
    warm.map(rank).enumerate().max_by_key(|(index, rank)| (*rank, *index)).map_or(0, |(index, _)| index)
}

pub(super) fn failure(reason: &'static str, retryable: bool, error: impl Into<String>) -> Failure {
    Failure { error: error.into(), retryable, reason }
}

impl Run {
    /// When the job is to be over, for the job to read; the worker's clock, the timeout itself is monotonic.
    fn deadline(&self) -> Option<String> {
        let timeout = chrono::Duration::from_std(self.plan.timeout?).ok()?;
        Some((chrono::Utc::now() + timeout).to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }

    fn traceparent(&self) -> Option<&str> {
        self.job.opts.as_ref()?.pointer("/headers/traceparent")?.as_str()
    }

    /// The end of a run that was ordered to end.
    fn ordered(&self, why: orders::Why) -> Outcome {
        match why {
            orders::Why::Timeout => {
                let after = self.plan.timeout.unwrap_or_default();
                Outcome::Failed(failure("timeout", true, format!("timed out after {after:?}")))
            }
            orders::Why::Cancelled => Outcome::Failed(failure("cancelled", false, "cancelled while it ran")),
            orders::Why::Draining | orders::Why::Lease => Outcome::Released,
        }
    }

    /// The failure of a process that ended by itself, and not well.
    fn ended_badly(&self, what: &str, status: ExitStatus, stderr: &str) -> Failure {
        use std::os::unix::process::ExitStatusExt;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("{what}exit code {code}"),
            (None, Some(signal)) => format!("{what}killed by signal {signal}"),
            (None, None) => format!("{what}ended without an exit code"),
        };
        let text = if stderr.trim().is_empty() { how } else { format!("{how}: {}", stderr.trim_end()) };
        let retryable = status.code().is_none_or(|c| !self.plan.no_retry_exit_codes.contains(&c));
        failure(if status.code().is_some() { "exit_code" } else { "signal" }, retryable, text)
    }

    fn not_started(&self, error: &io::Error) -> Failure {
        failure("spawn_failed", true, cannot_start(&self.plan.spec.program, error))
    }
}

fn cannot_start(program: &str, error: &io::Error) -> String {
    use std::io::ErrorKind;
    let why = match error.kind() {
        ErrorKind::NotFound => "command not found; is it in this container, and on its PATH?".to_owned(),
        ErrorKind::PermissionDenied => "not executable by this user".to_owned(),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "not a program of this machine; does a script lack its #! line?".to_owned()
        }
        _ => error.to_string(),
    };
    format!("cannot start {program}: {why}")
}

fn worker_io(error: &io::Error) -> Outcome {
    Outcome::Failed(failure("worker_io", true, format!("the worker cannot keep the job's files: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(program: &str) -> Spec {
        Spec { program: program.into(), args: Vec::new(), env: Vec::new(), pod: None }
    }

    #[test]
    fn a_job_goes_to_its_warm_handler_then_to_an_empty_slot_then_to_any() {
        let (a, b) = (spec("a"), spec("b"));
        assert_eq!(choose([Some(&a), None, Some(&b)].into_iter(), Some(&a)), 0);
        assert_eq!(choose([Some(&a), None, Some(&a)].into_iter(), Some(&b)), 1);
        assert_eq!(choose([Some(&a), Some(&a)].into_iter(), Some(&b)), 1);
    }

    #[test]
    fn a_command_leaves_warm_handlers_alone_while_it_can() {
        let a = spec("a");
        assert_eq!(choose([None, Some(&a)].into_iter(), None), 0);
        assert_eq!(choose([Some(&a)].into_iter(), None), 0);
    }
}
