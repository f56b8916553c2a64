//! Reads an answer of the API server to a Pod that it did not take: who refused the Pod, and what follows; pure.
//!
//! A Pod is refused by whoever comes first: the API server's rights, the namespace, admission (webhooks, policies,
//! limits, quota), the schema. Only the schema judges the type alone, so only its refusal is final. The others may
//! change while the type stays, and the job goes back without an attempt. A refusal that nobody knows is of this kind.

use crate::{Reason, cluster::ClusterError};

/// Who did not take the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The Pod is none, whatever the cluster is.
    Schema,
    /// Pod Security, or a policy of the cluster's.
    Policy,
    Webhook,
    Quota,
    LimitRange,
    /// This worker may not do what it has to.
    Rights,
    /// The namespace is not there, or goes.
    Namespace,
    /// The Pod names what is not there: a service account, a class.
    Reference,
    /// It did not answer, or not now.
    ApiServer,
    Unknown,
}

/// The consequence of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The attempt has failed, and no other would end differently.
    Final,
    /// The same call may succeed in a moment.
    Moment,
    /// No Pod of this type can be had now; others may.
    Type,
    /// No Pod can be had by this worker now.
    Worker,
}

/// A refusal, as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub author: Author,
    pub class: Class,
    pub reason: Reason,
}

/// Reads the answer to a Pod, or to its Secret.
pub(super) fn read(error: &ClusterError) -> Refusal {
    let (code, message) = match error {
        ClusterError::Forbidden { message, .. } => (403, message.as_str()),
        ClusterError::Refused { code, message, .. } => (*code, message.as_str()),
        ClusterError::Away { why, .. } => (503, why.as_str()),
        ClusterError::Late { .. } | ClusterError::Conflict(_) | ClusterError::Exists(_) => (503, ""),
        ClusterError::NotFound(_) => (404, ""),
        // No call is made without a client.
        ClusterError::Config(why) => (400, why.as_str()),
    };
    let author = author(code, message);
    let (class, reason) = match author {
        Author::Schema => (Class::Final, Reason::InvalidPod),
        Author::Policy => (Class::Type, Reason::AdmissionRefused),
        // One that cannot be asked refuses every Pod.
        Author::Webhook if error.is_away() => (Class::Worker, Reason::AdmissionRefused),
        Author::Webhook => (Class::Type, Reason::AdmissionRefused),
        Author::Quota => (Class::Type, Reason::QuotaExceeded),
        Author::LimitRange => (Class::Type, Reason::LimitRange),
        Author::Rights => (Class::Worker, Reason::Forbidden),
        Author::Namespace => (Class::Worker, Reason::NamespaceEnds),
        Author::ApiServer => (Class::Moment, Reason::ApiAway),
        Author::Reference | Author::Unknown => (Class::Type, Reason::PodRefused),
    };
    Refusal { author, class, reason }
}

fn author(code: u16, message: &str) -> Author {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    // First those who quote what they looked at: their texts may hold the words of the others.
    if says(&[" denied the request", "calling webhook", "admission webhook"]) {
        return Author::Webhook;
    }
    if says(&["AdmissionPolicy", "denied request", "violates PodSecurity", "PodSecurityPolicy:"]) {
        return Author::Policy;
    }
    if says(&["exceeded quota:", "failed quota:", "status unknown for quota:", "insufficient quota"]) {
        return Author::Quota;
    }
    if says(&[" usage per Container is ", " usage per Pod is ", " limit to request ratio per "]) {
        return Author::LimitRange;
    }
    if says(&["because it is being terminated", "NamespaceTerminating"]) {
        return Author::Namespace;
    }
    if says(&["error looking up service account", "no PriorityClass with name", "RuntimeClass \""]) {
        return Author::Reference;
    }
    match code {
        // Whoever is not known has no rights.
        403 if message == "Unauthorized" => Author::Rights,
        403 if message.contains(" is forbidden: User \"") || message.contains(" cannot create resource ") => {
            Author::Rights
        }
        404 => Author::Namespace,
        // A quantity that is none is noticed before the Pod is one.
        400 if message.contains(" cannot be handled as a ") => Author::Schema,
        422 if is_invalid(message) => Author::Schema,
        429 | 500.. => Author::ApiServer,
        _ => Author::Unknown,
    }
}

/// The schema names the kind as it is written, and the fields that are wrong. Others speak of `pods`.
fn is_invalid(message: &str) -> bool {
    ["Pod \"", "Secret \""].iter().any(|kind| message.starts_with(kind)) && message.contains("\" is invalid: ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Answers as API servers of 1.29 to 1.34 give them, and how they are read.
    #[derive(serde::Deserialize)]
    struct Case {
        code: u16,
        status_reason: String,
        message: String,
        author: String,
        class: String,
        reason: String,
    }

    fn cases() -> Vec<Case> {
        serde_json::from_str(include_str!("../../../tests/cases/api_answers.json")).expect("the table is JSON")
    }

    #[test]
    fn each_answer_has_its_author_and_its_consequence() {
        for case in cases() {
            let status = kube::core::Status::failure(&case.message, &case.status_reason).with_code(case.code);
            let refusal = read(&ClusterError::of("create pod x", kube::Error::Api(status.boxed())));
            let got = (format!("{:?}", refusal.author), format!("{:?}", refusal.class), refusal.reason.to_string());
            assert_eq!(got, (case.author, case.class, case.reason), "{} {}", case.code, case.message);
        }
        let late = ClusterError::Late { what: "create pod x".into(), after: Duration::from_secs(5) };
        assert_eq!(read(&late).class, Class::Moment);
    }

    #[test]
    fn nothing_but_the_schema_fails_a_job_for_good() {
        for case in cases() {
            assert_eq!(case.class == "Final", case.author == "Schema", "{} {}", case.code, case.message);
        }
    }
}
