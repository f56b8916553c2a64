//! The background task behind `dequeue`, `complete`, `fail` and `retry`.
//!
//! The task owns a registration, the jobs that were given out, and the report of ended attempts. Each turn makes one
//! round trip for all calls that wait: it tells the database every end and claims one job per waiting `dequeue`.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};
use uuid::Uuid;

use super::{
    manual_request::{Answer, Caller, Delivery, Request},
    registration::{Registrar, Registration, lease_end},
};
use crate::{
    ClaimedJob, Error, Job, Session, Status,
    session::{Wanted, outcome::Outcome, report::Report},
};

/// Between two tries while the database is away: at first, and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the database may take to hear that this worker ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Behind a backlog, maintenance has its turn this often.
const MAINTAIN_EVERY: Duration = Duration::from_millis(500);
/// How many answers are remembered for a caller that dropped its future and may say the call again.
const UNHEARD_ANSWERS: usize = 1024;

pub(super) struct ManualWorker {
    registrar: Registrar,
    own: mpsc::WeakUnboundedSender<Request>,
    registration: Option<Registration>,
    /// The jobs that callers have.
    held: HashMap<Uuid, ClaimedJob>,
    waiting: VecDeque<Caller<Option<Delivery<Job>>>>,
    report: Report,
    /// Who waits for the end of a job that is in the report.
    ending: HashMap<Uuid, Vec<Caller<Delivery<Answer>>>>,
    unheard: VecDeque<(Uuid, Answer)>,
    used_at: Instant,
    maintained_at: Instant,
}

