//! The findings of a simulation.

use serde::Serialize;

use super::{load::Load, options::Options, run::Simulation, step::Step};

/// A change of direction within this time after the last one is a flap.
const FLAP_SECONDS: f64 = 300.0;

/// The result of one scaler under one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scaler's name.
    pub scaler: String,
    /// The scaler's settings.
    pub settings: String,
    /// The number of jobs.
    pub jobs: usize,
    /// Half of the jobs waited no longer.
    pub wait_p50_seconds: f64,
    /// 95 in 100 waited no longer.
    pub wait_p95_seconds: f64,
    /// 99 in 100 waited no longer.
    pub wait_p99_seconds: f64,
    /// No job waited longer.
    pub wait_max_seconds: f64,
    /// The share of jobs that waited no longer than the objective.
    pub objective_met_percent: f64,
    /// Replicas times the time for which they existed, from their order to their end.
    pub replica_seconds: f64,
    /// `replica_seconds` over the work of the jobs in full slots.
    pub times_ideal: f64,
    /// The number of scale-ins that were taken back within five minutes.
    pub flaps: usize,
    /// The highest number of replicas.
    pub most_replicas: u32,
    /// The number of replicas that were told to stop while a job ran in them.
    pub told_to_stop_busy: u32,
    /// One step for every second; not printed.
    #[serde(skip)]
    pub steps: Vec<Step>,
    /// The longest wait of the jobs that came in each second; not printed.
    #[serde(skip)]
    pub waits: Vec<f64>,
    /// The times at which the wanted number changed, and the new numbers; not printed.
    #[serde(skip)]
    pub changes: Vec<(f64, u32)>,
}

impl Simulation<'_> {
    pub(super) fn report(self, scaler: &str, settings: String, load: &Load, options: &Options) -> Report {
        let mut sorted = self.waits.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |p: f64| {
            sorted.get(((sorted.len() as f64 * p).ceil() as usize).saturating_sub(1)).map_or(0.0, |w| round(*w, 3))
        };
        let objective = options.target_wait.as_secs_f64();
        let met = sorted.partition_point(|w| *w <= objective);
        let work: f64 = load.arrivals.iter().map(|a| a.service).sum::<f64>() / f64::from(options.slots);
        let mut waits = vec![0.0_f64; self.steps.len()];
        for (arrival, wait) in load.arrivals.iter().zip(&self.waits) {
            if let Some(longest) = waits.get_mut(arrival.at as usize) {
                *longest = longest.max(*wait);
            }
        }
        Report {
            scaler: scaler.into(),
            settings,
            jobs: sorted.len(),
            wait_p50_seconds: at(0.5),
            wait_p95_seconds: at(0.95),
            wait_p99_seconds: at(0.99),
            wait_max_seconds: at(1.0),
            objective_met_percent: round(100.0 * met as f64 / sorted.len().max(1) as f64, 3),
            replica_seconds: round(self.pods.charged, 1),
            times_ideal: round(self.pods.charged / work.max(f64::MIN_POSITIVE), 2),
            flaps: flaps(&self.changes),
            most_replicas: self.steps.iter().map(|s| s.replicas).max().unwrap_or(0),
            told_to_stop_busy: self.pods.told_busy,
            steps: self.steps,
            waits,
            changes: self.changes,
        }
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

/// Counts the scale-ins that were taken back so soon that they need not have been.
fn flaps(changes: &[(f64, u32)]) -> usize {
    let mut lowered: Option<f64> = None;
    let mut flaps = 0;
    for pair in changes.windows(2) {
        let ((_, before), (at, after)) = (pair[0], pair[1]);
        if after < before {
            lowered = Some(at);
        } else if lowered.take().is_some_and(|since| at - since <= FLAP_SECONDS) {
            flaps += 1;
        }
    }
    flaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_in_taken_back_within_five_minutes_is_a_flap() {
        assert_eq!(flaps(&[(0.0, 3), (10.0, 2), (20.0, 1), (30.0, 3), (40.0, 4)]), 1);
        assert_eq!(flaps(&[(0.0, 3), (10.0, 2), (311.0, 3)]), 0);
        assert_eq!(flaps(&[(0.0, 3), (10.0, 2), (20.0, 3), (30.0, 2), (40.0, 3)]), 2);
    }
}
