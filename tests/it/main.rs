//! The queue against a real Postgres, one database per test.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod bad_input;
mod cli;
mod exactly_once;
mod launch_contract;
mod life;
mod pgbouncer;
mod plans;
mod proxy;
mod roles;
mod support;
mod upgrade;
mod work;
mod worker;
mod worker_ends;
mod worker_lease;
mod worker_listen;
mod worker_resident;
mod worker_shutdown;
