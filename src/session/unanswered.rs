//! Ends of one kind that the database has not answered for yet.

use uuid::Uuid;

use super::{Session, outcome::Verdict};
use crate::{ClaimedJob, Error};

/// Ends of one kind. The first `sent` of them were in a call whose answer is not known: if the database refuses one of
/// these while the lease holds, the first call took effect and only its answer was lost.
#[derive(Debug)]
pub(super) struct Unanswered<T> {
    pub jobs: Vec<(ClaimedJob, T)>,
    pub sent: usize,
}

impl<T> Default for Unanswered<T> {
    fn default() -> Self {
        Unanswered { jobs: Vec::new(), sent: 0 }
    }
}

impl<T> Unanswered<T> {
    /// A call begins. Answers how many ends were in doubt before; from now on all are, until the call is answered.
    pub(super) fn send(&mut self) -> usize {
        std::mem::replace(&mut self.sent, self.jobs.len())
    }

    /// The call ended with an error. Whether it took effect is unknown, unless the database itself said no.
    pub(super) fn unanswered(&mut self, before: usize, error: Error) -> Error {
        if !error.may_pass() {
            self.sent = before;
        }
        error
    }

    /// The database has answered for the jobs from `from` on. The first `before` of all were in doubt until then.
    pub(super) async fn settle(
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

    pub(super) fn take(&mut self) -> impl Iterator<Item = ClaimedJob> + use<T> {
        self.sent = 0;
        std::mem::take(&mut self.jobs).into_iter().map(|(job, _)| job)
    }
}
