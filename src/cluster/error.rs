//! The failures of the Kubernetes API, as a type to branch on.

use std::time::Duration;

/// An error of the API. The text names the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No client can be made: the kubeconfig or the service account.
    #[error("{0}")]
    Config(String),
    /// No answer came in time. The call may have had its effect.
    #[error("{what}: no answer from the API server within {after:?}")]
    Late {
        /// The call.
        what: String,
        /// The time that was waited.
        after: Duration,
    },
    /// The API server cannot be reached, or is overloaded. The call may have had its effect.
    #[error("{what}: the API server is away: {why}")]
    Away {
        /// The call.
        what: String,
        /// In kube's words.
        why: String,
    },
    /// There is no such object.
    #[error("{0}: not found")]
    NotFound(String),
    /// An object of this name exists already.
    #[error("{0}: it exists already")]
    Exists(String),
    /// The object was changed meanwhile, and has to be read again.
    #[error("{0}: it was changed meanwhile")]
    Conflict(String),
    /// The service account has no right to the call, or a quota refuses it; the message tells the two apart.
    #[error("{what}: forbidden: {message}")]
    Forbidden {
        /// The call.
        what: String,
        /// The API server's sentence.
        message: String,
    },
    /// The call was refused otherwise: it is invalid, or an admission plugin refuses it.
    #[error("{what}: refused with {code}: {message}")]
    Refused {
        /// The call.
        what: String,
        /// The HTTP status.
        code: u16,
        /// The API server's sentence.
        message: String,
    },
}

impl ClusterError {
    pub(crate) fn of(what: &str, error: kube::Error) -> ClusterError {
        let what = what.to_owned();
        let status = match error {
            kube::Error::Api(status) => status,
            other => return ClusterError::Away { what, why: chain(&other) },
        };
        let (code, message) = (status.code, status.message.clone());
        match code {
            // A webhook answers with the code that it likes, which says nothing of the object or of the API server.
            _ if is_webhooks(&message) => ClusterError::Refused { what, code, message },
            404 => ClusterError::NotFound(what),
            409 if status.is_already_exists() => ClusterError::Exists(what),
            409 => ClusterError::Conflict(what),
            401 | 403 => ClusterError::Forbidden { what, message },
            429 | 500.. => ClusterError::Away { what, why: format!("{code}: {message}") },
            _ => ClusterError::Refused { what, code, message },
        }
    }

    /// Whether the API server was out of reach: the same call may succeed later, and may have succeeded.
    ///
    /// ```
    /// let late = rowlock::cluster::ClusterError::Away { what: "get pod a".into(), why: "503".into() };
    /// assert!(late.is_away());
    /// ```
    pub fn is_away(&self) -> bool {
        matches!(self, ClusterError::Late { .. } | ClusterError::Away { .. })
    }
}

/// Whether an admission webhook looked at the object and refused it.
fn is_webhooks(message: &str) -> bool {
    message.starts_with("admission webhook ") && message.contains(" denied the request")
}

/// An error with its causes: an error of the transport says only in its last cause what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str) -> ClusterError {
        let status = kube::core::Status::failure("a sentence", reason).with_code(code);
        ClusterError::of("get pod a", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn answers_are_told_apart_and_name_the_call() {
        assert!(matches!(api(404, "NotFound"), ClusterError::NotFound(_)));
        assert!(matches!(api(409, "AlreadyExists"), ClusterError::Exists(_)));
        assert!(matches!(api(409, "Conflict"), ClusterError::Conflict(_)));
        assert!(matches!(api(403, "Forbidden"), ClusterError::Forbidden { .. }));
        assert!(matches!(api(422, "Invalid"), ClusterError::Refused { code: 422, .. }));
        for code in [429, 500, 503, 504] {
            assert!(api(code, "Busy").is_away(), "{code}");
        }
        assert!(!api(404, "NotFound").is_away());
        for code in [400, 403, 404, 409, 422, 429, 500] {
            let message = "admission webhook \"a.b.c\" denied the request: no";
            let status = kube::core::Status::failure(message, "AlreadyExists").with_code(code);
            let error = ClusterError::of("create pod a", kube::Error::Api(status.boxed()));
            assert!(matches!(error, ClusterError::Refused { .. }), "a webhook's {code}");
        }
        assert_eq!(api(422, "Invalid").to_string(), "get pod a: refused with 422: a sentence");
    }
}
