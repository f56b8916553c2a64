//! The queue as it should be: a list of jobs in memory, one pure transition per call.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::call::{Answer, Call, Claim, Claimed, DEFAULTS, Grant, KINDS, New, QUEUES, UNIT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ready,
    /// Due at a time; of those due at once, the one that was put there first comes first.
    Scheduled {
        due: i64,
        put: u64,
    },
    Running {
        worker: usize,
        lease: usize,
    },
    Ended(&'static str),
    /// Ended, and not kept.
    Gone,
}

/// A time, and of those at one time which was put there first.
pub type Due = (i64, u64);

/// Between two places of new jobs is room for those that are found late.
const ROOM: u32 = 20;

#[derive(Debug, Clone)]
pub struct Job {
    pub kind: usize,
    pub queue: usize,
    pub priority: i32,
    pub max_retries: i32,
    pub attempts: i32,
    /// The workers that were lost while they ran it.
    pub lost_by: Vec<usize>,
    pub key: Option<usize>,
    pub tag: bool,
    pub place: Place,
    /// When it became due.
    pub due: Due,
    /// Its place among the jobs of its queue and priority, once it is due.
    pub pos: u64,
    /// Somebody asked to stop it while it runs.
    pub asked: bool,
    pub error: Option<String>,
    pub reason: Option<&'static str>,
    pub result: Option<Value>,
    pub progress: Option<i64>,
    pub worker: Option<usize>,
    pub started: bool,
}

#[derive(Debug, Clone)]
pub struct Worker {
    /// None: for ever past.
    pub until: Option<i64>,
    pub draining: bool,
    /// Whether the database still knows it.
    pub known: bool,
    /// It said that it ends: what it holds is not blamed.
    pub ended: bool,
    /// It said that it lives when its lease was over.
    pub survived: bool,
    hints: BTreeMap<(usize, i32), u64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub enqueued: i64,
    pub completed: i64,
    pub failed: i64,
    pub cancelled: i64,
    pub retried: i64,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub now: i64,
    pub jobs: Vec<Job>,
    pub workers: Vec<Worker>,
    pub paused: [bool; QUEUES.len()],
    /// By queue and kind.
    pub totals: BTreeMap<(usize, usize), Totals>,
    /// Every lease and job ever given out, with the worker.
    pub granted: Vec<(usize, Grant)>,
    /// The leases of claims whose answers the worker never got, and whose calls are over.
    lost: Vec<usize>,
    leases: usize,
    turns: u64,
}

impl Model {
    pub fn apply(&mut self, call: &Call) -> Answer {
        match call {
            Call::Enqueue(new) => self.enqueue(std::slice::from_ref(new)),
            Call::EnqueueMany(all) => self.enqueue(all),
            Call::Register { lease } => {
                let until = Some(self.now + lease);
                self.workers.push(Worker {
                    until,
                    draining: false,
                    known: true,
                    ended: false,
                    survived: false,
                    hints: BTreeMap::new(),
                });
                Answer::Registered(self.workers.len() - 1)
            }
            Call::Extend { worker, lease, drain, knows } => self.extend(*worker, *lease, *drain, *knows),
            Call::Stop { worker } => {
                let holds = self.held(*worker).next().is_some();
                let w = &mut self.workers[*worker];
                (w.survived, w.ended) = (w.survived || w.until.is_none(), true);
                (w.until, w.draining, w.known) = (None, true, w.known && holds);
                Answer::Done
            }
            Call::Claim { worker, claim } => match self.claim(*worker, claim) {
                Some(claimed) => Answer::Worked(Vec::new(), Some(claimed)),
                None => Answer::Error("RL020".into()),
            },
            Call::Lose { worker, claim, pending } => {
                let granted = self.granted.len();
                let Some(claimed) = self.claim(*worker, claim) else { return Answer::Error("RL020".into()) };
                self.granted.truncate(granted);
                self.lost.extend(claimed.lease.filter(|_| !pending));
                Answer::Worked(Vec::new(), Some(claimed))
            }
            Call::Complete { worker, grants, claim } => self.work(*worker, grants, claim.as_ref()),
            Call::Fail { worker, grants, retryable } => self.fail(*worker, grants, retryable),
            Call::Release { worker, grants, delay, retried } => self.release(*worker, grants, *delay, *retried),
            Call::Progress { worker, grant, done } => {
                let hit = self.hits(*worker, &[*grant]);
                hit.iter().for_each(|(_, job)| self.jobs[*job].progress = Some(*done));
                Answer::Stored(!hit.is_empty())
            }
            Call::Cancel(job) => self.cancel(*job),
            Call::Retry { job, delay } => self.retry(*job, *delay),
            Call::Pause(queue) | Call::Resume(queue) => {
                self.paused[*queue] = matches!(call, Call::Pause(_));
                Answer::Done
            }
            Call::Advance(units) => {
                self.now += units;
                Answer::Done
            }
            Call::Keep => self.keep(),
        }
    }

