//! The acts that a leader can fail at, by the names of `rowlock_scaler_errors_total`.

/// The reason why the controller did nothing where something should have been done. The names are labels of a
/// metric, so there are a few fixed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalerError {
    /// A Deployment's annotations cannot be understood.
    InvalidAnnotations,
    /// A ConfigMap's job types or schedules cannot be understood.
    InvalidCatalog,
    /// The replicas cannot be observed.
    Observe,
    /// No replica could be ordered.
    Grow,
    /// No replica could be stopped.
    Stop,
}

impl ScalerError {
    pub(super) fn name(self) -> &'static str {
        match self {
            ScalerError::InvalidAnnotations => "invalid_annotations",
            ScalerError::InvalidCatalog => "invalid_catalog",
            ScalerError::Observe => "look",
            ScalerError::Grow => "grow",
            ScalerError::Stop => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_documented() {
        let documented = include_str!("../../docs/metrics.md");
        let all = [
            ScalerError::InvalidAnnotations,
            ScalerError::InvalidCatalog,
            ScalerError::Observe,
            ScalerError::Grow,
            ScalerError::Stop,
        ];
        for error in all {
            assert!(documented.contains(&format!("`{}`", error.name())), "{error:?}");
        }
    }
}
