//! The `pod` launch: a Pod of its own per job.
//!
//! - `spec` makes the Pod, with `overlay` and its `owner`; `create` has it made, or finds it. `in_the_way` is about a
//!   Pod that has the name already, `refusal` reads why none was made, `backoff` is about types whose Pods cannot run.
//! - `supervise` watches the Pod to its end, as `status` reads it; `report` is what the binary in it (`shim`) says;
//!   `cleanup` takes it away.
//! - `pods`: the Pods of the database's jobs, and the calls for one. `database`: what the database says about them.

mod backoff;
mod cleanup;
mod create;
mod database;
mod in_the_way;
mod overlay;
mod owner;
mod pods;
mod refusal;
mod report;
pub(crate) mod shim;
pub(crate) mod spec;
mod status;
mod supervise;

use std::sync::Arc;

pub(crate) use self::report::is_jobs_own;
pub(super) use self::{database::id as database_id, pods::Pods};
use super::run::Run;
use crate::worker::launcher::Ended;

pub(super) async fn run(pods: &Arc<Pods>, run: &mut Run<'_>) -> Ended {
    let _trying = pods.trying(run.job);
    match create::obtain(pods, run).await {
        Ok(pod) => supervise::supervise(pods, run, pod).await,
        Err(outcome) => outcome.into(),
    }
}
