//! Ended attempts on their way to the database, and the claim that goes with them.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    heartbeat::{Beat, lease_ended},
    launcher::{Outcome, failure},
    options::WorkerSummary,
};
use crate::{ClaimedJob, Error, Failure, Session};

/// Calls the database until the lease ends.
pub(super) struct UntilLeaseEnds {
    pub session: Arc<Session>,
    pub beats: watch::Receiver<Beat>,
}

impl UntilLeaseEnds {
    /// Repeats a call while the database is away, until the lease ends.
    pub(super) async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let repeat = async {
            let mut wait = Duration::from_millis(50);
            loop {
                match call().await {
                    Err(error) if error.may_pass() => {
                        tracing::warn!(%error, "the database is away, trying again");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(1));
                    }
                    other => return other,
                }
            }
        };
        tokio::select! {
            biased;
            done = repeat => done,
            // A query may hang as long as its connection does.
            () = lease_ended(self.beats.clone()) => Err(lease_lost()),
        }
    }
}

pub(super) fn lease_lost() -> Error {
    Error::LeaseLost("the worker could not extend its lease in time; its jobs were stopped".into())
}

/// Ended attempts that the database does not know of yet.
#[derive(Default)]
pub(super) struct Report {
    done: Vec<(ClaimedJob, Option<Box<RawValue>>)>,
    failed: Vec<(ClaimedJob, Failure)>,
    released: Vec<ClaimedJob>,
    handed_back: Vec<(ClaimedJob, (Option<Duration>, String))>,
}

impl Report {
    pub(super) fn add(&mut self, job: ClaimedJob, outcome: Outcome) {
        match outcome {
            Outcome::Completed(result) => self.done.push((job, result)),
            Outcome::Failed(failure) => {
                tracing::info!(job = %job.id, job_type = job.job_type, reason = failure.reason, "attempt failed");
                self.failed.push((job, failure));
            }
            Outcome::Released => self.released.push(job),
            Outcome::HandedBack { after, error } => self.handed_back.push((job, (after, error))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty() && self.released.is_empty() && self.handed_back.is_empty()
    }

    /// Tells the database how all of them ended, and claims up to `free` jobs with the same call that completes jobs.
    pub(super) async fn flush_and_claim(
        &mut self,
        caller: &UntilLeaseEnds,
        summary: &mut WorkerSummary,
        free: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.flush_failed(caller, summary).await?;
        if !self.released.is_empty() {
            let refused = caller.call(|| caller.session.try_release(self.released.iter(), None)).await?;
            summary.released += (self.released.len() - refused.len()) as u64;
            self.released.clear();
        }
        if !self.handed_back.is_empty() {
            let refused = caller.call(|| caller.session.hand_back(&self.handed_back)).await?;
            summary.released += (self.handed_back.len() - refused.len()) as u64;
            self.handed_back.clear();
        }
        if free == 0 && self.done.is_empty() {
            return Ok(Vec::new());
        }
        match caller.call(|| caller.session.try_work(&self.done, free)).await {
            Ok((jobs, refused)) => {
                completed(summary, self.done.len(), &refused);
                self.done.clear();
                Ok(jobs)
            }
            Err(error) if is_about_a_value(&error) && !self.done.is_empty() => {
                self.complete_singly(caller, summary).await?;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// One of the results is such that Postgres cannot store it (an escaped NUL, a number out of range): it
    /// must not take the others with it.
    async fn complete_singly(&mut self, caller: &UntilLeaseEnds, summary: &mut WorkerSummary) -> Result<(), Error> {
        while let Some(one) = self.done.pop() {
            let one = [one];
            match caller.call(|| caller.session.try_work(&one, 0)).await {
                Ok((_, refused)) => completed(summary, 1, &refused),
                Err(error) if is_about_a_value(&error) => {
                    let [(job, _)] = one;
                    let code = error.code().unwrap_or_default();
                    let text = format!("result: JSON that Postgres cannot store (SQLSTATE {code})");
                    self.add(job, Outcome::Failed(failure("invalid_result", true, text)));
                }
                Err(error) => return Err(error),
            }
        }
        self.flush_failed(caller, summary).await
    }

    async fn flush_failed(&mut self, caller: &UntilLeaseEnds, summary: &mut WorkerSummary) -> Result<(), Error> {
        if self.failed.is_empty() {
            return Ok(());
        }
        for (id, status) in caller.call(|| caller.session.try_fail(&self.failed)).await? {
            match &*status {
                "pending" => summary.retried += 1,
                "lease lost" => tracing::warn!(job = %id, "its failure was refused: lease lost"),
                _ => summary.failed += 1,
            }
        }
        self.failed.clear();
        Ok(())
    }
}

fn completed(summary: &mut WorkerSummary, reported: usize, refused: &[Uuid]) {
    for id in refused {
        tracing::warn!(job = %id, "its completion was refused: it completed itself, or its lease is lost");
    }
    summary.completed += (reported - refused.len()) as u64;
}

/// Whether Postgres refused a value, which it will refuse again: class 22, or 54 for JSON too deep.
fn is_about_a_value(error: &Error) -> bool {
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("54"))
}
