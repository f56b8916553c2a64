//! How a command ends: the exit code, and the sentence that says why and what to do next.

use crate::Error;

/// How a command ends, beside 0 and the library's own errors.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exit {
    /// 1, and nothing more to say.
    #[error("")]
    Failed,
    /// 2: the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// 3: there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// 4: it was refused.
    #[error("{0}")]
    Refused(String),
    /// 1: a right is missing; the text says who has it.
    #[error("{0}")]
    Denied(String),
    /// 124: the wait was over first.
    #[error("{0}")]
    TimedOut(String),
}

/// 1 error or job failed, 2 usage, 3 not found, 4 refused, 124 wait timed out.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    match (error.downcast_ref::<Exit>(), error.downcast_ref::<Error>()) {
        (Some(Exit::Failed), _) => 1,
        (Some(Exit::Usage(_)), _) | (_, Some(Error::Config(_) | Error::Json { .. })) => 2,
        (Some(Exit::NotFound(_)), _) | (_, Some(Error::NotFound(_))) => 3,
        (_, Some(e)) if e.code() == Some("RL032") => 3, // no such schedule
        (Some(Exit::Refused(_)), _) | (_, Some(Error::Refused { .. } | Error::WrongStatus(_))) => 4,
        (Some(Exit::TimedOut(_)), _) => 124,
        // Class 22: a value that Postgres refused before a function saw it, such as \u0000 in a payload.
        (_, Some(e)) if e.code().is_some_and(|c| c.starts_with("22")) => 4,
        _ => 1,
    }
}

/// Whether the database refused it for want of a right.
pub(super) fn is_denied(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|e| e.code() == Some("42501"))
}

/// The whole error in one line, or none if all was said.
pub(super) fn explain(error: &anyhow::Error) -> Option<String> {
    if let Some(Exit::Failed) = error.downcast_ref() {
        return None;
    }
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<Error>() {
            break; // its text has its causes in it
        }
    }
    let advice = match error.downcast_ref::<Error>() {
        Some(e @ (Error::Database(_) | Error::Pool(_))) if e.code().is_none() => {
            ". Check that the server runs and that the database URL is right"
        }
        _ => "",
    };
    Some(parts.join(": ") + advice)
}
