//! The report of the binary in a Pod to the worker: a line in the termination message, and if that is too small for it,
//! the same in pieces on the container's log.
//!
//! The message comes with the Pod's status, without a call. The log is written last and is not rotated any more once
//! the container has ended.

use serde::{Deserialize, Serialize};

/// A termination message holds 4096 bytes; what is longer is cut.
const MESSAGE: usize = 4000;
/// Of one piece: shorter than what a container's runtime cuts lines at.
const PIECE: usize = 8 * 1024;
const MARK: &str = "rowlock-report";
/// Before a line of progress on the log.
pub(crate) const PROGRESS: &str = "rowlock-progress ";

#[derive(Debug, Serialize, Deserialize, PartialEq, Default)]
#[serde(default)]
pub(super) struct Report {
    pub rowlock: u8,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// It was told to end before its end, by a signal to the Pod.
    pub told: bool,
    pub timed_out: bool,
    /// It could not be started.
    pub not_started: Option<String>,
    pub result: Option<String>,
    /// A result that cannot be taken: reason and text.
    pub bad_result: Option<(String, String)>,
    pub stderr: String,
    /// The bytes of all of it, when they are on the log.
    pub on_log: Option<usize>,
}

impl Report {
    /// The message, and what goes to the log if it does not hold all.
    pub(super) fn write(&self) -> (String, Vec<String>) {
        let whole = json(self);
        if whole.len() <= MESSAGE {
            return (whole, Vec::new());
        }
        let pieces = pieces(&whole);
        let stderr = String::new();
        let mut short =
            Report { result: None, on_log: Some(whole.len()), stderr, bad_result: None, not_started: None, ..*self };
        // As much of the end as there is room for; in JSON it may be longer than it is.
        let mut keep = 2048;
        loop {
            short.stderr = end(&self.stderr, keep).to_owned();
            let text = json(&short);
            if text.len() <= MESSAGE || keep == 0 {
                return (text, pieces);
            }
            keep /= 2;
        }
    }

    pub(super) fn read(message: &str) -> Option<Report> {
        serde_json::from_str(message).ok().filter(|r: &Report| r.rowlock == 1)
    }

    /// All of a report whose message has but a part, from the log's end.
    pub(super) fn from_log(log: &str, bytes: usize) -> Option<Report> {
        let mut whole = String::with_capacity(bytes);
        let mut next = 0;
        for line in log.lines() {
            let Some((_, rest)) = line.split_once(MARK) else { continue };
            let (number, piece) = rest.strip_prefix(' ')?.split_once(' ')?;
            match number.parse::<usize>() {
                Ok(0) => whole.clear(),
                Ok(n) if n == next => {}
                _ => continue,
            }
            next = number.parse::<usize>().ok()? + 1;
            whole.push_str(piece);
        }
        (whole.len() == bytes).then(|| Report::read(&whole)).flatten()
    }

    /// How many lines to ask of the log.
    pub(super) fn lines(bytes: usize) -> usize {
        bytes / (PIECE - 4) + 64
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string(report).expect("texts and numbers are JSON")
}

fn pieces(whole: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = whole;
    while !rest.is_empty() {
        let mut at = PIECE.min(rest.len());
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (piece, more) = rest.split_at(at);
        pieces.push(format!("{MARK} {} {piece}", pieces.len()));
        rest = more;
    }
    pieces
}

/// The last bytes of a text, from a whole character on.
pub(super) fn end(text: &str, bytes: usize) -> &str {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

/// Whether a line of a Pod's log is of the job, not of the binary around it.
pub(crate) fn is_jobs_own(line: &str) -> bool {
    !line.starts_with(MARK) && !line.starts_with(PROGRESS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_small_report_is_in_the_message_alone() {
        let report = Report { rowlock: 1, code: Some(0), result: Some("{\n\"a\": 1}".into()), ..Report::default() };
        let (message, log) = report.write();
        assert!(log.is_empty());
        assert_eq!(Report::read(&message).unwrap(), report);
        assert!(Report::read("panicked at …").is_none());
    }

    #[test]
    fn a_large_one_is_found_on_the_log_between_other_lines_or_not_at_all() {
        let result = format!("\"{}\"", "é\\n".repeat(200_000));
        let report = Report {
            rowlock: 1,
            code: Some(0),
            result: Some(result),
            stderr: "\u{1}".repeat(8000),
            ..Report::default()
        };
        let (message, log) = report.write();
        assert!(message.len() <= 4096, "{}", message.len());
        let bytes = Report::read(&message).unwrap().on_log.unwrap();
        assert!(log.len() <= Report::lines(bytes));
        let noisy: Vec<String> = log.iter().flat_map(|l| [l.clone(), "noise".into()]).collect();
        let text = format!("a line without its end{}", noisy.join("\n"));
        assert_eq!(Report::from_log(&text, bytes).unwrap(), report);
        assert!(Report::from_log(&log[1..].join("\n"), bytes).is_none(), "its beginning was rotated away");
    }
}
