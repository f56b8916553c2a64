//! The queue against a real Postgres, one database per test.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod bad_input;
mod cli;
mod controller_away;
mod controller_catalog;
mod controller_faults;
mod controller_lead;
mod controller_scale;
mod controller_schedule;
mod controller_shared;
mod decide;
mod decide_always;
mod exactly_once;
mod http;
mod launch_contract;
mod life;
mod local_postgres;
mod metrics;
mod other_clients;
mod payload;
mod pgbouncer;
mod plans;
#[allow(dead_code, reason = "shared with tests/chaos, which uses more of it")]
mod pooler;
mod prometheus;
#[allow(dead_code, reason = "shared with tests/chaos, which uses more of it")]
mod proxy;
mod roles;
mod simulate;
mod support;
mod tls;
mod upgrade;
mod wire;
mod work;
mod worker;
mod worker_ends;
mod worker_lease;
mod worker_listen;
mod worker_resident;
mod worker_shutdown;
