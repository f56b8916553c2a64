//! The `pod` launch: a Pod of its own per job.
//!
//! - `spec` makes the Pod, with `overlay`; `create` has it made, or finds it. `supervise` watches it to its end, as
//!   `status` reads it; `report` is what the binary in it (`shim`) says; `cleanup` takes it away.
//! - `pods`: the Pods of the namespace, and the calls for one.

mod cleanup;
mod create;
mod overlay;
mod pods;
mod report;
pub(crate) mod shim;
pub(crate) mod spec;
mod status;
mod supervise;

use std::sync::Arc;

pub(super) use self::pods::Pods;
pub(crate) use self::report::is_jobs_own;
use super::run::Run;
use crate::worker::launcher::Ended;

pub(super) async fn run(pods: &Arc<Pods>, run: &mut Run<'_>) -> Ended {
    match create::obtain(pods, run).await {
        Ok(pod) => supervise::supervise(pods, run, pod).await,
        Err(outcome) => outcome.into(),
    }
}
