//! The controller's `decide` over a trace or a synthetic load, without a cluster and without a database, beside
//! the published algorithms of KEDA with the HPA and of Knative.
//!
//! - [`load`]: the jobs. `trace`: the same from a file. `random`: one seed, one run. `options`: the settings.
//! - `run`: the events: jobs come, replicas start, claim, drain and go. `pods`: the replicas. `observation`: the view
//!   that a scaler has of both. `step`: one second of it.
//! - `scaler`: the trait. `rowlock`: `decide` behind it. `hpa`, `keda`, `kpa`, `textbook`: the baselines.
//!   `profiles`: all of them with their settings.
//! - [`report`]: waits, objective, cost, flaps. `chart`, `svg`: the same, drawn.
//!
//! The simulation leaves out, for all scalers alike: the milliseconds of a claim, jobs that fail, replicas that
//! crash.

mod chart;
mod hpa;
mod keda;
mod kpa;
pub mod load;
mod observation;
mod options;
mod pods;
mod profiles;
mod random;
pub mod report;
mod rowlock;
mod run;
mod scaler;
mod step;
mod svg;
mod textbook;
mod trace;

pub use chart::chart;
pub use load::{Load, Shape};
pub use options::Options;
use profiles::{Profile, profiles};
pub use report::Report;
use run::Simulation;
pub use step::Step;
pub use svg::svg;

/// Runs one load under every scaler.
///
/// # Example
/// ```
/// use rowlock::simulate::{Options, Shape, simulate};
/// let reports = simulate(&Shape::Spike.load(120.0, 1), &Options::default());
/// assert_eq!(reports[0].scaler, "rowlock");
/// assert!(reports[0].objective_met_percent >= 99.0);
/// ```
pub fn simulate(load: &Load, options: &Options) -> Vec<Report> {
    profiles(options).into_iter().map(|profile| one(load, options, profile)).collect()
}

/// Runs one load under the scaler of this name; none if there is no such scaler.
///
/// # Example
/// ```
/// use rowlock::simulate::{Options, Shape, simulate_only};
/// let load = Shape::Steady.load(60.0, 1);
/// assert_eq!(simulate_only(&load, &Options::default(), "keda").unwrap().scaler, "keda");
/// ```
pub fn simulate_only(load: &Load, options: &Options, scaler: &str) -> Option<Report> {
    profiles(options).into_iter().find(|profile| profile.name == scaler).map(|profile| one(load, options, profile))
}

fn one(load: &Load, options: &Options, profile: Profile) -> Report {
    let Profile { name, settings, scaler } = profile;
    Simulation::new(load, options, scaler).run().report(name, settings, load, options)
}
