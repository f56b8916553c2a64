//! The controller's `decide` over a trace or a synthetic load, without a cluster and without a database, beside
//! the published algorithms of KEDA with the HPA and of Knative.
//!
//! - [`load`]: the jobs. `trace`: the same from a file. `random`: one seed, one run.
//! - `run`: the events: jobs come, replicas start, claim, drain and go. `pods`, `seen`: what there is, and what
//!   a scaler sees of it.
//! - `scaler`: what scales, with `decide` as one of it; `hpa`, `keda`, `kpa`, `textbook`: the baselines; `profiles`: how each
//!   is set.
//! - [`report`]: waits, objective, cost, flaps. `chart`, `svg`: the same, drawn.
//!
//! What is left out, for all scalers alike: the milliseconds of a claim, jobs that fail, replicas that crash.

mod chart;
mod hpa;
mod keda;
mod kpa;
pub mod load;
mod pods;
mod profiles;
mod random;
pub mod report;
mod run;
mod scaler;
mod seen;
mod svg;
mod textbook;
mod trace;

pub use chart::chart;
pub use load::{Load, Shape};
pub use report::Report;
pub use run::{Options, simulate, simulate_only};
pub use svg::svg;
