//! Faults on purpose: the program is killed, frozen and cut off while it works, and a ledger that only the jobs
//! write says what became of them.
//!
//! Each file is one bar, and prints its figure: `cargo test --features cli --test chaos -- --nocapture`. The
//! tests take turns, whatever `--test-threads` says: they measure time. `ROWLOCK_SOAK=1` (`make soak`) repeats
//! more; `ROWLOCK_SEED` chooses other moments than those that CI always sees.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[path = "../it/binary.rs"]
mod binary;
mod canary;
mod children;
mod commits;
mod drops;
mod fire;
mod fleet;
mod freezes;
mod hand;
#[path = "../it/jobs.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other tests, which use more of it")]
mod jobs;
mod judge;
mod kills;
mod ledger;
mod outages;
mod poison;
#[path = "../it/pooler.rs"]
mod pooler;
mod postgres;
mod program;
mod promotions;
#[path = "../it/proxy.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod proxy;
mod replies;
mod scene;
mod server;
mod starts;
mod states;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod support;
mod terms;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod wire;
#[path = "../it/work.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other tests, which use more of it")]
mod work;

/// No test: what `Fleet::in_process` starts, from this same executable.
#[test]
#[ignore = "a program that other tests start"]
fn program_with_a_worker() {
    program::main().unwrap();
}
