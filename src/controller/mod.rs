//! The controller: how many workers there should be, and why.
//!
//! - [`limits`]: a Deployment's annotations as a type. [`demand`]: what is known of its queues and its Pods.
//! - `need`: the law, from demand to slots. [`mod@decide`]: from need to replicas, with every brake on the way.
//! - [`decision`]: the answer with its reason, and `explain`: the same in words.
//!
//! All of it is pure and knows neither Kubernetes nor Postgres: the cluster, `rowlock dev` and
//! `rowlock simulate` call the same function.

pub mod decide;
pub mod decision;
pub mod demand;
mod explain;
pub mod history;
pub mod limits;
mod need;

pub use decide::decide;
pub use decision::{Clamp, Decision, Reason, Term};
pub use demand::{Connections, Current, Demand, TypeDemand};
pub use history::History;
pub use limits::{InvalidLimits, Limits, Rule};
