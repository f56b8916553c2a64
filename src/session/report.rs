//! The ended attempts that the database does not know of yet, and how the database is told.
//!
//! An attempt stays in the report until the database has answered for it. So a call that fails, or whose future is
//! dropped, is simply said again.

use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Failure, Session, Wanted,
    outcome::{Outcome, Verdict},
    unanswered::Unanswered,
};
use crate::{ClaimedJob, Error, Reason};

/// Ended attempts on their way to the database.
#[derive(Debug, Default)]
pub(crate) struct Report {
    completed: Unanswered<Option<Box<RawValue>>>,
    failed: Unanswered<Failure>,
    released: Unanswered<()>,
    handed_back: Unanswered<(Option<Duration>, String)>,
    retried: Unanswered<Duration>,
    /// The answers that nobody has taken yet.
    verdicts: Vec<(Uuid, Verdict)>,
    /// Jobs that fail because Postgres refused their result.
    unstorable: Vec<Uuid>,
}

impl Report {
    pub(crate) fn add(&mut self, job: ClaimedJob, outcome: Outcome) {
        match outcome {
            Outcome::Completed(result) => self.completed.jobs.push((job, result)),
            Outcome::Failed(failure) => {
                tracing::info!(job = %job.id, job_type = job.job_type, reason = %failure.reason, "attempt failed");
                self.failed.jobs.push((job, failure));
            }
            Outcome::Released => self.released.jobs.push((job, ())),
            Outcome::HandedBack { after, error } => self.handed_back.jobs.push((job, (after, error))),
            Outcome::Retried { after } => self.retried.jobs.push((job, after)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.completed.jobs.is_empty()
            && self.failed.jobs.is_empty()
            && self.released.jobs.is_empty()
            && self.handed_back.jobs.is_empty()
            && self.retried.jobs.is_empty()
    }

    /// The answers that came since this was asked last.
    pub(crate) fn take_verdicts(&mut self) -> Vec<(Uuid, Verdict)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Gives every end up: the lease is lost, so the jobs belong to others.
    pub(crate) fn take_jobs(&mut self) -> Vec<ClaimedJob> {
        let mut jobs = Vec::new();
        jobs.extend(self.completed.take());
        jobs.extend(self.failed.take());
        jobs.extend(self.released.take());
        jobs.extend(self.handed_back.take());
        jobs.extend(self.retried.take());
        jobs
    }

    /// Tells the database every end, and claims with the last call what is wanted. After an error, every end without an
    /// answer is still here: call again as long as the lease holds.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if jobs were asked for and the lease has ended.
    pub(crate) async fn flush_and_claim(
        &mut self,
        session: &Session,
        wanted: Wanted,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.flush_failed(session).await?;
        self.flush_returned(session).await?;
        if wanted.max == 0 && self.completed.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.completed.send();
        match session.try_work(&self.completed.jobs, wanted).await {
            Ok((jobs, refused)) => {
                let settled = self.completed.settle(0, before, session, &refused, Verdict::Completed).await?;
                self.verdicts.extend(settled);
                Ok(jobs)
            }
            Err(error) if error.is_about_a_value() && !self.completed.jobs.is_empty() => {
                self.completed.sent = before;
                self.complete_singly(session).await?;
                Ok(Vec::new())
            }
            Err(error) => Err(self.completed.unanswered(before, error)),
        }
    }

    /// One of the results is such that Postgres cannot store it (an escaped NUL, a number out of range): that job's
    /// attempt fails, and the others' results are stored.
    async fn complete_singly(&mut self, session: &Session) -> Result<(), Error> {
        while let Some(last) = self.completed.jobs.len().checked_sub(1) {
            let before = self.completed.send();
            match session.try_work(&self.completed.jobs[last..], Wanted::default()).await {
                Ok((_, refused)) => {
                    let settled = self.completed.settle(last, before, session, &refused, Verdict::Completed).await?;
                    self.verdicts.extend(settled);
                }
                Err(error) if error.is_about_a_value() => {
                    let code = error.code().unwrap_or_default();
                    let text = format!("result: JSON that Postgres cannot store (SQLSTATE {code})");
                    self.completed.sent = before.min(last);
                    if let Some((job, _)) = self.completed.jobs.pop() {
                        self.unstorable.push(job.id);
                        self.add(job, Outcome::Failed(Failure::of(Reason::InvalidResult, true, text)));
                    }
                }
                Err(error) => return Err(self.completed.unanswered(before, error)),
            }
        }
        self.flush_failed(session).await
    }

    async fn flush_failed(&mut self, session: &Session) -> Result<(), Error> {
        if self.failed.jobs.is_empty() {
            return Ok(());
        }
        let before = self.failed.send();
        let answer = match session.try_fail(&self.failed.jobs).await {
            Err(error) if error.is_about_a_value() => {
                // The encoding of the database lacks a character of some text: say it in ASCII.
                self.failed.jobs.iter_mut().for_each(|(_, failure)| failure.error = ascii(&failure.error));
                session.try_fail(&self.failed.jobs).await
            }
            answer => answer,
        };
        let statuses = match answer {
            Ok(statuses) => statuses,
            Err(error) => return Err(self.failed.unanswered(before, error)),
        };
        let refused: Vec<Uuid> = statuses.iter().filter(|(_, s)| s == "lease lost").map(|(id, _)| *id).collect();
        let settled = self.failed.settle(0, before, session, &refused, Verdict::FailedUnheard).await?;
        for (id, verdict) in settled {
            let status = statuses.iter().find(|(other, _)| *other == id).map(|(_, status)| &**status);
            let refused_result = self.unstorable.iter().position(|other| *other == id);
            let verdict = match (status, refused_result) {
                (Some("pending" | "failed"), Some(at)) => {
                    self.unstorable.swap_remove(at);
                    Verdict::ResultRefused { retried: status == Some("pending") }
                }
                (Some("pending"), None) => Verdict::Retried,
                (Some("failed"), None) => Verdict::Failed,
                (Some("cancelled"), _) => Verdict::Cancelled,
                _ => verdict,
            };
            self.verdicts.push((id, verdict));
        }
        Ok(())
    }

    async fn flush_returned(&mut self, session: &Session) -> Result<(), Error> {
        if !self.released.jobs.is_empty() {
            let before = self.released.send();
            match session.try_release(self.released.jobs.iter().map(|(job, ())| job), None).await {
                Ok(refused) => {
                    let settled = self.released.settle(0, before, session, &refused, Verdict::Released).await?;
                    self.verdicts.extend(settled);
                }
                Err(error) => return Err(self.released.unanswered(before, error)),
            }
        }
        while let Some(last) = self.retried.jobs.len().checked_sub(1) {
            let before = self.retried.send();
            let (job, after) = &self.retried.jobs[last];
            match session.try_release(std::iter::once(job), Some(*after)).await {
                Ok(refused) => {
                    let settled = self.retried.settle(last, before, session, &refused, Verdict::Retried).await?;
                    self.verdicts.extend(settled);
                }
                Err(error) => return Err(self.retried.unanswered(before, error)),
            }
        }
        if self.handed_back.jobs.is_empty() {
            return Ok(());
        }
        let before = self.handed_back.send();
        let answer = match session.hand_back(&self.handed_back.jobs).await {
            Err(error) if error.is_about_a_value() => {
                self.handed_back.jobs.iter_mut().for_each(|(_, (_, text))| *text = ascii(text));
                session.hand_back(&self.handed_back.jobs).await
            }
            answer => answer,
        };
        match answer {
            Ok(refused) => {
                let settled = self.handed_back.settle(0, before, session, &refused, Verdict::Released).await?;
                self.verdicts.extend(settled);
                Ok(())
            }
            Err(error) => Err(self.handed_back.unanswered(before, error)),
        }
    }
}

/// A text that every encoding of a database can store.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}
