//! The law: how many slots the demand needs, so that a ready job waits no longer than the objective.
//!
//! Two terms; the larger one counts.
//!
//! **Steady** is for the jobs that arrive. Their load is `Σ λS` slots (Little's law), and waits grow without end
//! at exactly that. In a queue of `c` slots, a wait above T has a probability of at most `e^(-(c - load) T / S)`,
//! so `4.6 S / T` slots more keep 99 in 100 below it. Where jobs are longer than T that is much, and the
//! square-root rule (`√load` more: few jobs wait at all) is the cheaper bound.
//!
//! **Pickup** is for the jobs that are there. Each type's jobs have a window: from now to T after the oldest one
//! became due. A slot can begin `window / S` of them in it, but at least one. Slots that are there have the whole
//! window, those of a starting replica what is left of it after the start, those of a new one what is left after
//! a whole start. New ones are ordered for what the first two cannot take. So an order given a second ago is not
//! given again because the jobs got older meanwhile. A running job holds its slot for a part of the window: all
//! of it only if it is long, and began just now.
//!
//! A window never ends before a new replica could have worked for [`CATCH_UP_SECONDS`]: what is late already
//! cannot be saved, and one slot for each late job would be money for nothing.

use super::{
    decision::Term,
    demand::{Current, Demand, TypeDemand},
    limits::Rule,
};

/// A start as long as this is assumed until one was measured.
const START_ASSUMED_SECONDS: f64 = 2.0;
/// A new replica is to catch up with late jobs in this time, or in a fifth of the objective if that is longer.
const CATCH_UP_SECONDS: f64 = 1.0;
/// −ln 0.01: one job in a hundred may wait longer.
const ONE_IN_A_HUNDRED: f64 = 4.6;
/// Anything above zero is one replica.
const HARDLY_ANY: f64 = 1e-3;

/// The need of the demand, in slots.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Need {
    pub slots: f64,
    pub term: Option<Term>,
    pub load: f64,
    /// Chance takes the load of one minute so far from that of the next: three times its scatter.
    pub chance: f64,
    pub steady: f64,
    pub pickup: f64,
}

pub(crate) fn need(demand: &Demand, rule: Rule, slots: u32, current: &Current) -> Need {
    let mut need = match rule {
        Rule::JobsPerReplica(jobs) => {
            let count: u64 = demand.types.iter().map(|t| t.waiting() + t.running).sum();
            let wanted = count as f64 / f64::from(jobs) * f64::from(slots);
            Need { slots: wanted, term: Some(Term::Backlog), pickup: wanted, ..Need::default() }
        }
        Rule::TargetWait(wait) => by_work(demand, wait.as_secs_f64(), f64::from(slots), current),
    };
    if need.slots <= 0.0 {
        let arriving = demand.types.iter().any(|t| rate(t) > 0.0 || t.rate_10s > 0.0);
        (need.slots, need.term) = if arriving { (HARDLY_ANY, Some(Term::Arriving)) } else { (0.0, None) };
    }
    need
}

fn by_work(demand: &Demand, wait: f64, slots: f64, current: &Current) -> Need {
    let (load, steady, chance) = steady(demand, wait);
    let pickup = pickup(demand, wait, slots, current);
    let term = if steady >= pickup.slots {
        Term::Steady
    } else if pickup.probe > pickup.slots / 2.0 {
        Term::Probe
    } else {
        Term::Pickup
    };
    Need { slots: steady.max(pickup.slots), term: Some(term), load, chance, steady, pickup: pickup.slots }
}

/// Jobs a second. The last minute is steadier than the last ten seconds, which count as far as they differ by
/// more than chance: three times their own scatter.
fn rate(of: &TypeDemand) -> f64 {
    let recent = of.rate_10s.max(0.0);
    let scatter = 3.0 * (recent / 10.0).sqrt();
    of.rate_60s.max(recent - scatter).min(recent + scatter).max(0.0)
}

/// The load, the slots it needs, and how far chance takes it.
fn steady(demand: &Demand, wait: f64) -> (f64, f64, f64) {
    let (mut load, mut spare, mut variance) = (0.0_f64, 0.0_f64, 0.0_f64);
    for t in &demand.types {
        let Some(service) = t.service() else { continue };
        let work = rate(t) * service;
        load += work;
        variance += work * service / 60.0;
        // Summed by type: added demand of one type can never lower what another needs.
        spare += (ONE_IN_A_HUNDRED * service / wait).min(work.sqrt());
    }
    (load, load + spare.min(load.sqrt()), 3.0 * variance.sqrt())
}

/// The part of the window for which a running job still occupies its slot.
fn occupancy(of: &TypeDemand, service: f64, window: f64) -> f64 {
    let age = of.running_age_seconds.unwrap_or(0.0);
    // As long as any job, unless those that run are older than most become and few end: then they are of a rare
    // long kind, and how seldom one ends tells how long.
    let turnover = of.ended_10s.map_or(0.0, |ended| of.running as f64 / ended.max(f64::MIN_POSITIVE));
    let left = service.max(age.min(turnover));
    // Jobs that began together end together. Later they are at all stages, and some end at any time.
    let together = (1.0 - 4.0 * age / service.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let at_all_stages = left / window * -(-window / left.max(f64::MIN_POSITIVE)).exp_m1();
    together * (left / window).min(1.0) + (1.0 - together) * at_all_stages
}

struct Pickup {
    slots: f64,
    /// The part that is for types without a known time.
    probe: f64,
}

fn pickup(demand: &Demand, wait: f64, slots: f64, current: &Current) -> Pickup {
    let start = current.start_seconds.unwrap_or(START_ASSUMED_SECONDS).max(0.0);
    let catch_up = CATCH_UP_SECONDS.max(wait / 5.0);
    let mut shortest = f64::INFINITY;
    // In slots that are there, and in slots that have to start first.
    let (mut there, mut new, mut probe) = (0.0, 0.0, 0.0);
    for t in demand.types.iter().filter(|t| t.waiting() + t.running > 0) {
        let age = if t.pending > 0 { t.oldest_age_seconds.max(0.0) } else { 0.0 };
        let window = (wait - age).max(start + catch_up);
        if t.waiting() > 0 {
            shortest = shortest.min(window);
        }
        let (waiting, running) = (t.waiting() as f64, t.running as f64);
        let Some(service) = t.service() else {
            // Twice as many as run now: if none of them ends soon, the jobs are long, and more are worth it.
            let some = (waiting + running).min(slots.max(2.0 * running));
            (there, new, probe) = (there + some, new + some, probe + some);
            continue;
        };
        let share = |window: f64| waiting * (service / window).min(1.0) + running * occupancy(t, service, window);
        there += share(window);
        new += share(window - start);
    }
    let ready = f64::from(current.ready) * slots;
    let useful: f64 = current
        .starting_seconds
        .iter()
        .map(|since| 1.0 - ((start - since.max(0.0)).max(0.0) / shortest).min(1.0))
        .sum::<f64>()
        * slots;
    if shortest.is_infinite() || ready + useful >= there {
        return Pickup { slots: there, probe };
    }
    let short = 1.0 - (ready + useful) / there;
    Pickup { slots: ready + current.starting_seconds.len() as f64 * slots + short * new, probe }
}
