//! Who may have which job, and when.

use crate::lab::{Lab, Outcome, same};

/// What every mutant still does: without it, it would not be the guard that is missed.
pub async fn an_ordinary_job_lives(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.status(&job.id, "running").await?;
    lab.progress(&worker, &job, "t").await?;
    lab.told(&worker, "").await?;
    lab.complete(&worker, &[&job], "").await?;
    lab.status(&job.id, "completed").await?;
    let job = lab.claim_new(&worker, "").await?;
    lab.fail(&worker, &job, true, "pending").await?;
    lab.status(&job.id, "pending").await
}

pub async fn a_draining_worker_claims_nothing(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    lab.ask(&format!("SELECT FROM rowlock.extend_v1('{worker}', 60, true)")).await?;
    lab.enqueue("").await?;
    same("a claim", &lab.claim(&worker, 1).await?.len().to_string(), "0")
}

pub async fn a_draining_worker_goes_on_draining(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    for drain in [true, false] {
        lab.is(&format!("SELECT draining FROM rowlock.extend_v1('{worker}', 60, {drain})"), "t").await?;
    }
    Ok(())
}

pub async fn a_paused_queue_is_not_claimed(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    lab.enqueue("").await?;
    for (how, expected) in [("pause", "0"), ("resume", "1")] {
        lab.ask(&format!("SELECT rowlock.{how}_queue('default')")).await?;
        same(how, &lab.claim(&worker, 9).await?.len().to_string(), expected)?;
    }
    Ok(())
}

pub async fn a_claim_does_not_wait_for_another(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let (first, second) = (lab.enqueue("").await?, lab.enqueue("").await?);
    let other = lab.other().await?;
    other.ask("BEGIN").await?;
    same("one", &other.claim_one(&worker).await?.id, &first)?;
    same("the other", &lab.claim_one(&worker).await?.id, &second)?;
    other.ask("COMMIT").await.map(drop)
}

pub async fn jobs_are_claimed_by_priority_then_age(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let mut jobs = Vec::new();
    for priority in [1, 9, 9, -9] {
        jobs.push(lab.enqueue(&format!("priority => {priority}")).await?);
    }
    for expected in [1, 2, 0, 3] {
        same("the next", &lab.claim_one(&worker).await?.id, &jobs[expected])?;
    }
    Ok(())
}

pub async fn a_job_for_later_is_not_claimed(lab: &Lab) -> Outcome {
    let worker = lab.worker().await?;
    let id = lab.enqueue("execute_at => clock_timestamp() + interval '1 h'").await?;
    lab.keep().await?;
    same("too early", &lab.claim(&worker, 1).await?.len().to_string(), "0")?;
    lab.ask("UPDATE rowlock.scheduled SET execute_at = execute_at - interval '2 h'").await?;
    lab.keep().await?;
    same("in time", &lab.claim_one(&worker).await?.id, &id)
}

pub async fn a_key_is_held_once(lab: &Lab) -> Outcome {
    let id = lab.enqueue("unique_key => 'k'").await?;
    lab.is("SELECT id, inserted FROM rowlock.enqueue('t', unique_key => 'k')", &format!("{id} f")).await?;
    lab.is(
        "SELECT id, inserted FROM rowlock.enqueue_many('[{\"type\": \"t\", \"unique_key\": \"k\"}]')",
        &format!("{id} f"),
    )
    .await
}
