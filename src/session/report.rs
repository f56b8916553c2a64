//! The ended attempts that the database does not know of yet, and how the database is told.
//!
//! An attempt stays in the report until the database has answered for it. So a call that fails, or whose future is
//! dropped, is simply said again.

use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Failure, Session};
use crate::{ClaimedJob, Error, Reason};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Completed(Option<Box<RawValue>>),
    Failed(Failure),
    /// The attempt was stopped before its end. The job goes back, and no attempt is consumed.
    Released,
    /// The job goes back by no fault of its own and no attempt is consumed, perhaps after a pause; the text says why.
    HandedBack {
        after: Option<Duration>,
        error: String,
    },
    /// Somebody wants another attempt after this pause; it counts as a retry.
    Retried {
        after: Duration,
    },
}

/// What the database said of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Completed,
    /// A retry waits for its time.
    Retried,
    Failed,
    Cancelled,
    Released,
    /// The job is not this worker's any more.
    LeaseLost,
    /// The first call took effect and its answer was lost: the attempt has failed, and the job is wherever that led.
    FailedUnheard,
    /// Postgres could not store the result, so the attempt failed instead; true if it is retried.
    ResultRefused {
        retried: bool,
    },
}

/// Ended attempts on their way to the database.
#[derive(Debug, Default)]
pub(crate) struct Report {
    completed: Ends<Option<Box<RawValue>>>,
    failed: Ends<Failure>,
    released: Ends<()>,
    handed_back: Ends<(Option<Duration>, String)>,
    retried: Ends<Duration>,
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

    /// Tells the database every end, and claims up to `free` jobs with the last call. After an error, every end without
    /// an answer is still here: call again as long as the lease holds.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if jobs were asked for and the lease has ended.
    pub(crate) async fn flush_and_claim(&mut self, session: &Session, free: usize) -> Result<Vec<ClaimedJob>, Error> {
        self.flush_failed(session).await?;
        self.flush_returned(session).await?;
        if free == 0 && self.completed.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.completed.send();
        match session.try_work(&self.completed.jobs, free).await {
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
            match session.try_work(&self.completed.jobs[last..], 0).await {
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

/// Ends of one kind. The first `sent` of them were in a call whose answer is not known: if the database refuses one of
/// these while the lease holds, the first call took effect and only its answer was lost.
#[derive(Debug)]
struct Ends<T> {
    jobs: Vec<(ClaimedJob, T)>,
    sent: usize,
}

impl<T> Default for Ends<T> {
    fn default() -> Self {
        Ends { jobs: Vec::new(), sent: 0 }
    }
}

impl<T> Ends<T> {
    /// A call begins. Answers how many ends were in doubt before; from now on all are, until the call is answered.
    fn send(&mut self) -> usize {
        std::mem::replace(&mut self.sent, self.jobs.len())
    }

    /// The call ended with an error. Whether it took effect is unknown, unless the database itself said no.
    fn unanswered(&mut self, before: usize, error: Error) -> Error {
        if !error.may_pass() {
            self.sent = before;
        }
        error
    }

    /// The database has answered for the jobs from `from` on. The first `before` of all were in doubt until then.
    async fn settle(
        &mut self,
        from: usize,
        before: usize,
        session: &Session,
        refused: &[Uuid],
        accepted: Verdict,
    ) -> Result<Vec<(Uuid, Verdict)>, Error> {
        let in_doubt = self.jobs.iter().take(before).skip(from).any(|(job, _)| refused.contains(&job.id));
        // A lease that ended is never extended again: if this one is, nobody else can have ended the job.
        let held = in_doubt
            && match session.extend(false).await {
                Ok(_) => true,
                Err(Error::LeaseLost(_)) => false,
                Err(error) => return Err(error),
            };
        let mut verdicts = Vec::with_capacity(self.jobs.len() - from);
        for (at, (job, _)) in self.jobs.drain(from..).enumerate() {
            let was_sent = from + at < before;
            let verdict = if !refused.contains(&job.id) || (was_sent && held) {
                accepted
            } else {
                tracing::warn!(job = %job.id, "its end was refused: the job ended itself, or its lease is lost");
                Verdict::LeaseLost
            };
            verdicts.push((job.id, verdict));
            job.hold.end();
        }
        self.sent = before.min(from);
        Ok(verdicts)
    }

    fn take(&mut self) -> impl Iterator<Item = ClaimedJob> + use<T> {
        self.sent = 0;
        std::mem::take(&mut self.jobs).into_iter().map(|(job, _)| job)
    }
}
