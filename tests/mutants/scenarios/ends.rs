//! A job ends once, after as many attempts as it has, and gives up its key.

use crate::lab::{Lab, Outcome, same};

pub async fn a_part_of_a_receipt_completes_once(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, rest) = lab.claim_two_new(&worker).await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.complete(&worker, &[&job], &job.id).await?;
    lab.complete(&worker, &[&rest], "").await?;
    lab.is("SELECT count(*), count(DISTINCT id) FROM rowlock.jobs WHERE status = 'completed'", "2 2").await
}

pub async fn a_whole_receipt_completes_once(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (a, b) = lab.claim_two_new(&worker).await?;
    lab.complete(&worker, &[&a, &b], "").await?;
    lab.complete(&worker, &[&a], &a.id).await?;
    lab.is("SELECT count(*) FROM rowlock.lease", "0").await
}

pub async fn a_completed_job_is_not_taken_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, _rest) = lab.claim_two_new(&worker).await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.fail(&worker, &job, true, "lease lost").await?;
    lab.release(&worker, &job, &job.id).await?;
    lab.status(&job.id, "completed").await
}

pub async fn a_job_is_taken_back_once(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, rest) = lab.claim_two_new(&worker).await?;
    lab.release(&worker, &job, "").await?;
    lab.release(&worker, &job, &job.id).await?;
    lab.fail(&worker, &rest, false, "failed").await?;
    lab.complete(&worker, &[&rest], &rest.id).await?;
    lab.is("SELECT count(*) FROM rowlock.jobs", "2").await
}

pub async fn of_two_completions_at_once_one_is_accepted(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    let (first, second) = (lab.other().await?, lab.other().await?);
    first.ask("BEGIN").await?;
    first.complete(&worker, &[&job], "").await?;
    let jobs = [&job];
    let (late, commit) = tokio::join!(second.complete(&worker, &jobs, &job.id), async {
        lab.until_somebody_waits().await?;
        first.ask("COMMIT").await
    });
    late.and(commit.map(drop))
}

pub async fn of_a_completion_and_a_release_at_once_one_is_accepted(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    let (first, second) = (lab.other().await?, lab.other().await?);
    first.ask("BEGIN").await?;
    first.complete(&worker, &[&job], "").await?;
    let (late, commit) = tokio::join!(second.release(&worker, &job, &job.id), async {
        lab.until_somebody_waits().await?;
        first.ask("COMMIT").await
    });
    late.and(commit.map(drop))?;
    lab.status(&job.id, "completed").await
}

pub async fn cancelling_an_ended_job_says_how_it_ended(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (job, _rest) = lab.claim_two_new(&worker).await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.cancel(&job.id, "completed").await
}

pub async fn retries_come_to_an_end(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "max_retries => 1").await?;
    lab.fail(&worker, &job, true, "pending").await?;
    lab.ask("UPDATE rowlock.scheduled SET execute_at = execute_at - interval '1 h'").await?;
    lab.keep().await?;
    let again = lab.claim_one(&worker).await?;
    same("attempts", &again.attempts, "1")?;
    lab.fail(&worker, &again, true, "failed").await
}

pub async fn what_is_not_retryable_fails_at_once(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.fail(&worker, &job, false, "failed").await
}

pub async fn a_release_consumes_no_attempt(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.release(&worker, &job, "").await?;
    lab.is(&format!("SELECT status, attempts FROM rowlock.get_job('{}')", job.id), "pending 0").await
}

pub async fn a_completed_job_is_not_retried(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.is(&format!("SELECT rowlock.retry('{}')", job.id), "RL012").await
}

/// No job holds the key any more: another may have it.
async fn key_is_free(lab: &Lab) -> Outcome {
    lab.is("SELECT inserted FROM rowlock.enqueue('t', unique_key => 'k')", "t").await
}

pub async fn a_completed_job_frees_its_key(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "unique_key => 'k'").await?;
    lab.complete(&worker, &[&job], "").await?;
    key_is_free(lab).await
}

pub async fn a_failed_or_cancelled_job_frees_its_key(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "unique_key => 'k'").await?;
    lab.fail(&worker, &job, false, "failed").await?;
    let id = lab.enqueue("unique_key => 'k'").await?;
    lab.cancel(&id, "cancelled").await?;
    key_is_free(lab).await
}

pub async fn a_retry_takes_no_key_from_another(lab: &Lab) -> Outcome {
    let id = lab.enqueue("unique_key => 'k'").await?;
    lab.cancel(&id, "cancelled").await?;
    let other = lab.enqueue("unique_key => 'k'").await?;
    lab.is(&format!("SELECT rowlock.retry('{id}')"), "RL012").await?;
    lab.status(&id, "cancelled").await?;
    lab.status(&other, "pending").await
}
