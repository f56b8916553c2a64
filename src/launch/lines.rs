//! The line protocol of `resident`: one JSON object a line, in both directions.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{files::parse, run::Run, tail::ERROR_BYTES};
use crate::{
    Failure, Reason,
    worker::launcher::{Outcome, RESULT_BYTES},
};

/// Of a line from a handler: a result of full size, and what is around it.
const LINE_BYTES: usize = RESULT_BYTES + 4096;

/// A job, as the handler reads it.
#[derive(Serialize)]
struct JobLine<'a> {
    job_id: Uuid,
    r#type: &'a str,
    queue: &'a str,
    attempt: i16,
    lease: String,
    deadline: Option<String>,
    traceparent: Option<&'a str>,
    payload: &'a RawValue,
}

pub(super) fn job_line(run: &Run<'_>) -> Vec<u8> {
    let job = run.job;
    line(&JobLine {
        job_id: job.id,
        r#type: &job.job_type,
        queue: &job.queue,
        attempt: job.attempts,
        lease: job.lease(),
        deadline: run.deadline(),
        traceparent: run.traceparent(),
        payload: &job.payload,
    })
}

pub(super) fn cancel_line(job: Uuid) -> Vec<u8> {
    line(&serde_json::json!({"cancel": job}))
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("texts, numbers and JSON are JSON");
    bytes.push(b'\n');
    bytes
}

/// A message of a handler.
pub(super) enum Said {
    Progress(Value),
    Ended(Outcome),
    /// About another job than the one that runs: too late.
    Stale,
}

#[derive(Deserialize)]
struct Answer<'a> {
    job_id: Option<Uuid>,
    ok: Option<bool>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Value>,
    retry: Option<bool>,
    progress: Option<Value>,
}

/// Reads one line. A failure is of the protocol: the handler cannot be trusted with another job.
pub(super) fn understand(line: &[u8], job: Uuid) -> Result<Said, Failure> {
    let text = std::str::from_utf8(line).map_err(|e| {
        Failure::of(
            Reason::InvalidUtf8,
            true,
            format!("stdout: expected UTF-8, got another byte at {}", e.valid_up_to()),
        )
    })?;
    let answer: Answer<'_> = serde_json::from_str(text).map_err(|e| {
        // Not with the line: it may be a payload.
        Failure::of(
            Reason::InvalidResult,
            true,
            format!("stdout: expected one JSON object a line (logs go to stderr): {e}"),
        )
    })?;
    if answer.job_id.is_some_and(|id| id != job) {
        return Ok(Said::Stale);
    }
    match (answer.ok, answer.progress) {
        (Some(true), _) => {
            let result = answer.result.map(|r| r.get().as_bytes().to_vec()).unwrap_or_default();
            Ok(Said::Ended(parse("result", result).map_or_else(Outcome::Failed, Outcome::Completed)))
        }
        (Some(false), _) => {
            let mut error = match answer.error {
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
                None => "the handler said that it failed, and not why".into(),
            };
            if let Some(end) = (0..=ERROR_BYTES).rev().find(|at| error.is_char_boundary(*at)) {
                error.truncate(end);
            }
            Ok(Said::Ended(Outcome::Failed(Failure::of(Reason::Error, answer.retry.unwrap_or(true), error))))
        }
        (None, Some(progress)) => Ok(Said::Progress(progress)),
        (None, None) => Err(Failure::of(Reason::InvalidResult, true, "stdout: expected a line with ok or progress")),
    }
}

/// Lines of a stream, each of bounded length.
#[derive(Debug)]
pub(super) struct Lines<R> {
    stream: R,
    /// From the start of the next line on.
    read: Vec<u8>,
    /// Of it, what has no newline in it.
    searched: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(stream: R) -> Lines<R> {
        Lines { stream, read: Vec::new(), searched: 0 }
    }

    /// The next line, none at the end of the stream. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(at) = self.read[self.searched..].iter().position(|b| *b == b'\n') {
                let rest = self.read.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > LINE_BYTES {
                return Err(Failure::of(
                    Reason::OutputTooLarge,
                    true,
                    format!("stdout: expected lines of at most {LINE_BYTES} bytes"),
                ));
            }
            // One that cannot be read is at its end.
            if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_a_rest_without_one_is_none() {
        let mut lines = Lines::new(&b"{}\n\nabc\nrest"[..]);
        for want in [&b"{}"[..], b"", b"abc"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(want));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::new(tokio::io::repeat(b'a'));
        assert_eq!(lines.next().await.unwrap_err().reason, Reason::OutputTooLarge);
        assert!(lines.read.len() < 4 * LINE_BYTES);
    }

    #[test]
    fn what_cannot_be_understood_has_a_reason_and_is_not_repeated() {
        let job = Uuid::now_v7();
        for (line, reason) in [
            (&b"secret"[..], Reason::InvalidResult),
            (b"{\"okay\": \"secret\"}", Reason::InvalidResult),
            (b"[]", Reason::InvalidResult),
            (b"{\"ok\": true, \"result\": \"\xff\"}", Reason::InvalidUtf8),
        ] {
            let Err(failure) = understand(line, job) else { panic!("understood {line:?}") };
            assert_eq!(failure.reason, reason);
            assert!(!failure.error.contains("secret"), "{}", failure.error);
        }
    }

    #[test]
    fn answers_are_ends_and_one_of_another_job_is_stale() {
        let job = Uuid::now_v7();
        let said = |line: &str| understand(line.as_bytes(), job).map_err(|f| f.error).unwrap();
        assert!(matches!(said("{\"ok\": true}"), Said::Ended(Outcome::Completed(None))));
        assert!(matches!(said("{\"ok\": true, \"result\": null}"), Said::Ended(Outcome::Completed(None))));
        assert!(
            matches!(said("{\"ok\": true, \"result\": 1}"), Said::Ended(Outcome::Completed(Some(r))) if r.get() == "1")
        );
        let Said::Ended(Outcome::Failed(f)) = said("{\"ok\": false, \"error\": \"no\", \"retry\": false}") else {
            panic!()
        };
        assert_eq!((f.error.as_str(), f.retryable), ("no", false));
        assert!(matches!(said(&format!("{{\"ok\": true, \"job_id\": \"{}\"}}", Uuid::now_v7())), Said::Stale));
        assert!(matches!(said("{\"progress\": 3}"), Said::Progress(v) if v == 3));
    }
}
