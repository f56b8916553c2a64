//! Whether a job can be run here: its type is known, its launch is ours, its payload fits.

use super::{
    job_types::{JobType, NoLaunch},
    spec::{Kind, Plan},
};
use crate::{ClaimedJob, Failure, Reason};

pub(super) fn admit(job: &ClaimedJob, job_type: Option<&JobType>, accepted: &[Kind]) -> Result<Plan, Failure> {
    let name = &job.job_type;
    let Some(job_type) = job_type else {
        // A later deploy may bring it.
        return Err(Failure::of(Reason::UnknownType, true, format!("unknown job type {name}")));
    };
    let (kind, spec) = match &job_type.launch {
        Ok((kind, spec)) => (*kind, spec.clone()),
        Err(NoLaunch::NoCommand) => {
            return Err(Failure::of(Reason::NoCommand, false, format!("job type {name} has no command")));
        }
        Err(NoLaunch::NoImage) if !accepted.contains(&Kind::Pod) => return Err(unsupported("pod", accepted)),
        Err(NoLaunch::NoImage) => {
            return Err(Failure::of(
                Reason::NoImage,
                false,
                format!("job type {name} has no image, which launch: pod needs"),
            ));
        }
        Err(NoLaunch::Unsupported(launch)) => return Err(unsupported(launch, accepted)),
        Err(NoLaunch::Unusable(why)) => {
            // A later deploy, or a corrected type, may be usable.
            let text = format!("job type {name} cannot be used by this worker: {why}");
            return Err(Failure::of(Reason::UnknownType, true, text));
        }
    };
    if !accepted.contains(&kind) {
        return Err(unsupported(&format!("{kind:?}").to_lowercase(), accepted));
    }
    match &job_type.schema {
        Some(Err(e)) => {
            return Err(Failure::of(Reason::InvalidSchema, false, format!("payload_schema of {name}: {e}")));
        }
        Some(Ok(schema)) => check_payload(job.payload.get(), schema)?,
        None => {}
    }
    Ok(Plan {
        kind,
        spec,
        timeout: job.timeout().or(job_type.timeout),
        no_retry_exit_codes: job_type.no_retry_exit_codes.clone(),
    })
}

fn unsupported(launch: &str, accepted: &[Kind]) -> Failure {
    let accepted: Vec<String> = accepted.iter().map(|k| format!("{k:?}").to_lowercase()).collect();
    let text = format!("launch {launch} is not supported by this worker, only {}", accepted.join(", "));
    Failure::of(Reason::UnsupportedLaunch, true, text)
}

fn check_payload(payload: &str, schema: &jsonschema::Validator) -> Result<(), Failure> {
    let payload: serde_json::Value = serde_json::from_str(payload)
        .map_err(|e| Failure::of(Reason::InvalidPayload, false, format!("payload: {e}")))?;
    schema.validate(&payload).map_err(|e| {
        // The path, never the value: errors are read by people who may not see payloads.
        let (at, rule) = (e.instance_path().to_string(), e.schema_path().to_string());
        Failure::of(Reason::InvalidPayload, false, format!("payload{at}: does not match the type's schema at {rule}"))
    })
}
