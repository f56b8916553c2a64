//! A scaler of the simulation: it sees the demand and answers how many replicas there should be.

use super::observation::Observation;

pub(super) trait Scaler {
    /// How the scaler is woken, and how its replicas go.
    fn habits(&self) -> Habits;
    /// Answers the wanted number of replicas, at every tick of a second and when woken.
    fn decide(&mut self, seen: &Observation, now: f64, woken: bool) -> u32;
}

/// The traits of a scaler that the simulation has to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// A job that finds no free slot wakes the scaler before its time.
    pub wakes: Wakes,
    /// Seconds from being woken to a decision.
    pub debounce: f64,
    /// Replicas stop claiming first and go when they are idle. Otherwise those told to stop may be busy.
    pub drains: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wakes {
    Never,
    /// Only while there is no replica.
    FromZero,
    Always,
}

impl Habits {
    /// Polls, and takes replicas away without a word to their workers.
    pub(super) const POLLS: Habits = Habits { wakes: Wakes::Never, debounce: 0.0, drains: false };
    /// Is woken by a NOTIFY, and drains workers before they go.
    pub(super) const NOTIFIED: Habits = Habits { wakes: Wakes::Always, debounce: 0.1, drains: true };
}

impl Wakes {
    pub(super) fn now(self, seen: &Observation) -> bool {
        match self {
            Wakes::Never => false,
            Wakes::FromZero => seen.current.replicas == 0,
            Wakes::Always => true,
        }
    }
}
