//! How a job leaves its worker, and what it becomes: the model's other half.

use crate::{
    call::{Answer, Claim, Claimed, Grant, KINDS, error_text, reason, result},
    model::{Model, Place},
};

/// A job whose workers were lost so often has failed.
const CRASHES: usize = 5;
/// So often a job is blamed that was not all its worker ran.
const COMPANY: usize = 2;

impl Model {
    /// What of grants the worker holds: where the job is first named, and the job, in that order.
    pub fn hits(&self, worker: usize, grants: &[Grant]) -> Vec<(usize, usize)> {
        let live = |(lease, job): &&Grant| self.jobs[*job].place == Place::Running { worker, lease: *lease };
        let named = |job: usize| grants.iter().position(|g| g.1 == job).unwrap_or_default();
        if !self.alive(worker) {
            return Vec::new();
        }
        let mut hits: Vec<_> = grants.iter().filter(live).map(|(_, job)| (named(*job), *job)).collect();
        hits.sort_unstable();
        hits.dedup();
        hits
    }

    pub fn work(&mut self, worker: usize, grants: &[Grant], claim: Option<&Claim>) -> Answer {
        // Both are one statement: without a lease for the claim nothing is said of the rest. No claim of none.
        if claim.is_some_and(|c| c.max > 0) && !self.alive(worker) {
            return Answer::Error("RL020".into());
        }
        let hits = self.hits(worker, grants);
        for (n, job) in &hits {
            self.end(*job, "completed", Some(worker), None, None);
            self.jobs[*job].result = Some(result(grants[*n], *n));
        }
        let claimed = claim.map(|c| self.claim(worker, c).unwrap_or(Claimed { lease: None, jobs: Vec::new() }));
        Answer::Worked(refused(grants, &hits), claimed)
    }

    pub fn fail(&mut self, worker: usize, grants: &[Grant], retryable: &[bool]) -> Answer {
        let hits = self.hits(worker, grants);
        let mut answers: Vec<_> = refused(grants, &hits).into_iter().map(|job| (job, "lease lost".into())).collect();
        for (n, job) in &hits {
            let (job, error) = (*job, Some(error_text(grants[*n], *n)));
            let j = &mut self.jobs[job];
            let status = if j.asked {
                self.end(job, "cancelled", Some(worker), error, Some("cancelled"));
                "cancelled"
            } else if retryable[*n] && j.attempts < j.max_retries {
                let (base, highest) = KINDS[j.kind].backoff;
                let delay = (base << j.attempts).min(highest);
                j.error = error;
                j.attempts += 1;
                self.totals(job).retried += 1;
                self.put_back(job, Some(delay));
                "pending"
            } else {
                self.end(job, "failed", Some(worker), error, Some(reason(*n).unwrap_or("error")));
                "failed"
            };
            answers.push((job, status.into()));
        }
        answers.sort_unstable();
        Answer::Failed(answers)
    }

    pub fn release(&mut self, worker: usize, grants: &[Grant], delay: Option<i64>, retried: bool) -> Answer {
        let hits = self.hits(worker, grants);
        for (_, job) in &hits {
            let j = &mut self.jobs[*job];
            if j.asked {
                self.end(*job, "cancelled", Some(worker), None, Some("cancelled"));
                continue;
            }
            if retried {
                j.attempts = j.max_retries.min(j.attempts + 1);
                self.totals(*job).retried += 1;
            }
            self.put_back(*job, delay);
        }
        Answer::Refused(refused(grants, &hits))
    }

    /// Its claim's answer was lost: it never ran.
    pub fn give_back(&mut self, job: usize, worker: usize) {
        if self.jobs[job].asked {
            let error = self.jobs[job].error.clone();
            self.end(job, "cancelled", Some(worker), error, Some("cancelled"));
        } else {
            self.put_back(job, None);
        }
    }

    /// To its old turn (None), or behind the others, now or later.
    fn put_back(&mut self, job: usize, delay: Option<i64>) {
        let (now, turn) = (self.now, self.turn());
        let pos = if delay.is_some() { self.new_pos() } else { self.old_pos(job) };
        let j = &mut self.jobs[job];
        (j.worker, j.started, j.progress) = (None, false, None);
        j.place = match delay {
            Some(delay) if delay > 0 => Place::Scheduled { due: now + delay, put: turn },
            _ => Place::Ready,
        };
        j.pos = pos;
        if delay.is_some() {
            j.due = (now, turn);
        }
    }

