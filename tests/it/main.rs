//! The queue against a real Postgres, one database per test.
//!
//! The tests of the library run with its default features, too: `cargo test --features test-util --test it`.
#![cfg(feature = "test-util")]
#![cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the program's tests use the rest of the helpers"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod api;
mod bad_input;
#[cfg(feature = "cli")]
mod binary;
mod bounds;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod connection_strings;
#[cfg(feature = "cli")]
mod controller_away;
#[cfg(feature = "cli")]
mod controller_catalog;
#[cfg(feature = "cli")]
mod controller_faults;
#[cfg(feature = "cli")]
mod controller_lead;
#[cfg(feature = "cli")]
mod controller_scale;
#[cfg(feature = "cli")]
mod controller_schedule;
#[cfg(feature = "cli")]
mod controller_shared;
#[cfg(feature = "cli")]
mod decide;
#[cfg(feature = "cli")]
mod decide_always;
#[cfg(feature = "cli")]
mod doctor;
#[cfg(feature = "cli")]
mod exactly_once;
mod handlers;
#[cfg(feature = "cli")]
mod http;
mod idle;
mod job_types;
mod jobs;
#[cfg(feature = "cli")]
mod launch_contract;
#[cfg(feature = "cli")]
mod least_roles;
mod life;
mod lists;
#[cfg(feature = "cli")]
mod local_postgres;
mod manual;
#[cfg(feature = "cli")]
mod metrics;
mod other_clients;
mod payload;
#[cfg(feature = "cli")]
mod pgbouncer;
#[cfg(feature = "cli")]
mod plans;
#[cfg(feature = "cli")]
mod pods_refused;
#[cfg(feature = "cli")]
#[allow(dead_code, reason = "shared with tests/chaos, which uses more of it")]
mod pooler;
#[cfg(feature = "cli")]
mod prometheus;
#[allow(dead_code, reason = "shared with tests/chaos, which uses more of it")]
mod proxy;
#[cfg(feature = "cli")]
mod reports;
#[cfg(feature = "cli")]
mod roles;
#[cfg(feature = "cli")]
mod rotation;
mod rounds;
#[cfg(feature = "cli")]
mod secrets;
mod selectors;
#[cfg(feature = "cli")]
mod simulate;
mod strangers;
mod support;
#[cfg(feature = "cli")]
mod tls;
#[cfg(feature = "cli")]
mod upgrade;
mod wire;
#[cfg(feature = "cli")]
mod work;
#[cfg(feature = "cli")]
mod worker;
#[cfg(feature = "cli")]
mod worker_ends;
#[cfg(feature = "cli")]
mod worker_host;
#[cfg(feature = "cli")]
mod worker_lease;
#[cfg(feature = "cli")]
mod worker_listen;
#[cfg(feature = "cli")]
mod worker_resident;
#[cfg(feature = "cli")]
mod worker_shutdown;
