//! Random operations. One names a job, a worker or a lease by a number that is cut to what there is when
//! its turn comes, so that a sequence stays a sensible one while it shrinks.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    call::{Call, Claim, Grant, KEYS, KINDS, New, QUEUES},
    model::{Model, Place},
};

/// One of what is held now; of what was held earlier by the worker of a job that runs again; of all that was
/// ever given out. In the latter two its lease is, or may be, lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Held,
    Earlier,
    Ever,
}

#[derive(Debug, Clone, Copy)]
pub struct Pick {
    nth: usize,
    from: From,
}

/// What a worker says of its jobs. It is the first one's worker that says it, unless another does.
#[derive(Debug, Clone)]
pub struct Said {
    picks: Vec<Pick>,
    other: Option<usize>,
    /// A lease and a job that were not given out together.
    crossed: bool,
}

#[derive(Debug, Clone)]
pub enum Op {
    Enqueue(New),
    EnqueueMany(Vec<New>),
    Register {
        lease: i64,
    },
    Extend {
        worker: Pick,
        lease: i64,
        drain: bool,
        knows: bool,
    },
    Stop {
        worker: Pick,
    },
    Claim {
        worker: Pick,
        claim: Claim,
    },
    Lose {
        worker: Pick,
        claim: Claim,
        pending: bool,
    },
    Complete {
        said: Said,
        claim: Option<Claim>,
    },
    Fail {
        said: Said,
        retryable: [bool; 4],
    },
    Release {
        said: Said,
        delay: Option<i64>,
        retried: bool,
    },
    Progress {
        said: Said,
        done: i64,
    },
    Cancel {
        job: usize,
        running: bool,
    },
    Retry {
        job: usize,
        delay: i64,
    },
    Pause(usize),
    Resume(usize),
    Advance(i64),
    Keep,
    /// So many workers come, claim one job, and are lost.
    Crash(usize),
    /// A worker lets a job go and claims it again: by another lease.
    Bounce(Pick),
}

/// Some jobs to begin with, then anything.
pub fn ops(longest: usize) -> impl Strategy<Value = Vec<Op>> {
    let rest = prop_oneof![1 => vec(op(), 1..=longest), 2 => vec(op(), longest / 2..=longest)];
    (vec(new(false), 1..6), rest).prop_map(|(jobs, rest)| {
        let first = Op::EnqueueMany(jobs);
        std::iter::once(first).chain(rest).collect()
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => new(true).prop_map(Op::Enqueue),
        4 => vec(new(false), 1..6).prop_map(Op::EnqueueMany),
        1 => vec(new(true), 1..6).prop_map(Op::EnqueueMany),
        2 => (1..7_i64).prop_map(|lease| Op::Register { lease }),
        5 => (pick(), 1..7_i64, prop::bool::weighted(0.15), any::<bool>())
            .prop_map(|(worker, lease, drain, knows)| Op::Extend { worker, lease, drain, knows }),
        2 => (pick(), claim(), prop::bool::weighted(0.3)).prop_map(|(worker, claim, pending)| Op::Lose { worker, claim, pending }),
        1 => pick().prop_map(|worker| Op::Stop { worker }),
        14 => (pick(), claim()).prop_map(|(worker, claim)| Op::Claim { worker, claim }),
        8 => (said(4), prop::option::weighted(0.4, claim())).prop_map(|(said, claim)| Op::Complete { said, claim }),
        10 => (said(4), [retryable(), retryable(), retryable(), retryable()]).prop_map(|(said, retryable)| Op::Fail { said, retryable }),
        6 => (said(4), delay(), any::<bool>()).prop_map(|(said, delay, retried)| Op::Release { said, delay, retried }),
        4 => (said(1), 0..100_i64).prop_map(|(said, done)| Op::Progress { said, done }),
        8 => (number(), prop::bool::weighted(0.7)).prop_map(|(job, running)| Op::Cancel { job, running }),
        8 => (number(), 0..3_i64).prop_map(|(job, delay)| Op::Retry { job, delay }),
        1 => (0..QUEUES.len()).prop_map(Op::Pause),
        2 => (0..QUEUES.len()).prop_map(Op::Resume),
        5 => select(vec![1, 1, 1, 1, 2, 2, 3, 40]).prop_map(Op::Advance),
        6 => Just(Op::Keep),
        2 => (1..=5_usize).prop_map(Op::Crash),
        4 => pick().prop_map(Op::Bounce),
    ]
}

fn number() -> impl Strategy<Value = usize> {
    0..64_usize
}

fn pick() -> impl Strategy<Value = Pick> {
    let from = prop_oneof![8 => Just(From::Held), 2 => Just(From::Earlier), 1 => Just(From::Ever)];
    (number(), from).prop_map(|(nth, from)| Pick { nth, from })
}

fn said(most: usize) -> impl Strategy<Value = Said> {
    (vec(pick(), 1..=most), prop::option::weighted(0.1, number()), prop::bool::weighted(0.1))
        .prop_map(|(picks, other, crossed)| Said { picks, other, crossed })
}

fn retryable() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.7)
}

