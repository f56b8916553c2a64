//! One run of a job by a command, and the failures that all launches share.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    host::{Host, is_exhausted},
    spec::Plan,
};
use crate::{
    ClaimedJob, Failure, Reason,
    worker::{
        launcher::Outcome,
        progress::Progress,
        stop::{StopReason, Stops},
    },
};

/// One run of a job.
pub(super) struct Run<'a> {
    pub job: &'a ClaimedJob,
    pub plan: Plan,
    pub stops: Stops,
    pub progress: &'a Arc<Progress>,
    pub host: &'a Host,
}

impl Run<'_> {
    /// When the job is to be over, for the job to read; the worker's clock, the timeout itself is monotonic.
    pub(super) fn deadline(&self) -> Option<String> {
        deadline(chrono::Utc::now(), self.plan.timeout?)
    }

    pub(super) fn traceparent(&self) -> Option<&str> {
        self.job.opts.as_ref()?.pointer("/headers/traceparent")?.as_str()
    }

    /// The outcome of a run that was asked to stop.
    pub(super) fn stopped(&self, reason: StopReason) -> Outcome {
        Outcome::of_stop(reason, self.plan.timeout)
    }

    /// The failure of a process that ended by itself, and not well.
    pub(super) fn ended_badly(&self, what: &str, status: ExitStatus, stderr: &str) -> Failure {
        use std::os::unix::process::ExitStatusExt;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("{what}exit code {code}"),
            (None, Some(signal)) => format!("{what}killed by signal {signal}"),
            (None, None) => format!("{what}ended without an exit code"),
        };
        let text = if stderr.trim().is_empty() { how } else { format!("{how}: {}", stderr.trim_end()) };
        let retryable = status.code().is_none_or(|c| !self.plan.no_retry_exit_codes.contains(&c));
        Failure::of(if status.code().is_some() { Reason::ExitCode } else { Reason::Signal }, retryable, text)
    }

    /// The outcome of a command that could not be started: its type's fault, or this machine's.
    pub(super) fn not_started(&self, error: &io::Error) -> Outcome {
        let text = cannot_start(&self.plan.spec.program, error);
        if is_exhausted(error) {
            self.host_failed(text)
        } else {
            Outcome::Failed(Failure::of(Reason::SpawnFailed, true, text))
        }
    }

    /// The outcome of a job whose files, or whose process, the worker cannot handle.
    pub(super) fn worker_io(&self, error: &io::Error) -> Outcome {
        self.host_failed(format!("the worker cannot keep the job's files: {error}"))
    }

    /// No attempt is consumed: another worker may be better off, or this one when it has paused.
    fn host_failed(&self, text: String) -> Outcome {
        self.host.failed(&text);
        Outcome::HandedBack { after: None, error: format!("{}: {text}", Reason::WorkerIo) }
    }
}

/// None for a timeout that ends beyond every calendar.
fn deadline(now: DateTime<Utc>, timeout: Duration) -> Option<String> {
    let at = now.checked_add_signed(chrono::Duration::from_std(timeout).ok()?)?;
    Some(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

pub(super) fn cannot_start(program: &str, error: &io::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_beyond_every_calendar_has_no_deadline() {
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(deadline(DateTime::UNIX_EPOCH, year).as_deref(), Some("1971-01-01T00:00:00.000Z"));
        for timeout in [270_000 * year, Duration::MAX] {
            assert_eq!(deadline(DateTime::UNIX_EPOCH, timeout), None);
        }
    }
}
