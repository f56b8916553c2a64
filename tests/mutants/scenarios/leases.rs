//! Every write of a worker matches its lease: the deadline, the worker, the receipt.

use crate::lab::{Held, Lab, Outcome, same};

/// A job, and a worker that had it too long.
async fn late(lab: &Lab) -> Outcome<(String, Held)> {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.expire(&worker).await?;
    Ok((worker, job))
}

pub async fn past_its_lease_a_worker_completes_nothing(lab: &Lab) -> Outcome {
    let (worker, job) = late(lab).await?;
    lab.complete(&worker, &[&job], &job.id).await?;
    lab.status(&job.id, "running").await
}

pub async fn past_its_lease_a_worker_fails_nothing(lab: &Lab) -> Outcome {
    let (worker, job) = late(lab).await?;
    lab.fail(&worker, &job, true, "lease lost").await?;
    lab.status(&job.id, "running").await
}

pub async fn past_its_lease_a_worker_releases_nothing(lab: &Lab) -> Outcome {
    let (worker, job) = late(lab).await?;
    lab.release(&worker, &job, &job.id).await?;
    lab.status(&job.id, "running").await
}

pub async fn past_its_lease_a_worker_reports_no_progress(lab: &Lab) -> Outcome {
    let (worker, job) = late(lab).await?;
    lab.progress(&worker, &job, "f").await
}

pub async fn past_its_lease_a_worker_cannot_extend_it(lab: &Lab) -> Outcome {
    let (worker, _) = late(lab).await?;
    lab.is(&format!("SELECT draining FROM rowlock.extend_v1('{worker}', 60)"), "RL020").await
}

pub async fn past_its_lease_a_worker_claims_nothing(lab: &Lab) -> Outcome {
    let (worker, _) = late(lab).await?;
    lab.enqueue("").await?;
    lab.is(&format!("SELECT id FROM rowlock.claim_v1('{worker}', '{{default}}', 1)"), "RL020").await
}

pub async fn a_stopped_worker_completes_nothing(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.ask(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await?;
    lab.complete(&worker, &[&job], &job.id).await
}

pub async fn nobody_ends_the_job_of_another(lab: &Lab) -> Outcome {
    let (owner, other) = (lab.worker().await?, lab.worker().await?);
    let job = lab.claim_new(&owner, "").await?;
    lab.complete(&other, &[&job], &job.id).await?;
    lab.fail(&other, &job, true, "lease lost").await?;
    lab.release(&other, &job, &job.id).await?;
    lab.progress(&other, &job, "f").await?;
    lab.complete(&owner, &[&job], "").await
}

pub async fn a_lease_ends_only_its_own_jobs(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let mut one = lab.claim_new(&worker, "").await?;
    let mut other = lab.claim_new(&worker, "").await?;
    std::mem::swap(&mut one.lease, &mut other.lease);
    let mut both = [one.id.clone(), other.id.clone()];
    both.sort();
    let jobs = crate::lab::arrays(&[&one, &other]);
    let refused = format!("SELECT * FROM rowlock.complete_v1('{worker}', {jobs}) ORDER BY 1");
    lab.is(&refused, &both.join(",")).await?;
    let lost = format!("SELECT status FROM rowlock.fail_v1('{worker}', {jobs}, '{{x,y}}')");
    lab.is(&lost, "lease lost,lease lost").await?;
    lab.is("SELECT count(*) FROM rowlock.jobs WHERE status = 'running'", "2").await
}

pub async fn an_earlier_lease_reports_no_progress(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let earlier = lab.claim_new(&worker, "").await?;
    lab.release(&worker, &earlier, "").await?;
    let again = lab.claim_one(&worker).await?;
    same("the same job", &again.id, &earlier.id)?;
    lab.progress(&worker, &earlier, "f").await?;
    lab.progress(&worker, &again, "t").await
}