fn delay() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(0..3_i64)
}

fn claim() -> impl Strategy<Value = Claim> {
    let queues =
        prop_oneof![2 => Just(vec![0, 1, 2]), 1 => Just(vec![2, 1, 0]), 1 => (0..QUEUES.len()).prop_map(|q| vec![q])];
    (queues, prop_oneof![1 => Just(0), 20 => 1..6_usize], prop::bool::weighted(0.2))
        .prop_map(|(queues, max, hints)| Claim { queues, max, hints })
}

/// One in some twenty has a value that is refused, if it may.
fn new(faulty: bool) -> impl Strategy<Value = New> {
    let bad = if faulty { 1 } else { 0 };
    let queue = prop::option::weighted(0.6, 0..QUEUES.len());
    let priority = prop_oneof![20 => Just(None), 20 => select(vec![-32768, 4, 5, 6, 32767]).prop_map(Some), bad => Just(Some(32768))];
    let retries = prop_oneof![20 => Just(None), 40 => (0..4).prop_map(Some), bad => Just(Some(-1))];
    let delay = prop_oneof![30 => Just(None), 20 => (-2..4_i64).prop_map(Some), bad => Just(Some(4_000_000))];
    let key = prop::option::weighted(0.3, 0..KEYS.len());
    (0..KINDS.len(), queue, priority, retries, delay, key, any::<bool>()).prop_map(
        |(kind, queue, priority, max_retries, delay, key, tag)| New {
            kind,
            queue,
            priority,
            max_retries,
            delay,
            key,
            tag,
        },
    )
}

/// What an operation means now. Where there is nothing to do it to, something is claimed, or a worker comes:
/// so that few operations go to waste.
pub fn resolve(op: &Op, model: &Model) -> Vec<Call> {
    let said = |said: &Said| resolve_said(said, model);
    let worker = |pick: &Pick| resolve_worker(*pick, model);
    let call = match op {
        Op::Enqueue(new) => Some(Call::Enqueue(new.clone())),
        Op::EnqueueMany(all) => Some(Call::EnqueueMany(all.clone())),
        Op::Register { lease } => Some(Call::Register { lease: *lease }),
        Op::Extend { worker: w, lease, drain, knows } => {
            worker(w).map(|worker| Call::Extend { worker, lease: *lease, drain: *drain, knows: *knows })
        }
        Op::Lose { worker: w, claim, pending } => {
            worker(w).map(|worker| Call::Lose { worker, claim: claim.clone(), pending: *pending })
        }
        Op::Stop { worker: w } => worker(w).map(|worker| Call::Stop { worker }),
        Op::Claim { worker: w, claim } => worker(w).map(|worker| Call::Claim { worker, claim: claim.clone() }),
        Op::Complete { said: s, claim } => {
            said(s).map(|(worker, grants)| Call::Complete { worker, grants, claim: claim.clone() })
        }
        Op::Fail { said: s, retryable } => said(s).map(|(worker, grants)| {
            let retryable = retryable[..grants.len()].to_vec();
            Call::Fail { worker, grants, retryable }
        }),
        Op::Release { said: s, delay, retried } => {
            said(s).map(|(worker, grants)| Call::Release { worker, grants, delay: *delay, retried: *retried })
        }
        Op::Progress { said: s, done } => {
            said(s).map(|(worker, grants)| Call::Progress { worker, grant: grants[0], done: *done })
        }
        Op::Cancel { job, running } => Some(Call::Cancel(resolve_job(*job, *running, model))),
        Op::Retry { job, delay } => Some(Call::Retry { job: resolve_job(*job, false, model), delay: *delay }),
        Op::Pause(queue) => Some(Call::Pause(*queue)),
        Op::Resume(queue) => Some(Call::Resume(*queue)),
        Op::Advance(units) => Some(Call::Advance(*units)),
        Op::Keep => Some(Call::Keep),
        Op::Crash(times) => return crash(*times, model.workers.len()),
        Op::Bounce(pick) => return bounce(*pick, model),
    };
    vec![call.unwrap_or_else(|| match (0..model.workers.len()).find(|w| model.alive(*w)) {
        Some(worker) => Call::Claim { worker, claim: Claim { queues: vec![0, 1, 2], max: 3, hints: false } },
        None => Call::Register { lease: 3 },
    })]
}