    fn end(
        &mut self,
        job: usize,
        status: &'static str,
        worker: Option<usize>,
        error: Option<String>,
        why: Option<&'static str>,
    ) {
        let j = &mut self.jobs[job];
        j.place = if KINDS[j.kind].kept { Place::Ended(status) } else { Place::Gone };
        (j.worker, j.error, j.reason, j.asked) = (worker, error, why, false);
        let totals = self.totals(job);
        match status {
            "completed" => totals.completed += 1,
            "failed" => totals.failed += 1,
            _ => totals.cancelled += 1,
        }
    }

    pub fn cancel(&mut self, job: usize) -> Answer {
        let status = match self.jobs.get(job).map_or(Place::Gone, |j| j.place) {
            Place::Ready | Place::Scheduled { .. } => {
                let error = self.jobs[job].error.clone();
                self.end(job, "cancelled", None, error, Some("cancelled"));
                "cancelled"
            }
            Place::Running { .. } => {
                self.jobs[job].asked = true;
                "running"
            }
            Place::Ended(status) => status,
            Place::Gone => return Answer::Error("RL011".into()),
        };
        Answer::Status(status.into())
    }

    pub fn retry(&mut self, job: usize, delay: i64) -> Answer {
        match self.jobs.get(job).map_or(Place::Gone, |j| j.place) {
            Place::Ready | Place::Scheduled { .. } => {}
            Place::Gone => return Answer::Error("RL011".into()),
            Place::Ended("failed" | "cancelled") => {
                if self.jobs[job].key.is_some_and(|key| self.holder(key).is_some()) {
                    return Answer::Error("RL012".into());
                }
                let j = &mut self.jobs[job];
                j.lost_by.clear();
                j.reason = None;
                self.totals(job).retried += 1;
            }
            _ => return Answer::Error("RL012".into()),
        }
        self.put_back(job, Some(delay));
        Answer::Status("pending".into())
    }

    pub fn keep(&mut self) -> Answer {
        let mut due: Vec<(i64, u64, usize)> = Vec::new();
        for (n, j) in self.jobs.iter().enumerate() {
            if let Place::Scheduled { due: at, put } = j.place
                && at <= self.now
            {
                due.push((at, put, n));
            }
        }
        due.sort_unstable();
        self.promote(&due);
        let mut rescued = 0;
        for worker in 0..self.workers.len() {
            if !self.workers[worker].known || self.alive(worker) {
                continue;
            }
            let lost: Vec<Grant> = self.held(worker).collect();
            rescued += lost.len();
            lost.iter().for_each(|(_, job)| self.lose(*job, worker, lost.len() == 1));
            let w = &mut self.workers[worker];
            (w.until, w.draining, w.known) = (None, true, false);
        }
        Answer::Kept { promoted: due.len(), rescued }
    }

    /// Its worker was lost while it ran.
    fn lose(&mut self, job: usize, worker: usize, alone: bool) {
        let (j, workers) = (&mut self.jobs[job], &self.workers);
        let ended = workers[worker].ended;
        if !ended {
            j.lost_by.retain(|lost| !workers[*lost].survived);
            if alone || j.lost_by.len() < COMPANY {
                j.lost_by.push(worker);
            }
        }
        let gone = !ended && j.lost_by.len() >= CRASHES;
        let error = Some(match worker_name(worker) {
            name if gone => format!("its worker was lost {CRASHES} times while it ran, last {name}"),
            name if ended => format!("worker {name} ended while the job ran"),
            name => format!("worker {name} was lost while the job ran"),
        });
        if j.asked {
            self.end(job, "cancelled", Some(worker), error, Some("cancelled"));
        } else if gone {
            self.end(job, "failed", Some(worker), error, Some("crash_loop"));
        } else {
            j.error = error;
            self.put_back(job, None);
        }
    }
}

pub fn worker_name(worker: usize) -> String {
    format!("worker {worker}")
}

fn refused(grants: &[Grant], hits: &[(usize, usize)]) -> Vec<usize> {
    let mut refused: Vec<_> = grants.iter().map(|g| g.1).filter(|job| hits.iter().all(|(_, hit)| hit != job)).collect();
    refused.sort_unstable();
    refused.dedup();
    refused
}
