//! In the Pod: this program around the job's command. It gives the command its payload, measures its time, hands
//! signals on, and reports how it ended.

use std::{
    fs::File,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::future::{FusedFuture, FutureExt};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::report::{PROGRESS, Report};
use crate::{
    launch::{
        files::Files,
        process_group::signal_of,
        run::cannot_start,
        tail::{LAST_WORDS, Tail},
    },
    worker::{
        progress::{BYTES, Progress},
        stop::{LeaseStops, StopReason, StopRequest, Stops},
    },
};

/// Where a container leaves its last words, unless its Pod says otherwise.
const MESSAGE: &str = "/dev/termination-log";

/// Runs the command to its end and answers its exit code, as a shell would.
///
/// # Errors
/// If the report cannot be written.
pub(crate) async fn run(command: &[String], grace: Duration, timeout: Option<Duration>) -> std::io::Result<u8> {
    let path = |variable: &str| PathBuf::from(std::env::var_os(variable).unwrap_or_default());
    let mut files = Files::at(path("ROWLOCK_RESULT_FILE"), path("ROWLOCK_PROGRESS_FILE"));
    // Before the start: a signal that comes now is not lost.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let report = match start(command, &path("ROWLOCK_PAYLOAD_FILE")) {
        Ok(child) => supervise(child, &mut files, &mut signals, grace, timeout).await?,
        Err(why) => Report { rowlock: 1, code: Some(127), not_started: Some(why), ..Report::default() },
    };
    let (message, log) = report.write();
    let mut out = std::io::stdout().lock();
    log.iter().try_for_each(|piece| writeln!(out, "{piece}"))?;
    out.flush()?;
    std::fs::write(MESSAGE, message)?;
    let code = report.code.or(report.signal.map(|s| 128 + s)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

fn start(command: &[String], payload: &std::path::Path) -> Result<Child, String> {
    let (program, args) = command.split_first().ok_or("no command")?;
    let stdin = File::open(payload).map_err(|e| format!("payload: {}: {e}", payload.display()))?;
    let started = Command::new(program).args(args).stdin(stdin).stderr(Stdio::piped()).process_group(0).spawn();
    started.map_err(|e| cannot_start(program, &e))
}

async fn supervise(
    mut child: Child,
    files: &mut Files,
    [term, int]: &mut [tokio::signal::unix::Signal; 2],
    grace: Duration,
    timeout: Option<Duration>,
) -> std::io::Result<Report> {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let group = pid.ok_or_else(|| std::io::Error::other("the process has no number"))?;
    // The kubelet kills everything at the end of the grace: the report must be out before.
    let grace = grace - (grace / 5).min(Duration::from_secs(2));
    let (own, heard) = watch::channel(None);
    let (_lease, no_lease) = watch::channel(None);
    let mut stops = Stops::new(heard, LeaseStops { granted: no_lease.clone(), ours: no_lease }, grace);
    stops.start_timeout(timeout);
    let (tail, progress) = (Tail::default(), Progress::default());
    let reading = tee(child.stderr.take().expect("stderr is piped"), &tail).fuse();
    tokio::pin!(reading);
    let mut seen = 0;
    let status = {
        let following = files.follow(&mut seen, &progress);
        tokio::pin!(following);
        loop {
            tokio::select! {
                biased;
                status = child.wait() => break status?,
                _ = async { tokio::select! { s = term.recv() => s, s = int.recv() => s } } => {
                    let kill_at = Instant::now() + grace;
                    own.send_replace(Some(StopRequest { reason: StopReason::Draining, kill_at }));
                }
                step = stops.step(false) => {
                    let _ = kill_process_group(group, signal_of(step));
                }
                () = progress.news() => tell(&progress)?,
                () = &mut reading => {}
                () = &mut following => {}
            }
        }
    };
    let _ = kill_process_group(group, Signal::KILL);
    if !reading.is_terminated() {
        let _ = tokio::time::timeout(LAST_WORDS, reading).await;
    }
    files.last_look(&mut seen, &progress);
    tell(&progress)?;
    let mut report = Report {
        rowlock: 1,
        code: status.code(),
        signal: status.signal(),
        told: stops.reason() == Some(StopReason::Draining),
        timed_out: stops.reason() == Some(StopReason::Timeout),
        stderr: tail.text(),
        ..Report::default()
    };
    if status.success() {
        report.stderr.clear();
        match files.result() {
            Ok(result) => report.result = result.map(|r| r.get().to_owned()),
            Err(failure) => report.bad_result = Some((failure.reason.as_str().to_owned(), failure.error)),
        }
    }
    Ok(report)
}

/// Progress goes out by the log, which the worker follows.
fn tell(progress: &Progress) -> std::io::Result<()> {
    let Some(value) = progress.take() else { return Ok(()) };
    let text = value.to_string();
    if text.len() > BYTES {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{PROGRESS}{text}")?;
    out.flush()
}

/// The job's stderr stays on the Pod's log; its end is kept beside.
async fn tee(mut stderr: ChildStderr, tail: &Tail) {
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stderr.read(&mut chunk).await {
        let _ = std::io::stderr().write_all(&chunk[..n]);
        tail.push(&chunk[..n]);
    }
}
