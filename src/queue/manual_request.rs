//! The calls that go to the background task of jobs worked by hand, and its answers.

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    Error, Job, Status,
    session::outcome::{Outcome, Verdict},
};

/// A caller that waits for an answer.
pub(super) type Caller<T> = oneshot::Sender<Result<T, Error>>;

/// The calls of callers.
pub(super) enum Request {
    Dequeue(Caller<Option<Delivery<Job>>>),
    End {
        id: Uuid,
        outcome: Outcome,
        answer: Caller<Delivery<Answer>>,
    },
    /// Nobody received this job.
    Return(Uuid),
    /// Nobody heard this answer.
    Unheard(Uuid, Answer),
}

/// How an end was answered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Now(Status),
    /// Postgres could not store the result: the attempt failed, and this is the job's status.
    ResultRefused(Status),
    NotHeld,
}

impl Answer {
    /// The answer that follows from a verdict; none if only the job's status tells.
    pub(super) fn of(verdict: Verdict) -> Option<Answer> {
        Some(match verdict {
            Verdict::Completed => Answer::Now(Status::Completed),
            Verdict::Retried | Verdict::Released => Answer::Now(Status::Pending),
            Verdict::Failed => Answer::Now(Status::Failed),
            Verdict::Cancelled => Answer::Now(Status::Cancelled),
            Verdict::ResultRefused { retried: true } => Answer::ResultRefused(Status::Pending),
            Verdict::ResultRefused { retried: false } => Answer::ResultRefused(Status::Failed),
            Verdict::LeaseLost => Answer::NotHeld,
            Verdict::FailedUnheard => return None,
        })
    }
}

/// A value on its way to a caller. If the caller is gone, the background task hears of that by another request.
pub(super) struct Delivery<T> {
    content: Option<(T, Request)>,
    back: mpsc::WeakUnboundedSender<Request>,
}

impl<T> Delivery<T> {
    pub(super) fn new(value: T, otherwise: Request, back: mpsc::WeakUnboundedSender<Request>) -> Delivery<T> {
        Delivery { content: Some((value, otherwise)), back }
    }

    pub(super) fn accept(mut self) -> T {
        self.content.take().expect("a delivery has its value until it is accepted").0
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        if let (Some((_, otherwise)), Some(back)) = (self.content.take(), self.back.upgrade()) {
            // A task that has ended holds nothing.
            let _ = back.send(otherwise);
        }
    }
}
