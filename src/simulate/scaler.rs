//! A scaler of the simulation: it sees the demand and answers how many replicas there should be.

use super::seen::Seen;

pub(super) trait Scaler {
    /// Whether a job that finds no free slot makes it look before its time.
    fn wakes(&self, _: &Seen) -> bool {
        false
    }
    /// Seconds from being woken to a decision.
    fn debounce(&self) -> f64 {
        0.0
    }
    /// Whether replicas stop claiming first and go when they are idle. If not, those told to stop may be busy.
    fn drains(&self) -> bool {
        false
    }
    /// A look, at every tick of a second and when woken: how many replicas there should be.
    fn look(&mut self, seen: &Seen, now: f64, woken: bool) -> u32;
}