    pub fn alive(&self, worker: usize) -> bool {
        self.workers[worker].until.is_some_and(|t| t > self.now)
    }

    /// The jobs a worker runs, with their leases.
    pub fn held(&self, worker: usize) -> impl Iterator<Item = Grant> {
        self.jobs.iter().enumerate().filter_map(move |(n, j)| match j.place {
            Place::Running { worker: w, lease } if w == worker => Some((lease, n)),
            _ => None,
        })
    }

    pub fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Behind all.
    pub fn new_pos(&mut self) -> u64 {
        self.turn() << ROOM
    }

    /// The due jobs of a queue and priority, by place.
    fn lane(&self, queue: usize, priority: i32) -> BTreeMap<u64, Due> {
        let ready = |j: &&Job| j.place == Place::Ready && j.queue == queue && j.priority == priority;
        self.jobs.iter().filter(ready).map(|j| (j.pos, j.due)).collect()
    }

    /// Jobs whose time has come, to the places that are theirs by that time: in order behind all that is there, or
    /// the last first between those due before and after.
    pub fn promote(&mut self, due: &[(i64, u64, usize)]) {
        let newest = |model: &Model, n: usize| {
            let lane = model.lane(model.jobs[n].queue, model.jobs[n].priority);
            lane.last_key_value().map(|(_, due)| *due)
        };
        let (late, timely): (Vec<_>, Vec<_>) =
            due.iter().partition(|(at, put, n)| newest(self, *n).is_some_and(|newest| (*at, *put) < newest));
        for (at, put, n) in timely {
            let pos = self.new_pos();
            (self.jobs[n].place, self.jobs[n].due, self.jobs[n].pos) = (Place::Ready, (at, put), pos);
        }
        for (at, put, n) in late.into_iter().rev() {
            let lane = self.lane(self.jobs[n].queue, self.jobs[n].priority);
            let before = lane.iter().rev().find(|(_, due)| **due <= (at, put)).map(|(pos, _)| *pos);
            let behind = lane.keys().copied().find(|pos| before.is_none_or(|b| *pos > b));
            let gap = behind.map_or(0, |b| b - before.unwrap_or_default() + u64::from(before.is_none()));
            let pos = if gap < 2 { self.new_pos() } else { behind.unwrap_or_default() - (gap / 64).clamp(1, 1024) };
            (self.jobs[n].place, self.jobs[n].due, self.jobs[n].pos) = (Place::Ready, (at, put), pos);
        }
    }

    /// A free place, at its old one or right behind.
    pub fn old_pos(&self, job: usize) -> u64 {
        let j = &self.jobs[job];
        let lane = self.lane(j.queue, j.priority);
        (j.pos..).find(|pos| !lane.contains_key(pos)).unwrap_or(j.pos)
    }

    pub fn totals(&mut self, job: usize) -> &mut Totals {
        let j = &self.jobs[job];
        self.totals.entry((j.queue, j.kind)).or_default()
    }

    /// Which pending or running job holds a key.
    pub fn holder(&self, key: usize) -> Option<usize> {
        let holds = |j: &Job| j.key == Some(key) && !matches!(j.place, Place::Ended(_) | Place::Gone);
        self.jobs.iter().position(holds)
    }

    fn enqueue(&mut self, all: &[New]) -> Answer {
        match all.iter().find_map(fault) {
            Some(code) => Answer::Error(code.into()),
            None => Answer::Enqueued(all.iter().map(|new| self.add(new)).collect()),
        }
    }

