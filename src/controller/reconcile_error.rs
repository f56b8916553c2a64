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
