//! Rowlock: a job queue in PostgreSQL.
//!
//! A job is enqueued by one SQL call, inside the caller's own transaction, and claimed by row lock.
//!
//! # Layout
//! - [`job`]: what is enqueued, read back, held. [`error`]: what can go wrong. [`Reason`]: why an attempt failed.
//! - [`connect`]: from a URL to a pool. [`migrate`]: the schema.
//! - [`queue`]: the client, [`JobQueue`].
//! - [`session`]: a worker's side of the SQL: claim, complete, fail. `hints`: how it scans.
//! - `listen`, `maintenance`: LISTEN, and the rounds of maintenance, for those that look for jobs.
//! - [`worker`]: the engine that claims jobs and has them run; in this process, by handlers in Rust.
//! - `launch`: jobs as commands, for the engine to run.
//! - `cluster`: the only way to the Kubernetes API.
//! - `metrics`, `http`: what is told of all that.
//! - `catalog`: job types and schedules as a file has them. `schedule`: when one is due.
//! - `launch`, `controller`, `cli`, `bench`, `simulate` and what they need: the program, behind the feature `cli`.
//!
//! Imports point down this list's order from the program to `job` and `error`. What a transition does is
//! decided in SQL (`schema/`), never here.

#![cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only the program uses all of the inside"))]

pub mod connect;
pub mod error;
mod hints;
pub mod job;
mod listen;
mod maintenance;
pub mod migrate;
pub mod queue;
mod reason;
pub mod session;
#[cfg(feature = "cli")]
mod statement;
pub mod worker;

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
#[cfg(feature = "test-util")]
pub mod local_postgres;
#[cfg(feature = "cli")]
pub mod metrics;
#[cfg(feature = "cli")]
pub mod schedule;
#[cfg(feature = "cli")]
pub mod simulate;

pub use connect::Target;
pub use error::{Error, Field};
pub use job::{ClaimedJob, Enqueued, Job, NewJob, Status};
pub use queue::{JobQueue, ListFilter};
pub use reason::Reason;
pub use session::{Failure, Session, SessionOptions};
pub use worker::{Handler, TypedJob};
