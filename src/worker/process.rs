//! The `process` launch: a command in this container, a process group of its own per job.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::mpsc,
};
use uuid::Uuid;

use super::{Outcome, catalog::JobType};
use crate::{ClaimedJob, Failure};

/// Why a job is stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stop {
    /// Somebody cancelled it.
    Cancel,
    /// The worker shuts down: it goes back.
    Release,
    /// The lease is lost: no grace, another worker may start it.
    Now,
}

#[derive(Debug)]
pub(super) struct StopHandle(mpsc::UnboundedSender<Stop>);

impl StopHandle {
    /// A job that has ended meanwhile does not hear it.
    pub(super) fn send(&self, how: Stop) {
        let _ = self.0.send(how);
    }
}

/// What one run needs, taken from the job so that the worker keeps the job itself.
struct Run {
    id: Uuid,
    payload: String,
    env: Vec<(&'static str, String)>,
    timeout: Option<Duration>,
    grace: Duration,
    job_type: Arc<JobType>,
}

/// Of stderr; with how it ended before it, an error stays below the 8 KiB that are kept.
const ERROR_BYTES: usize = 8 * 1024 - 64;
const RESULT_BYTES: u64 = 1024 * 1024;

/// Starts a job; its end arrives on `ended`, exactly once.
pub(super) fn start(
    job: &ClaimedJob,
    job_type: Option<Arc<JobType>>,
    grace: Duration,
    ended: mpsc::UnboundedSender<(Uuid, Outcome)>,
) -> StopHandle {
    let (stop, stops) = mpsc::unbounded_channel();
    let id = job.id;
    let run = match job_type {
        None => Err(failure("unknown_type", true, format!("unknown job type {}", job.job_type))),
        Some(t) => prepare(job, t, grace),
    };
    tokio::spawn(async move {
        let outcome = match run {
            Ok(run) => supervise(run, stops).await,
            Err(failure) => Outcome::Failed(failure),
        };
        // The worker is gone only when its lease is: nobody is left to tell.
        let _ = ended.send((id, outcome));
    });
    StopHandle(stop)
}

fn prepare(job: &ClaimedJob, job_type: Arc<JobType>, grace: Duration) -> Result<Run, Failure> {
    if job_type.launch != "process" {
        let launch = &job_type.launch;
        return Err(failure(
            "unsupported_launch",
            true,
            format!("launch {launch} is not supported by this worker, only process"),
        ));
    }
    if job_type.command.is_empty() {
        return Err(failure("no_command", false, format!("job type {} has no command", job.job_type)));
    }
    match &job_type.schema {
        Some(Err(e)) => {
            return Err(failure("invalid_schema", false, format!("payload_schema of {}: {e}", job.job_type)));
        }
        Some(Ok(schema)) => {
            let payload: serde_json::Value = serde_json::from_str(job.payload.get())
                .map_err(|e| failure("invalid_payload", false, format!("payload: {e}")))?;
            if let Err(e) = schema.validate(&payload) {
                // The path, never the value: errors are read by people who may not see payloads.
                let at = e.instance_path().to_string();
                let rule = e.schema_path().to_string();
                return Err(failure(
                    "invalid_payload",
                    false,
                    format!("payload{at}: does not match the type's schema at {rule}"),
                ));
            }
        }
        None => {}
    }
    let timeout = job.timeout().or(job_type.timeout);
    let deadline =
        timeout.and_then(|t| chrono::Duration::from_std(t).ok()).map(|t| (chrono::Utc::now() + t).to_rfc3339());
    let traceparent = job.opts.as_ref().and_then(|o| o.pointer("/headers/traceparent")?.as_str()).unwrap_or_default();
    Ok(Run {
        id: job.id,
        payload: job.payload.get().to_owned(),
        env: vec![
            ("ROWLOCK_JOB_ID", job.id.to_string()),
            ("ROWLOCK_JOB_TYPE", job.job_type.clone()),
            ("ROWLOCK_QUEUE", job.queue.clone()),
            ("ROWLOCK_ATTEMPT", job.attempts.to_string()),
            ("ROWLOCK_LEASE", job.lease()),
            ("ROWLOCK_DEADLINE", deadline.unwrap_or_default()),
            ("TRACEPARENT", traceparent.to_owned()),
        ],
        timeout,
        grace,
        job_type,
    })
}

async fn supervise(run: Run, mut stops: mpsc::UnboundedReceiver<Stop>) -> Outcome {
    let files = match Files::new(&run) {
        Ok(files) => files,
        Err(e) => return Outcome::Failed(failure("worker_io", true, format!("cannot write the job's files: {e}"))),
    };
    let mut child = match spawn(&run, &files) {
        Ok(child) => child,
        Err(e) => {
            let program = &run.job_type.command[0];
            return Outcome::Failed(failure("command_not_found", true, format!("cannot start {program}: {e}")));
        }
    };
    let group = child.id();
    let stderr = tokio::spawn(tail(child.stderr.take().expect("stderr is piped")));
    if let Some(mut stdin) = child.stdin.take() {
        let payload = run.payload.clone();
        // A command that does not read its stdin closes the pipe; that is no error.
        tokio::spawn(async move {
            let _ = stdin.write_all(payload.as_bytes()).await;
        });
    }
    let timeout = async {
        match run.timeout {
            Some(t) => tokio::time::sleep(t).await,
            None => std::future::pending().await,
        }
    };
    let stopped = tokio::select! {
        status = child.wait() => {
            let status = match status {
                Ok(status) => status,
                Err(e) => return Outcome::Failed(failure("worker_io", true, format!("waiting for the command: {e}"))),
            };
            end_group(group);
            // Grandchildren may hold stderr open; what was written is enough.
            let text = tokio::time::timeout(Duration::from_millis(200), stderr).await.ok().and_then(Result::ok).unwrap_or_default();
            return judge(&run, &files, status, &text);
        }
        () = timeout => None,
        Some(how) = stops.recv() => Some(how),
    };
    let grace = if stopped == Some(Stop::Now) { Duration::ZERO } else { run.grace };
    terminate(&mut child, grace).await;
    match stopped {
        None => {
            Outcome::Failed(failure("timeout", true, format!("timed out after {:?}", run.timeout.unwrap_or_default())))
        }
        Some(Stop::Cancel) => Outcome::Failed(failure("cancelled", false, "cancelled while it ran".into())),
        Some(Stop::Release | Stop::Now) => Outcome::Released,
    }
}

fn spawn(run: &Run, files: &Files) -> std::io::Result<Child> {
    let [program, args @ ..] = &run.job_type.command[..] else { unreachable!("checked in prepare") };
    Command::new(program)
        .args(args)
        // A job gets no credentials of the worker's.
        .env_remove("DATABASE_URL")
        .env_remove("ROWLOCK_DATABASE_URL")
        .env_remove("PGPASSWORD")
        .envs(run.env.iter().map(|(k, v)| (*k, v)))
        .env("ROWLOCK_PAYLOAD_FILE", files.path("payload"))
        .env("ROWLOCK_RESULT_FILE", files.path("result"))
        .envs(run.job_type.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::piped())
        // What a job prints belongs to the log, not to the worker's own output.
        .stdout(Stdio::from(std::io::stderr()))
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

fn judge(run: &Run, files: &Files, status: std::process::ExitStatus, stderr: &str) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    if status.success() {
        return match files.result() {
            Ok(result) => Outcome::Completed(result),
            Err(text) => Outcome::Failed(failure("invalid_result", true, text)),
        };
    }
    let what = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without an exit code".into(),
    };
    let text = if stderr.trim().is_empty() { what } else { format!("{what}: {}", stderr.trim_end()) };
    let retryable = status.code().is_none_or(|c| !run.job_type.no_retry_exit_codes.contains(&c));
    Outcome::Failed(failure(if status.code().is_some() { "exit_code" } else { "signal" }, retryable, text))
}

