//! The formulas of the textbook for the same objective: `decide` has to be better than these.
//!
//! `load + √load` slots for what arrives, `Σ (pending + running) min(1, S / τ)` with `τ = T - age - start` for
//! what is there, never fewer than run; the highest of the delay holds.

use std::collections::VecDeque;

use super::{
    observation::Observation,
    scaler::{Habits, Scaler},
};

pub(super) struct Textbook {
    pub wait: f64,
    pub slots: f64,
    pub max: u32,
    pub delay: f64,
    pub needs: VecDeque<(f64, u32)>,
}

impl Scaler for Textbook {
    fn habits(&self) -> Habits {
        Habits::NOTIFIED
    }

    fn decide(&mut self, seen: &Observation, now: f64, _: bool) -> u32 {
        let start = seen.current.start_seconds.unwrap_or(2.0);
        let (mut load, mut pickup, mut running) = (0.0_f64, 0.0_f64, 0.0_f64);
        for t in &seen.demand.types {
            let service = t.service_seconds.or(t.expected_seconds).unwrap_or(1.0);
            let left = (self.wait - t.oldest_age_seconds - start).max(1.0);
            load += t.rate_10s.max(t.rate_60s) * service;
            pickup += (t.pending + t.running) as f64 * (service / left).min(1.0);
            running += t.running as f64;
        }
        let slots = (load + load.sqrt()).max(pickup).max(running);
        self.needs.push_back((now, ((slots / self.slots).ceil() as u32).min(self.max)));
        while self.needs.front().is_some_and(|n| n.0 < now - self.delay) {
            self.needs.pop_front();
        }
        self.needs.iter().map(|n| n.1).max().unwrap_or(0)
    }
}
