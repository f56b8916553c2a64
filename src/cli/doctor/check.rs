//! One line of the answer of `rowlock doctor`.

use serde::Serialize;

/// One line of the answer.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub check: &'static str,
    pub state: State,
    pub detail: String,
}

/// `unknown` means that this user may not see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) enum State {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "unknown")]
    Unknown,
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}