/// SIGTERM to the group, SIGKILL after the grace.
async fn terminate(child: &mut Child, grace: Duration) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(group) = group {
        if !grace.is_zero() {
            let _ = kill_process_group(group, Signal::TERM);
            if tokio::time::timeout(grace, child.wait()).await.is_ok() {
                let _ = kill_process_group(group, Signal::KILL);
                return;
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait().await;
}

/// Whatever the command left running in its group does not outlive the job. The leader's number stays
/// taken while its group has members; without any the signal finds nobody.
fn end_group(group: Option<u32>) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = group.and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The last bytes of a stream, as text.
async fn tail(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..n]);
        if kept.len() > 2 * ERROR_BYTES {
            kept.drain(..kept.len() - ERROR_BYTES);
        }
    }
    String::from_utf8_lossy(&kept[kept.len().saturating_sub(ERROR_BYTES)..]).into_owned()
}

fn failure(reason: &'static str, retryable: bool, error: String) -> Failure {
    Failure { error, retryable, reason }
}

/// The payload and result files, in a directory only this user can read; gone with the value.
struct Files(PathBuf);

impl Files {
    fn new(run: &Run) -> std::io::Result<Files> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = std::env::temp_dir().join(format!("rowlock-{}-{}", run.id, Uuid::now_v7().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let files = Files(dir);
        std::fs::write(files.path("payload"), &run.payload)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The result, if the command wrote one.
    fn result(&self) -> Result<Option<Box<RawValue>>, String> {
        let path = self.path("result");
        let size = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("result file: {e}")),
        };
        if size > RESULT_BYTES {
            return Err(format!("result file: expected at most {RESULT_BYTES} bytes, got {size}"));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| format!("result file: expected UTF-8 JSON: {e}"))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        RawValue::from_string(text.trim().to_owned()).map(Some).map_err(|e| format!("result file: expected JSON: {e}"))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
