//! The calls that go to the background task of jobs worked by hand, and its answers.

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{Error, Job, Status, session::outcome::Outcome};

/// The calls of callers.
pub(super) enum Request {
    Dequeue(oneshot::Sender<Result<Option<Delivery>, Error>>),
    End {
        id: Uuid,
        outcome: Outcome,
        answer: oneshot::Sender<Result<Answer, Error>>,
    },
    /// Nobody received this job.
    Return(Uuid),
}

/// How an end was answered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Now(Status),
    /// Postgres could not store the result: the attempt failed, and this is the job's status.
    ResultRefused(Status),
    NotHeld,
}

/// A job on its way to a caller. If the caller is gone, the job goes back.
pub(super) struct Delivery {
    job: Option<Job>,
    back: mpsc::WeakUnboundedSender<Request>,
}

impl Delivery {
    pub(super) fn new(job: Job, back: mpsc::WeakUnboundedSender<Request>) -> Delivery {
        Delivery { job: Some(job), back }
    }

    pub(super) fn accept(mut self) -> Job {
        self.job.take().expect("a delivery has its job until it is accepted")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(job), Some(back)) = (&self.job, self.back.upgrade()) {
            // A task that has ended holds nothing.
            let _ = back.send(Request::Return(job.id));
        }
    }
}
