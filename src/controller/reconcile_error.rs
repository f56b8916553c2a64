//! The errors of a reconciliation.

use super::target::TargetError;
use crate::Error;

/// A reconciliation could not be finished.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    #[error(transparent)]
    Database(#[from] Error),
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// An error with its causes: an error's own text never repeats them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
