//! Claims whose answers the worker did not get: it says in its heartbeat what it knows of.

use crate::lab::{Held, Lab, Outcome, same};

/// A new job, taken by the worker's claim of this number.
async fn claim_as(lab: &Lab, worker: &str, number: u32) -> Outcome<Held> {
    let id = lab.enqueue("").await?;
    let sql =
        format!("SELECT lease, id, attempts FROM rowlock.claim_v1('{worker}', '{{default}}', 1, claim => {number})");
    let answer = lab.ask(&sql).await?;
    let mut fields = answer.split(' ').map(str::to_owned);
    let mut next = || fields.next().ok_or(format!("{sql}: {answer}"));
    let job = Held { lease: next()?, id: next()?, attempts: next()? };
    same("a claim", &job.id, &id)?;
    Ok(job)
}

/// A heartbeat; `expected` is how many jobs went back.
async fn extend(lab: &Lab, worker: &str, holds: &[&Held], pending: &str, below: u32, expected: &str) -> Outcome {
    let holds = holds.iter().map(|h| h.lease.as_str()).collect::<Vec<_>>().join(",");
    let arguments = format!("holds => '{{{holds}}}', pending => '{{{pending}}}', below => {below}");
    lab.is(&format!("SELECT returned FROM rowlock.extend_v1('{worker}', 60, {arguments})"), expected).await
}

pub async fn a_claim_whose_answer_was_lost_goes_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let lost = claim_as(lab, &worker, 1).await?;
    extend(lab, &worker, &[], "", 2, "1").await?;
    lab.is(&format!("SELECT status, attempts FROM rowlock.get_job('{}')", lost.id), "pending 0").await?;
    lab.is("SELECT count(*) FROM rowlock.lease", "0").await?;
    lab.is("SELECT lost_by IS NULL, moved FROM rowlock.ready", "t f").await?;
    lab.complete(&worker, &[&lost], &lost.id).await
}

pub async fn what_a_worker_holds_does_not_go_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, lost) = (claim_as(lab, &worker, 1).await?, claim_as(lab, &worker, 2).await?);
    extend(lab, &worker, &[&job], "", 3, "1").await?;
    lab.status(&lost.id, "pending").await?;
    lab.complete(&worker, &[&job], "").await
}

pub async fn a_claim_under_way_does_not_go_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = claim_as(lab, &worker, 1).await?;
    extend(lab, &worker, &[], "1", 2, "0").await?;
    lab.complete(&worker, &[&job], "").await
}

pub async fn a_later_claim_does_not_go_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = claim_as(lab, &worker, 2).await?;
    extend(lab, &worker, &[], "", 2, "0").await?;
    lab.complete(&worker, &[&job], "").await
}

pub async fn a_cancelled_job_whose_answer_was_lost_is_cancelled(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let lost = claim_as(lab, &worker, 1).await?;
    lab.cancel(&lost.id, "running").await?;
    extend(lab, &worker, &[], "", 2, "1").await?;
    lab.status(&lost.id, "cancelled").await
}