impl ManualWorker {
    /// Starts the task on the caller's runtime. It ends when the last sender is gone.
    pub(super) fn start(registrar: Registrar) -> mpsc::UnboundedSender<Request> {
        let (requests, received) = mpsc::unbounded_channel();
        let worker = ManualWorker {
            registrar,
            own: requests.downgrade(),
            registration: None,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            report: Report::default(),
            ending: HashMap::new(),
            unheard: VecDeque::new(),
            used_at: Instant::now(),
            maintained_at: Instant::now(),
        };
        tokio::spawn(worker.run(received));
        requests
    }

    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut pause = Duration::ZERO;
        loop {
            let busy = !self.waiting.is_empty() || !self.report.is_empty();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => break,
                },
                () = tokio::time::sleep(pause), if busy => {}
                () = lease_end(self.registration.as_ref()) => self.lose_lease(),
                () = sleep_until((self.used_at + self.registrar.options.lease).into()), if self.is_idle() => {
                    self.deregister().await;
                }
            }
            while let Ok(request) = requests.try_recv() {
                self.take(request);
            }
            pause = match self.turn().await {
                Ok(()) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(%error, "the database is away, trying again");
                    (pause * 2).clamp(RETRY_PAUSE.0, RETRY_PAUSE.1)
                }
            };
        }
        self.close().await;
    }

    fn take(&mut self, request: Request) {
        self.used_at = Instant::now();
        match request {
            Request::Dequeue(answer) => self.waiting.push_back(answer),
            Request::End { id, outcome, answer } => {
                if let Some(job) = self.held.remove(&id) {
                    self.report.add(job, outcome);
                    self.ending.insert(id, vec![answer]);
                } else if let Some(others) = self.ending.get_mut(&id) {
                    others.push(answer);
                } else {
                    let at = self.unheard.iter().position(|(other, _)| *other == id);
                    let known = at.and_then(|at| self.unheard.remove(at)).map_or(Answer::NotHeld, |(_, known)| known);
                    self.answer(id, vec![answer], known);
                }
            }
            Request::Return(id) => {
                if let Some(job) = self.held.remove(&id) {
                    self.report.add(job, Outcome::Released);
                }
            }
            Request::Unheard(id, answer) => self.remember(id, answer),
        }
    }

    /// One round trip for all that wait. An error means that ends are still to be told: the turn is to be repeated.
    async fn turn(&mut self) -> Result<(), Error> {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = self.waiting.len();
        if wanted == 0 && self.report.is_empty() {
            return Ok(());
        }
        let session = match self.session().await {
            Ok(session) => session,
            Err(error) => {
                self.refuse_waiting(&error);
                return Ok(());
            }
        };
        let claimed = tokio::select! {
            biased;
            claimed = self.report.flush_and_claim(&session, Wanted::by_hand(wanted)) => claimed,
            () = lease_end(self.registration.as_ref()) => {
                Err(Error::LeaseLost("the lease could not be extended in time".into()))
            }
        };
        self.answer_ends(&session).await;
        match claimed {
            Ok(jobs) => {
                self.deliver(jobs);
                self.maintain(&session).await;
                Ok(())
            }
            Err(Error::LeaseLost(_)) => {
                // The next turn registers anew.
                self.lose_lease();
                Ok(())
            }
            Err(error) => {
                self.refuse_waiting(&error);
                if error.is_transient() {
                    return Err(error);
                }
                self.take_back_ends(&error);
                Ok(())
            }
        }
    }

    /// Jobs whose time has come need not wait for a worker elsewhere to promote them, nor behind a backlog.
    async fn maintain(&mut self, session: &Session) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.is_empty() && self.maintained_at.elapsed() < MAINTAIN_EVERY {
            return;
        }
        self.maintained_at = Instant::now();
        let claimed = match session.maintain().await {
            Ok(done) if done.promoted > 0 && !self.waiting.is_empty() => session.claim(self.waiting.len()).await,
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match claimed {
            Ok(jobs) => self.deliver(jobs),
            Err(error) => return self.refuse_waiting(&error),
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(None));
        }
    }

    /// Gives jobs to those who wait. Nobody waits for a job? Then its delivery is dropped, and the job goes back.
    fn deliver(&mut self, jobs: Vec<ClaimedJob>) {
        for claimed in jobs {
            let job = Job::running(&claimed, &self.registrar.options.name);
            let delivery = Delivery::new(job, Request::Return(claimed.id), self.own.clone());
            self.unheard.retain(|(id, _)| *id != claimed.id);
            self.held.insert(claimed.id, claimed);
            if let Some(waiting) = self.waiting.pop_front() {
                let _ = waiting.send(Ok(Some(delivery)));
            }
        }
    }

    async fn answer_ends(&mut self, session: &Session) {
        for (id, verdict) in self.report.take_verdicts() {
            let Some(waiting) = self.ending.remove(&id) else { continue };
            let answer = match Answer::of(verdict) {
                Some(answer) => answer,
                // The attempt has failed. If the status cannot be read, the likelier one is told.
                None => Answer::Now(session.job_status(id).await.ok().flatten().unwrap_or(Status::Pending)),
            };
            self.answer(id, waiting, answer);
        }
    }

    /// Answers. An answer that nobody hears is remembered: its caller may say the call again.
    fn answer(&mut self, id: Uuid, waiting: Vec<Caller<Delivery<Answer>>>, answer: Answer) {
        for waiting in waiting {
            let delivery = Delivery::new(answer, Request::Unheard(id, answer), self.own.clone());
            if let Err(Ok(unheard)) = waiting.send(Ok(delivery)) {
                self.remember(id, unheard.accept());
            }
        }
    }

    fn remember(&mut self, id: Uuid, answer: Answer) {
        if !matches!(answer, Answer::NotHeld) && !self.held.contains_key(&id) {
            self.unheard.truncate(UNHEARD_ANSWERS - 1);
            self.unheard.push_front((id, answer));
        }
    }

    fn refuse_waiting(&mut self, error: &Error) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Err(error.to_caller()));
        }
    }

    /// The database refuses the ends for good (a right is missing, say). The jobs stay with their callers, who are
    /// told.
    fn take_back_ends(&mut self, error: &Error) {
        for job in self.report.take_jobs() {
            for waiting in self.ending.remove(&job.id).into_iter().flatten() {
                let _ = waiting.send(Err(error.to_caller()));
            }
            self.held.insert(job.id, job);
        }
    }

    /// Whatever was held belongs to others now.
    fn lose_lease(&mut self) {
        tracing::warn!(jobs = self.held.len(), "the lease of the jobs that were dequeued is lost");
        if let Some(lost) = self.registration.take() {
            tokio::spawn(lost.session.clone().outlive());
        }
        self.held.clear();
        drop(self.report.take_jobs());
        for (id, waiting) in std::mem::take(&mut self.ending) {
            self.answer(id, waiting, Answer::NotHeld);
        }
    }

    async fn session(&mut self) -> Result<Arc<Session>, Error> {
        if let Some(registration) = &self.registration {
            return Ok(registration.session.clone());
        }
        let registration = self.registrar.register().await?;
        Ok(self.registration.insert(registration).session.clone())
    }

    /// Whether the registration serves nobody: then it ends after a while, so that an idle program is a quiet one.
    fn is_idle(&self) -> bool {
        self.registration.is_some() && self.held.is_empty() && self.waiting.is_empty() && self.report.is_empty()
    }

    async fn deregister(&mut self) {
        if let Some(registration) = self.registration.take() {
            registration.stop(CLOSE_TIMEOUT).await;
        }
    }

    /// The last handle is gone: nobody can end the jobs any more, so they go back at once.
    async fn close(mut self) {
        for (_, job) in self.held.drain() {
            self.report.add(job, Outcome::Released);
        }
        if let Some(session) = self.registration.as_ref().map(|registration| registration.session.clone()) {
            let flushed =
                tokio::time::timeout(CLOSE_TIMEOUT, self.report.flush_and_claim(&session, Wanted::default())).await;
            if !matches!(flushed, Ok(Ok(_))) {
                tracing::warn!(
                    "jobs that were dequeued could not be handed back; they run again when their lease ends"
                );
            }
        }
        self.deregister().await;
    }
}
