//! The reasons for which an attempt fails or a job goes back: short words for counting, in one list.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why an attempt failed, or why a job went back without consuming one. `docs/launch-contract.md` has the
        /// table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// The word as it is stored and as metrics have it.
            ///
            /// ```
            /// assert_eq!(rowlock::Reason::ExitCode.as_str(), "exit_code");
            /// ```
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// The command ended with a code other than 0.
    ExitCode = "exit_code",
    /// A signal ended the command.
    Signal = "signal",
    /// The handler answered with an error.
    Error = "error",
    /// The handler panicked.
    Panic = "panic",
    /// The job ran longer than its timeout.
    Timeout = "timeout",
    /// Somebody cancelled the job while it ran.
    Cancelled = "cancelled",
    /// The payload does not match the type.
    InvalidPayload = "invalid_payload",
    /// The type's schema for payloads is not a schema.
    InvalidSchema = "invalid_schema",
    /// The type has no command.
    NoCommand = "no_command",
    /// The worker knows no such type.
    UnknownType = "unknown_type",
    /// The worker does not accept the type's kind of launch.
    UnsupportedLaunch = "unsupported_launch",
    /// The command could not be started.
    SpawnFailed = "spawn_failed",
    /// The result, or a line of output, is too long.
    OutputTooLarge = "output_too_large",
    /// The result, or a line of output, is not UTF-8.
    InvalidUtf8 = "invalid_utf8",
    /// The result is not JSON, or none that Postgres can store.
    InvalidResult = "invalid_result",
    /// The container was over its memory limit.
    OomKilled = "oom_killed",
    /// The Pod was over its own limit of disk.
    StorageLimit = "storage_limit",
    /// An image could not be pulled in time.
    ImagePull = "image_pull",
    /// The image's name is none.
    InvalidImageName = "invalid_image_name",
    /// The type's Pod is not valid.
    InvalidPod = "invalid_pod",
    /// The type has no image.
    NoImage = "no_image",
    /// A Secret or ConfigMap is missing, or the image's user is root.
    ContainerConfig = "container_config",
    /// A container of the Pod could not be started.
    StartFailed = "start_failed",
    /// A policy of the cluster, or a webhook, refused the Pod.
    AdmissionRefused = "admission_refused",
    /// The namespace's limits refused the Pod.
    LimitRange = "limit_range",
    /// The worker may not make the Pod.
    Forbidden = "forbidden",
    /// The cluster refused the Pod otherwise.
    PodRefused = "pod_refused",
    /// Another Pod has the name of the job's Pod, and does not go.
    PodInTheWay = "pod_in_the_way",
    /// The job succeeded, but its long result was not on the log.
    ResultLost = "result_lost",
    /// The worker's machine lacks something, or cannot keep the job's files.
    WorkerIo = "worker_io",
    /// The Pod was evicted.
    Evicted = "evicted",
    /// The Pod made room for one of a higher priority.
    Preempted = "preempted",
    /// The Pod's node was lost.
    NodeLost = "node_lost",
    /// The Pod's node was shut down.
    NodeShutdown = "node_shutdown",
    /// The Pod's node refused it.
    NodeRefused = "node_refused",
    /// Somebody deleted the Pod.
    PodDeleted = "pod_deleted",
    /// The Pod was gone before its end was seen.
    PodGone = "pod_gone",
    /// A quota is used up.
    QuotaExceeded = "quota_exceeded",
    /// The API server did not answer.
    ApiAway = "api_away",
    /// The namespace is being deleted.
    NamespaceEnds = "namespace_ends",
    /// No node has room for the Pod.
    Unschedulable = "unschedulable",
    /// The Pod did not start in time.
    NotStarted = "not_started",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Decided in SQL, when a worker is lost.
    const CRASH_LOOP: &str = "crash_loop";

    #[test]
    fn the_documented_reasons_are_these_and_no_others() {
        let text = include_str!("../docs/launch-contract.md");
        let section = text.split("\n## ").find(|s| s.starts_with("Reasons\n")).expect("docs have a section Reasons");
        let first_cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let listed = section.lines().filter(|line| !line.starts_with('|'));
        let words = |line: &'static str| line.split('`').skip(1).step_by(2);
        let is_reason = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '8');
        let names: BTreeSet<&str> = first_cells.chain(listed).flat_map(words).filter(is_reason).collect();
        let not_reasons = BTreeSet::from(["error", "pod", "reason", CRASH_LOOP]);
        let documented: BTreeSet<&str> = names.difference(&not_reasons).copied().collect();
        let known: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert!(names.contains("error"));
        assert_eq!(documented, known.difference(&not_reasons).copied().collect());
    }
}
