//! A command and its surroundings, as its job type has them.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

pub use crate::catalog::LaunchKind as Kind;

/// A program and its surroundings. Two equal ones may share a warm handler.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Only for a Pod.
    pub pod: Option<Parts>,
}

/// A job admitted to a launch.
pub(super) struct Plan {
    pub kind: Kind,
    pub spec: Arc<Spec>,
    pub timeout: Option<Duration>,
    pub no_retry_exit_codes: Vec<i32>,
}

/// The settings of a type that only Pods have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub image: String,
    pub secrets: Vec<SecretValue>,
    pub resources: Option<Value>,
    pub service_account: Option<String>,
    pub template: Option<Value>,
}

/// A variable from a Secret.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct SecretValue {
    pub variable: String,
    pub name: String,
    pub key: String,
}

#[cfg(test)]
impl Parts {
    pub(super) fn of_image(image: &str) -> Parts {
        Parts { image: image.into(), secrets: Vec::new(), resources: None, service_account: None, template: None }
    }
}
