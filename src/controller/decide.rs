//! From need to replicas, with every brake on the way. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    decision::{Clamp, Decision, Inputs, Reason, Term},
    demand::{Current, Demand},
    history::History,
    limits::{DEFAULT_SLOTS, Limits, Rule},
    need::{Need, need},
};

/// At most so many replicas are added, or as many as there are, within [`STEP_PERIOD`].
const STEP_UP: u32 = 50;
/// At most half of the replicas go within this time.
const STEP_PERIOD: TimeDelta = TimeDelta::seconds(5);
/// Fewer replicas must leave so much room above the need, or chance alone would order them again; in a large fleet,
/// in which chance counts for less, a replica and [`DEADBAND_LARGE`].
const DEADBAND: f64 = 0.15;
const DEADBAND_LARGE: f64 = 0.05;
/// Dead rows that an older transaction keeps are walked by every claimer: replicas are added one by one.
const OLD_TRANSACTION_SECONDS: f64 = 600.0;

/// Decides how many replicas there should be. `demand` is none if it could not be read.
///
/// # Example
/// ```
/// use rowlock::controller::{Current, Demand, History, Limits, Reason, TypeDemand, decide};
/// let mail = TypeDemand { pending: 600, expected_seconds: Some(1.0), ..Default::default() };
/// let demand = Demand { types: vec![mail], ..Default::default() };
/// let limits = Limits { slots: Some(10), max_replicas: 50, ..Limits::new(vec!["mail".into()]) };
/// let decision = decide(Some(&demand), &limits, &Current::default(), &History::default(), chrono::Utc::now());
/// assert_eq!((decision.wanted, decision.reason), (20, Reason::Pickup)); // 600 s of work in 3 s, 10 at a time
/// ```
pub fn decide(
    demand: Option<&Demand>,
    limits: &Limits,
    current: &Current,
    history: &History,
    now: DateTime<Utc>,
) -> Decision {
    let mut decision = unchanged(limits, current, now);
    if let Some(demand) = demand {
        decision.inputs.observe(demand);
    }
    let outcome = match (limits.pin_replicas, demand) {
        (Some(pin), _) => Outcome::new(pin, Reason::Pinned),
        // The size holds even above the bounds: unknown demand must not cost capacity.
        (None, None) if current.replicas < limits.min_replicas => {
            Outcome::new(limits.min_replicas, Reason::BelowMin).clamped(Clamp::MinReplicas)
        }
        (None, None) => Outcome::new(current.replicas, Reason::DemandUnknown),
        (None, Some(demand)) => {
            let need = need(demand, limits.rule, decision.inputs.slots, current);
            let recent = history.highest_need(delay(limits), now).max(need.slots);
            let inputs = &mut decision.inputs;
            (inputs.load_slots, inputs.steady_slots, inputs.pickup_slots) = (need.load, need.steady, need.pickup);
            inputs.recent_slots = recent;
            decision.need_slots = Some(need.slots);
            decision.term = need.term;
            let slots = decision.inputs.slots;
            Bounded { demand, limits, current, history, now, need, recent, slots }.outcome()
        }
    };
    (decision.wanted, decision.reason, decision.clamp) = (outcome.wanted, outcome.reason, outcome.clamp);
    decision
}

fn unchanged(limits: &Limits, current: &Current, now: DateTime<Utc>) -> Decision {
    let (target_wait_seconds, jobs_per_replica) = match limits.rule {
        Rule::TargetWait(wait) => (Some(wait.as_secs_f64()), None),
        Rule::JobsPerReplica(jobs) => (None, Some(jobs)),
    };
    Decision {
        at: now,
        current: current.replicas,
        wanted: current.replicas,
        reason: Reason::Enough,
        term: None,
        clamp: None,
        need_slots: None,
        dry_run: limits.dry_run,
        inputs: Inputs {
            slots: limits.slots.or(current.slots).unwrap_or(DEFAULT_SLOTS).max(1),
            min_replicas: limits.min_replicas,
            max_replicas: limits.max_replicas,
            target_wait_seconds,
            jobs_per_replica,
            scale_down_delay_seconds: limits.scale_down_delay.as_secs_f64(),
            replicas: current.clone(),
            ..Inputs::default()
        },
    }
}

fn delay(limits: &Limits) -> TimeDelta {
    TimeDelta::from_std(limits.scale_down_delay).unwrap_or(TimeDelta::MAX)
}

struct Outcome {
    wanted: u32,
    reason: Reason,
    clamp: Option<Clamp>,
}

impl Outcome {
    fn new(wanted: u32, reason: Reason) -> Outcome {
        Outcome { wanted, reason, clamp: None }
    }

    fn clamped(self, clamp: Clamp) -> Outcome {
        Outcome { clamp: Some(clamp), ..self }
    }
}

