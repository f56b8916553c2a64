//! What a leader can fail at, by the names of `rowlock_scaler_errors_total`.

/// Why nothing was done where something should have been. A few fixed words: they are labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A Deployment's annotations cannot be understood.
    InvalidAnnotations,
    /// A ConfigMap's job types or schedules cannot be understood.
    InvalidCatalog,
    /// The replicas cannot be seen.
    Look,
    /// No replica could be ordered.
    Grow,
    /// None could be stopped.
    Stop,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::InvalidAnnotations => "invalid_annotations",
            Fault::InvalidCatalog => "invalid_catalog",
            Fault::Look => "look",
            Fault::Grow => "grow",
            Fault::Stop => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_documented() {
        let documented = include_str!("../../docs/metrics.md");
        for fault in [Fault::InvalidAnnotations, Fault::InvalidCatalog, Fault::Look, Fault::Grow, Fault::Stop] {
            assert!(documented.contains(&format!("`{}`", fault.name())), "{fault:?}");
        }
    }
}
