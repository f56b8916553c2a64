//! Rowlock: a job queue in PostgreSQL.
//!
//! A job is enqueued by one SQL call, inside the caller's own transaction, and claimed by row lock.
//!
//! # Layout
//! - [`job`]: what is enqueued, read back, held. [`error`]: what can go wrong.
//! - [`connect`]: from a URL to a pool. [`migrate`]: the schema.
//! - [`queue`]: the client, [`JobQueue`]. [`typed`]: jobs as Rust types.
//! - [`session`]: a worker's side of the SQL: claim, complete, fail. `hints`: how it scans.
//! - `listen`, `keeper`: LISTEN, and the keeper's rounds, for those that look for jobs.
//! - `cluster`: the only way to the Kubernetes API.
//! - `metrics`, `http`: what is told of all that.
//! - `catalog`: job types and schedules as a file has them. `schedule`: when one is due.
//! - `worker`, `controller`, `cli`, `local_postgres`, `bench`, `simulate`: the program, behind the feature `cli`.
//!
//! Imports point down this list's order from the program to `job` and `error`. What a transition does is
//! decided in SQL (`schema/`), never here.

pub mod connect;
pub mod error;
mod hints;
pub mod job;
pub mod migrate;
pub mod queue;
pub mod session;
#[cfg(feature = "cli")]
mod statement;
pub mod typed;

#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod catalog;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod cluster;
#[cfg(feature = "cli")]
pub mod controller;
#[cfg(feature = "cli")]
pub mod http;
#[cfg(feature = "cli")]
pub mod launch;
#[cfg(feature = "cli")]
mod listen;
#[cfg(feature = "cli")]
pub mod local_postgres;
#[cfg(feature = "cli")]
mod maintenance;
#[cfg(feature = "cli")]
pub mod metrics;
#[cfg(feature = "cli")]
pub mod schedule;
#[cfg(feature = "cli")]
pub mod simulate;
#[cfg(feature = "cli")]
pub mod worker;

pub use connect::Target;
pub use error::{Error, Field};
pub use job::{ClaimedJob, Enqueued, Job, NewJob, Status};
pub use queue::{JobQueue, ListFilter};
pub use session::{Failure, Session, SessionOptions};
pub use typed::{Handler, TypedJob};