/// Everything that bounds the step from the present number to the needed one.
struct Bounded<'a> {
    demand: &'a Demand,
    limits: &'a Limits,
    current: &'a Current,
    history: &'a History,
    now: DateTime<Utc>,
    need: Need,
    recent: f64,
    slots: u32,
}

impl Bounded<'_> {
    fn outcome(&self) -> Outcome {
        let (min, max) = (self.limits.min_replicas, self.limits.max_replicas.max(self.limits.min_replicas));
        let present = self.current.replicas;
        if present > max {
            return Outcome::new(max, Reason::AboveMax).clamped(Clamp::MaxReplicas);
        }
        let needed = self.replicas(self.need.slots);
        let floor = self.with_room(self.recent).clamp(min, max);
        let outcome = if needed.clamp(min, max) > present {
            self.grow(needed, max)
        } else if floor < present {
            self.shrink(floor)
        } else {
            self.stay(needed, min)
        };
        if outcome.wanted < min {
            return Outcome::new(min, Reason::BelowMin).clamped(Clamp::MinReplicas);
        }
        outcome
    }

    fn replicas(&self, slots: f64) -> u32 {
        // Floating point alone adds less than a thousandth of a millionth.
        (slots / f64::from(self.slots) - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
    }

    fn with_room(&self, slots: f64) -> u32 {
        let room = (slots * DEADBAND).min(f64::from(self.slots) + slots * DEADBAND_LARGE);
        self.replicas(slots + room.max(self.need.chance))
    }

    fn grow(&self, needed: u32, max: u32) -> Outcome {
        let present = self.current.replicas;
        let (fewest, _) = self.history.replicas(STEP_PERIOD, self.now, present);
        let mut cap = (max, Clamp::MaxReplicas);
        let mut at_most = |most: u32, clamp| cap = if most < cap.0 { (most, clamp) } else { cap };
        at_most(fewest.saturating_add(fewest.max(STEP_UP)), Clamp::StepRate);
        if self.demand.oldest_transaction_seconds.is_some_and(|age| age >= OLD_TRANSACTION_SECONDS) {
            at_most(fewest.saturating_add(1), Clamp::OldTransaction);
        }
        if let Some(c) = self.demand.connections {
            at_most(present.saturating_add(c.free / c.per_replica.max(1)), Clamp::ConnectionBudget);
        }
        if self.current.unschedulable > 0 {
            at_most(present, Clamp::Unschedulable);
        }
        let (most, clamp) = cap;
        let wanted = needed.max(self.limits.min_replicas).min(most).max(present);
        let reason = match self.need.term {
            _ if wanted == present => Reason::AtLimit,
            _ if wanted > needed => Reason::BelowMin,
            Some(Term::Pickup) => Reason::Pickup,
            Some(Term::Probe) => Reason::Probe,
            Some(Term::Backlog) => Reason::Backlog,
            Some(Term::Steady | Term::Arriving) | None => Reason::Steady,
        };
        let clamp = if wanted > needed { Some(Clamp::MinReplicas) } else { (wanted < needed).then_some(clamp) };
        Outcome { wanted, reason, clamp }
    }

    fn shrink(&self, floor: u32) -> Outcome {
        let present = self.current.replicas;
        if let Rule::TargetWait(wait) = self.limits.rule
            && self.demand.oldest_age_seconds() > wait.as_secs_f64()
        {
            return Outcome::new(present, Reason::Late);
        }
        if !self.history.covers(delay(self.limits), self.now) {
            return Outcome::new(present, Reason::AfterRestart);
        }
        let (_, most) = self.history.replicas(STEP_PERIOD, self.now, present);
        let running = self.replicas(self.demand.running() as f64);
        let step = most / 2;
        let wanted = floor.max(running).max(step).min(present);
        let clamp = if wanted == floor {
            (floor > 0 && floor == self.limits.min_replicas && floor > self.replicas(self.recent))
                .then_some(Clamp::MinReplicas)
        } else if running >= step {
            Some(Clamp::RunningWork)
        } else {
            Some(Clamp::StepRate)
        };
        let reason = match wanted {
            _ if wanted == present && clamp == Some(Clamp::RunningWork) => Reason::RunningWork,
            _ if wanted == present => Reason::AtLimit,
            0 => Reason::ToZero,
            _ => Reason::ScaleIn,
        };
        Outcome { wanted, reason, clamp }
    }

    fn stay(&self, needed: u32, min: u32) -> Outcome {
        let present = self.current.replicas;
        let stay = |reason| Outcome::new(present, reason);
        if needed > present {
            stay(Reason::AtLimit).clamped(Clamp::MaxReplicas)
        } else if present == min && needed < present {
            stay(Reason::Enough).clamped(Clamp::MinReplicas)
        } else if self.with_room(self.need.slots) < present {
            stay(Reason::ScaleDownDelay)
        } else if needed < present {
            stay(Reason::Deadband)
        } else {
            stay(Reason::Enough)
        }
    }
}
