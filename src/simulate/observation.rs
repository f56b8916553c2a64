//! The view of a scaler: the demand, as the controller would read it from Postgres, and the replicas.

use std::collections::VecDeque;

use super::load::Kind;
use crate::controller::{Current, Demand, TypeDemand};

pub(super) struct Observation {
    pub demand: Demand,
    pub current: Current,
}

/// The jobs of a type so far.
pub(super) struct KindState {
    name: String,
    expected: Option<f64>,
    /// Jobs that wait, by their place in the load, with the time at which each became due.
    pub waiting: VecDeque<(usize, f64)>,
    running: u64,
    /// The sum of the times at which the running ones began.
    begun: f64,
    arrived: VecDeque<f64>,
    ends: VecDeque<f64>,
    ended: u32,
    service: f64,
}

impl KindState {
    pub(super) fn new(kind: &Kind) -> KindState {
        KindState {
            name: kind.name.clone(),
            expected: kind.expected_seconds,
            waiting: VecDeque::new(),
            running: 0,
            begun: 0.0,
            arrived: VecDeque::new(),
            ends: VecDeque::new(),
            ended: 0,
            service: 0.0,
        }
    }

    pub(super) fn arrive(&mut self, job: usize, now: f64) {
        self.waiting.push_back((job, now));
        self.arrived.push_back(now);
    }

    pub(super) fn begin(&mut self, now: f64) {
        self.running += 1;
        self.begun += now;
    }

    pub(super) fn end(&mut self, begun: f64, service: f64, now: f64) {
        self.ends.push_back(now);
        self.running -= 1;
        self.begun = if self.running == 0 { 0.0 } else { self.begun - begun };
        self.ended += 1;
        // The mean, in which after a thousand jobs the old ones fade.
        self.service += (service - self.service) / f64::from(self.ended.min(1000));
    }

    pub(super) fn demand(&mut self, now: f64) -> TypeDemand {
        while self.arrived.front().is_some_and(|at| *at <= now - 60.0) {
            self.arrived.pop_front();
        }
        while self.ends.front().is_some_and(|at| *at <= now - 10.0) {
            self.ends.pop_front();
        }
        let recent = self.arrived.len() - self.arrived.partition_point(|at| *at <= now - 10.0);
        TypeDemand {
            queue: "default".into(),
            job_type: self.name.clone(),
            pending: self.waiting.len() as u64,
            scheduled_soon: 0,
            running: self.running,
            oldest_age_seconds: self.waiting.front().map_or(0.0, |(_, due)| now - due),
            running_age_seconds: (self.running > 0).then(|| now - self.begun / self.running as f64),
            ended_10s: Some(self.ends.len() as f64 / 10.0),
            rate_10s: recent as f64 / 10.0,
            rate_60s: self.arrived.len() as f64 / 60.0,
            service_seconds: (self.ended >= 5).then_some(self.service),
            expected_seconds: self.expected,
        }
    }
}
