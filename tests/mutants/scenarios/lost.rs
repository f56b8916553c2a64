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
    lab.status(&job.id, "pending").await?;
    lab.is("SELECT lost_by IS NULL FROM rowlock.ready", "t").await
}

pub async fn who_only_stood_beside_the_killer_does_not_fail(lab: &Lab) -> Outcome {
    let ids = [lab.enqueue("").await?, lab.enqueue("").await?];
    for _ in 0..6 {
        let worker = lab.worker().await?;
        same("a claim of both", &lab.claim(&worker, 2).await?.len().to_string(), "2")?;
        lab.expire(&worker).await?;
        lab.keep().await?;
    }
    for id in &ids {
        lab.status(id, "pending").await?;
    }
    let worker = lab.worker().await?;
    let busy = format!("SELECT count(*) FROM rowlock.claim_v1('{worker}', '{{default}}', 2, alone => false)");
    lab.is(&busy, "0").await?;
    lab.is("SELECT bool_and(cardinality(lost_by) = 2) FROM rowlock.ready", "t").await
}

pub async fn who_says_that_it_lives_blames_nobody(lab: &Lab) -> Outcome {
    let id = lab.enqueue("").await?;
    for _ in 0..6 {
        let worker = lab.worker().await?;
        same("a claim", &lab.claim_one(&worker).await?.id, &id)?;
        lab.expire(&worker).await?;
        lab.keep().await?;
        lab.ask(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await?;
    }
    lab.status(&id, "pending").await
}

pub async fn after_a_start_of_the_server_leases_begin_anew(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.expire(&worker).await?;
    lab.ask("UPDATE rowlock.server_start SET at = at - interval '1 h'").await?;
    let extend = format!("SELECT lease_until > clock_timestamp() FROM rowlock.extend_v1('{worker}')");
    lab.is(&extend, "40001").await?;
    lab.keep().await?;
    lab.is(&extend, "t").await?;
    lab.complete(&worker, &[&job], "").await
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

/// A job that became due a minute ago, before another came.
async fn found_late(lab: &Lab) -> Outcome<String> {
    let late = lab.enqueue("execute_at => clock_timestamp() + interval '1 h'").await?;
    let past = "UPDATE rowlock.scheduled SET execute_at = clock_timestamp() - interval '1 min'";
    lab.ask(past).await?;
    Ok(late)
}

pub async fn a_job_that_is_found_late_has_the_place_of_its_time(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let late = found_late(lab).await?;
    lab.enqueue("").await?;
    lab.keep().await?;
    same("a claim", &lab.claim_one(&worker).await?.id, &late)
}

pub async fn a_job_whose_place_is_taken_has_the_next_one(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    let other = lab.enqueue("").await?;
    lab.ask("UPDATE rowlock.ready r SET pos = j.pos, moved = true FROM rowlock.lease l, unnest(l.jobs) j").await?;
    lab.release(&worker, &job, "").await?;
    lab.status(&job.id, "pending").await?;
    lab.status(&other, "pending").await
}

pub async fn a_deadline_of_a_clock_that_went_back_holds_nobody_up(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    lab.ask("UPDATE rowlock.worker SET lease_until = lease_until + interval '1 h'").await?;
    lab.ask("UPDATE rowlock.keeper SET holder = NULL, held_until = clock_timestamp() + interval '1 h'").await?;
    lab.is("SELECT keeper FROM rowlock.maintain_v1(gen_random_uuid())", "t").await?;
    let left =
        format!("SELECT lease_until < clock_timestamp() + interval '2 min' FROM rowlock.worker WHERE id = '{worker}'");
    lab.is(&left, "t").await
}

pub async fn a_keeper_that_stops_gives_its_place_back(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    lab.ask("UPDATE rowlock.keeper SET held_until = '-infinity'").await?;
    lab.is(&format!("SELECT keeper FROM rowlock.maintain_v1('{worker}')"), "t").await?;
    lab.ask(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await?;
    lab.is("SELECT keeper FROM rowlock.maintain_v1(gen_random_uuid())", "t").await
}
