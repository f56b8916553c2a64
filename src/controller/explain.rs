//! A decision in words.

use super::decision::{Clamp, Decision, Inputs, Reason, Term};

impl Decision {
    /// Explains the decision to people, in one paragraph: the step, the facts, and the bound that held it back.
    pub fn explain(&self) -> String {
        let mut text = format!("{}: {}.", self.step(), self.because());
        if self.need_slots.is_some() {
            text += &format!(" {} {}", self.inputs.seen(), self.arithmetic());
        }
        if let Some(clamp) = self.clamp {
            text += &format!(" {}", self.clamped(clamp));
        }
        if self.dry_run {
            text += " This is only said, not done: dry-run is set.";
        }
        text
    }

    fn step(&self) -> String {
        match (self.current, self.wanted) {
            (current, wanted) if current == wanted => format!("Stay at {}", replicas(current)),
            (current, wanted) => format!("From {current} to {}", replicas(wanted)),
        }
    }

    fn because(&self) -> String {
        let i = &self.inputs;
        let wait = seconds(i.target_wait_seconds.unwrap_or_default());
        let delay = seconds(i.scale_down_delay_seconds);
        match self.reason {
            Reason::Pinned => "the annotation pin-replicas fixes the size".into(),
            Reason::DemandUnknown => "the demand could not be read, and nothing changes until it can".into(),
            Reason::Pickup => format!("with fewer, jobs would wait longer than {wait}"),
            Reason::Steady => "jobs arrive faster than fewer replicas can take".into(),
            Reason::Probe => {
                "how long jobs of a type take is not known yet, so a few are tried first (declare `expected`)".into()
            }
            Reason::Backlog => format!("each replica is to have {} jobs", i.jobs_per_replica.unwrap_or_default()),
            Reason::AtLimit => "more were needed, or fewer would do, but no step is allowed".into(),
            Reason::BelowMin => "it was below min-replicas".into(),
            Reason::AboveMax => "it was above max-replicas".into(),
            Reason::Enough => "that is enough".into(),
            Reason::ScaleDownDelay => {
                format!("fewer would do now, but the highest need of the last {delay} holds (scale-down-delay)")
            }
            Reason::AfterRestart => {
                format!("fewer would do now, but the last {delay} were not seen in full (after a start or a gap)")
            }
            Reason::Late => format!("a job has waited for longer than {wait}, and until it runs nothing goes"),
            Reason::Deadband => "one fewer would do only just, and chance would soon order it again".into(),
            Reason::RunningWork => "the jobs that run need them".into(),
            Reason::Rollout => {
                "fewer would do, but a rollout goes on; none goes until it ends, is paused, or has lasted for 10 min"
                    .into()
            }
            Reason::TargetAway => "fewer would do, but the API server does not answer; it is asked again soon".into(),
            Reason::ScaleIn => format!("fewer would have done throughout the last {delay}"),
            Reason::ToZero => format!("nothing is pending, runs or arrives, nor did within {delay}"),
        }
    }

    fn arithmetic(&self) -> String {
        let i = &self.inputs;
        let Some(need) = self.need_slots else { return String::new() };
        let by = match self.term {
            None => return "Nothing is needed.".into(),
            Some(Term::Arriving) => return "Too few arrive to count in slots; one replica is kept for them.".into(),
            Some(Term::Backlog) => "their number".into(),
            Some(Term::Probe) => "a trial of the type whose time is not known".into(),
            Some(Term::Steady) => {
                format!("what arrives ({:.1} slots of work, {:.1} with room for chance)", i.load_slots, i.steady_slots)
            }
            Some(Term::Pickup) => format!(
                "what waits and runs, for none to wait longer than {}",
                seconds(i.target_wait_seconds.unwrap_or_default())
            ),
        };
        let mut text = format!("The largest need is {by}: {need:.1} slots, {} in each replica", i.slots);
        if i.recent_slots > need * 1.001 {
            text +=
                &format!("; the highest of the last {} was {:.1}", seconds(i.scale_down_delay_seconds), i.recent_slots);
        }
        text + "."
    }

    fn clamped(&self, clamp: Clamp) -> String {
        let i = &self.inputs;
        match clamp {
            Clamp::MinReplicas => format!("min-replicas is {}.", i.min_replicas),
            Clamp::MaxReplicas => format!("max-replicas is {}.", i.max_replicas),
            Clamp::StepRate => "No more come or go in one step of 5 s.".into(),
            Clamp::Unschedulable => {
                format!(
                    "No node has room for {} ordered before; look at their Pods' events.",
                    replicas(i.replicas.unschedulable)
                )
            }
            Clamp::ConnectionBudget => {
                let c = i.connections.unwrap_or(super::Connections { free: 0, per_replica: 0 });
                format!("The database takes {} connections more, and a replica opens {}.", c.free, c.per_replica)
            }
            Clamp::OldTransaction => format!(
                "A transaction of the database is {} old: more workers would slow each other down, so they are \
                 added one by one. End it.",
                seconds(i.oldest_transaction_seconds.unwrap_or_default())
            ),
            Clamp::RunningWork => format!("{} jobs run, and none of them is stopped for it.", i.running),
        }
    }
}

impl Inputs {
    fn seen(&self) -> String {
        let mut text = format!("{} jobs wait", self.pending);
        if self.pending > 0 {
            text += &format!(" (the oldest for {})", seconds(self.oldest_age_seconds));
        }
        if self.scheduled_soon > 0 {
            text += &format!(", {} are due soon", self.scheduled_soon);
        }
        text += &format!(", {} run, {:.1} a second arrive", self.running, self.rate_60s);
        let r = &self.replicas;
        if !r.starting_seconds.is_empty() {
            text += &format!("; {} ready and {} starting", replicas(r.ready), r.starting_seconds.len());
        }
        text += ".";
        if let Some(share) = self.share {
            let percent = (share * 100.0).round();
            text += &format!(" That is {percent} % of all: other Deployments serve the same queues.");
        }
        text
    }
}

fn replicas(n: u32) -> String {
    if n == 1 { "1 replica".into() } else { format!("{n} replicas") }
}

fn seconds(s: f64) -> String {
    if s >= 120.0 { format!("{:.0} min", s / 60.0) } else { format!("{} s", (s * 10.0).round() / 10.0) }
}
