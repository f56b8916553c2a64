//! The SQL functions against a model: random sequences of calls, made to a real Postgres and to a list of
//! jobs in memory, must have the same answers and leave the same things to see after every call.
//!
//! `ROWLOCK_SEQUENCES` says how many (default 2000). A sequence that fails is shrunk, and its seed goes to
//! `regressions.txt` here, to be committed: every run begins with those.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod call;
mod ends;
mod found;
mod model;
mod op;
mod play;
mod seen;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod support;
mod tables;
mod words;
mod world;

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use crate::{support::database, world::World};

/// The longest sequence, and how many are played side by side, a database each.
const LONGEST: usize = 24;
const SIDE_BY_SIDE: u32 = 4;
/// After so many sequences what they left is vacuumed.
const VACUUM: u32 = 50;

#[test]
fn random_sequences_of_calls_do_to_the_queue_what_they_do_to_the_model() {
    play_all(sequences(), false);
}

/// Fewer sequences: it is the same but for one call.
#[test]
fn a_completion_does_what_every_other_end_of_a_run_does() {
    play_all(sequences() / 5, true);
}

fn sequences() -> u32 {
    std::env::var("ROWLOCK_SEQUENCES").map_or(2000, |n| n.parse().expect("ROWLOCK_SEQUENCES is a number"))
}

fn play_all(sequences: u32, settles: bool) {
    let started = Instant::now();
    let results: Vec<Result<usize, String>> = std::thread::scope(|scope| {
        let shares = (0..SIDE_BY_SIDE).map(|n| sequences / SIDE_BY_SIDE + u32::from(n < sequences % SIDE_BY_SIDE));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || run(share, settles))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut calls = 0;
    for result in results {
        calls += result.unwrap_or_else(|failure| panic!("{failure}"));
    }
    // Not print!, which a passing test would swallow.
    eprintln!("model: {sequences} sequences, {calls} calls in {:.1} s", started.elapsed().as_secs_f64());
}

/// How many calls were made.
fn run(sequences: u32, settles: bool) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = RefCell::new(runtime.block_on(async { World::open(database().await.client).await }));
    if settles {
        runtime.block_on(world.borrow_mut().settle());
    }
    let (played, calls) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config {
        cases: sequences,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model/regressions.txt"))),
        max_shrink_iters: 5000,
        ..Config::default()
    });
    let played = runner.run(&op::ops(LONGEST), |ops| {
        let world = &mut *world.borrow_mut();
        played.set(played.get() + 1);
        runtime.block_on(world.reset(played.get() % VACUUM == 0));
        let made = runtime.block_on(play::play(world, &ops)).map_err(TestCaseError::fail)?;
        calls.set(calls.get() + made);
        Ok(())
    });
    // The calls say more, and in fewer lines, than the operations they came from.
    played.map(|()| calls.get()).map_err(|e| match e {
        TestError::Fail(why, _) | TestError::Abort(why) => why.to_string(),
    })
}
