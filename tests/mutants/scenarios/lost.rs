//! Jobs whose worker was lost, and running jobs that somebody cancelled.

use crate::lab::{Lab, Outcome, same};

pub async fn a_rescue_consumes_no_attempt(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.expire(&worker).await?;
    lab.keep().await?;
    lab.is(&format!("SELECT status, attempts FROM rowlock.get_job('{}')", job.id), "pending 0").await
}

pub async fn a_rescue_leaves_the_living_alone(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.keep().await?;
    lab.status(&job.id, "running").await?;
    lab.complete(&worker, &[&job], "").await
}

pub async fn a_rescue_brings_back_only_what_had_not_ended(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, rest) = lab.claim_two_new(&worker).await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.expire(&worker).await?;
    lab.keep().await?;
    lab.is("SELECT id FROM rowlock.jobs WHERE status = 'pending'", &rest.id).await
}

pub async fn a_job_that_loses_five_workers_has_failed(lab: &Lab) -> Outcome {
    let id = lab.enqueue("").await?;
    for _ in 0..5 {
        lab.status(&id, "pending").await?;
        let worker = lab.worker().await?;
        same("a claim", &lab.claim_one(&worker).await?.id, &id)?;
        lab.expire(&worker).await?;
        lab.keep().await?;
    }
    lab.is("SELECT status, reason FROM rowlock.history", "failed crash_loop").await
}

pub async fn a_stopped_worker_s_jobs_are_rescued(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.ask(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await?;
    lab.keep().await?;
    lab.status(&job.id, "pending").await
}

pub async fn the_worker_is_told_of_a_cancel(lab: &Lab) -> Outcome {
    let (worker, other) = (lab.worker().await?, lab.worker().await?);
    let job = lab.claim_new(&worker, "").await?;
    lab.cancel(&job.id, "running").await?;
    lab.told(&other, "").await?;
    lab.told(&worker, &job.id).await
}

pub async fn a_request_to_stop_lasts_as_long_as_the_job(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.cancel(&job.id, "running").await?;
    lab.ask("UPDATE rowlock.cancel_request SET requested_at = requested_at - interval '1 h'").await?;
    lab.keep().await?;
    lab.told(&worker, &job.id).await
}

pub async fn a_refused_completion_leaves_the_request(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let earlier = lab.claim_new(&worker, "").await?;
    lab.release(&worker, &earlier, "").await?;
    same("the same job", &lab.claim_one(&worker).await?.id, &earlier.id)?;
    lab.cancel(&earlier.id, "running").await?;
    lab.complete(&worker, &[&earlier], &earlier.id).await?;
    lab.told(&worker, &earlier.id).await
}

pub async fn a_cancelled_job_that_fails_is_cancelled(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.cancel(&job.id, "running").await?;
    lab.fail(&worker, &job, true, "cancelled").await
}

pub async fn a_cancelled_job_that_is_released_is_cancelled(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.cancel(&job.id, "running").await?;
    lab.release(&worker, &job, "").await?;
    lab.status(&job.id, "cancelled").await
}

pub async fn a_cancelled_job_that_is_rescued_is_cancelled(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.cancel(&job.id, "running").await?;
    lab.expire(&worker).await?;
    lab.keep().await?;
    lab.status(&job.id, "cancelled").await
}