fn crash(times: usize, first: usize) -> Vec<Call> {
    let claim = Claim { queues: vec![0, 1, 2], max: 1, hints: false };
    (first..first + times)
        .flat_map(|worker| {
            [
                Call::Register { lease: 1 },
                Call::Claim { worker, claim: claim.clone() },
                Call::Stop { worker },
                Call::Keep,
            ]
        })
        .collect()
}

fn bounce(pick: Pick, model: &Model) -> Vec<Call> {
    let Some((worker, grant)) = resolve_grant(pick, model, None) else { return Vec::new() };
    let claim = Claim { queues: vec![0, 1, 2], max: 9, hints: false };
    let release = Call::Release { worker, grants: vec![grant], delay: None, retried: false };
    vec![release, Call::Claim { worker, claim }]
}

/// A job; or, once in a while, one that was never there.
fn resolve_job(nth: usize, running: bool, model: &Model) -> usize {
    let running = |n: &usize| running && matches!(model.jobs[*n].place, Place::Running { .. });
    let candidates: Vec<usize> = (0..model.jobs.len()).filter(running).collect();
    candidates.get(nth % candidates.len().max(1)).copied().unwrap_or(nth % (model.jobs.len() + 1))
}

fn resolve_worker(pick: Pick, model: &Model) -> Option<usize> {
    let all: Vec<usize> = (0..model.workers.len()).filter(|w| pick.from == From::Ever || model.alive(*w)).collect();
    all.get(pick.nth % all.len().max(1)).copied()
}

fn resolve_said(said: &Said, model: &Model) -> Option<(usize, Vec<Grant>)> {
    let first = said.picks.first()?;
    let (owner, grant) = resolve_grant(*first, model, None)?;
    let rest = said.picks[1..].iter().filter_map(|pick| resolve_grant(*pick, model, Some(owner)));
    let mut grants: Vec<Grant> = std::iter::once(grant).chain(rest.map(|(_, grant)| grant)).collect();
    if said.crossed {
        grants[0].0 = model.granted.last()?.1.0;
    }
    let worker = said.other.map_or(owner, |nth| nth % model.workers.len());
    Some((worker, grants))
}

fn resolve_grant(pick: Pick, model: &Model, owner: Option<usize>) -> Option<(usize, Grant)> {
    let fits = |(worker, (lease, job)): &&(usize, Grant)| match (pick.from, model.jobs[*job].place) {
        (From::Ever, _) => true,
        (From::Held, Place::Running { lease: l, .. }) => l == *lease && owner.is_none_or(|o| o == *worker),
        (From::Earlier, Place::Running { lease: l, worker: w }) => l != *lease && w == *worker,
        _ => false,
    };
    let all: Vec<_> = model.granted.iter().filter(fits).collect();
    all.get(pick.nth % all.len().max(1)).map(|found| **found)
}