    fn add(&mut self, new: &New) -> (usize, bool) {
        if let Some(holder) = new.key.and_then(|key| self.holder(key)) {
            return (holder, false);
        }
        let kind = &KINDS[new.kind];
        let queue = new.queue.or(kind.queue).unwrap_or(0);
        let turn = self.turn();
        self.jobs.push(Job {
            kind: new.kind,
            queue,
            priority: new.priority.or(kind.priority).or(DEFAULTS[queue].0).unwrap_or(5),
            max_retries: new.max_retries.or(kind.max_retries).or(DEFAULTS[queue].1).unwrap_or(3),
            attempts: 0,
            lost_by: Vec::new(),
            key: new.key,
            tag: new.tag,
            place: match new.delay {
                Some(delay) if delay > 0 => Place::Scheduled { due: self.now + delay, put: turn },
                _ => Place::Ready,
            },
            due: (self.now, turn),
            pos: turn << ROOM,
            asked: false,
            error: None,
            reason: None,
            result: None,
            progress: None,
            worker: None,
            started: false,
        });
        let job = self.jobs.len() - 1;
        self.totals(job).enqueued += 1;
        (job, true)
    }

    fn extend(&mut self, worker: usize, lease: i64, drain: bool, knows: bool) -> Answer {
        if !self.alive(worker) {
            return Answer::Error("RL020".into());
        }
        let lost = self.held(worker).filter(|(lease, _)| knows && self.lost.contains(lease));
        let lost: Vec<usize> = lost.map(|(_, job)| job).collect();
        lost.iter().for_each(|job| self.give_back(*job, worker));
        let cancelled = self.held(worker).map(|(_, job)| job).filter(|job| self.jobs[*job].asked).collect();
        let w = &mut self.workers[worker];
        w.until = Some(self.now + lease);
        w.draining |= drain;
        Answer::Extended { lease, draining: w.draining, cancelled, returned: lost.len() }
    }

    /// None: the worker's lease is lost.
    pub fn claim(&mut self, worker: usize, claim: &Claim) -> Option<Claimed> {
        if !self.alive(worker) {
            return None;
        }
        let w = &self.workers[worker];
        let mut due: Vec<(i32, usize, u64, usize)> = Vec::new();
        for (n, j) in self.jobs.iter().enumerate().filter(|(_, j)| j.place == Place::Ready && !self.paused[j.queue]) {
            let Some(nth) = claim.queues.iter().position(|q| *q == j.queue) else { continue };
            let after = if claim.hints { w.hints.get(&(j.queue, j.priority)) } else { None };
            if after.is_none_or(|pos| j.pos > *pos) {
                due.push((-j.priority, nth, j.pos, n));
            }
        }
        due.sort_unstable();
        due.truncate(if w.draining { 0 } else { claim.max });
        if due.is_empty() {
            return Some(Claimed { lease: None, jobs: Vec::new() });
        }
        let lease = self.leases;
        self.leases += 1;
        let mut jobs = Vec::new();
        for (_, _, pos, n) in due {
            let j = &mut self.jobs[n];
            (j.place, j.worker, j.started) = (Place::Running { worker, lease }, Some(worker), true);
            let hint = self.workers[worker].hints.entry((j.queue, j.priority)).or_default();
            *hint = pos.max(*hint);
            jobs.push((n, as_claimed(&self.jobs[n])));
            self.granted.push((worker, (lease, n)));
        }
        Some(Claimed { lease: Some(lease), jobs })
    }
}

/// The SQLSTATE that refuses a job.
fn fault(new: &New) -> Option<&'static str> {
    let too_far = |delay: i64| delay * UNIT > 10 * 366 * 86_400;
    match new {
        New { priority: Some(p), .. } if i16::try_from(*p).is_err() => Some("RL004"),
        New { max_retries: Some(r), .. } if !(0..=32767).contains(r) => Some("RL005"),
        New { delay: Some(d), .. } if too_far(*d) => Some("RL006"),
        _ => None,
    }
}

/// A job as its worker sees it.
fn as_claimed(j: &Job) -> String {
    format!("{} {} {} {}/{} {}", KINDS[j.kind].name, QUEUES[j.queue], j.priority, j.attempts, j.max_retries, j.tag)
}
