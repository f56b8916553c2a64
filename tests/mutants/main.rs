//! Guards of the queue removed one at a time: each must be missed by a scenario. A guard that nobody misses
//! is a guard that a change can lose.
//!
//! Here are those of the SQL. To add one of another kind, give [`cut::Place`] another variant and let
//! [`examine`] set it up; a scenario is any async function of a [`lab::Lab`], and may start the program.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

mod cut;
mod guards;
mod lab;
mod scenarios;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod support;
#[path = "../model/tables.rs"]
mod tables;

use std::{fmt::Write as _, io::Write as _};

use futures_util::{StreamExt as _, stream};
use guards::Mutant;
use lab::Lab;
use scenarios::SCENARIOS;

/// The scenario that every mutant passes: one that does not even run a job is no mutant, but broken.
const ORDINARY: &str = "an_ordinary_job_lives";
const SIDE_BY_SIDE: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_guard_that_is_removed_is_missed() {
    let unmutated = examine(None).await.unwrap();
    assert!(unmutated.is_empty(), "with all guards in place: {unmutated:#?}");

    let verdicts: Vec<_> = stream::iter(guards::all())
        .map(|m| async move { (m, tokio::spawn(examine(Some(m))).await.unwrap().unwrap()) })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    let width = guards::all().map(|m| m.name.len()).max().unwrap_or_default();
    let mut table = String::new();
    let mut wrong = Vec::new();
    for (m, failed) in &verdicts {
        let names: Vec<&str> = failed.iter().map(|(name, _)| *name).collect();
        writeln!(table, "{:width$}  {}", m.name, names.join(", ").replace('_', " ")).unwrap();
        if !names.contains(&m.caught_by) {
            wrong.push(format!("{}: not caught by {}", m.name, m.caught_by));
        }
        if let Some((_, why)) = failed.iter().find(|(name, why)| *name == ORDINARY || why.starts_with("42")) {
            wrong.push(format!("{}: is not a mutant but broken: {why}", m.name));
        }
    }
    // Not print!, which a passing test would swallow.
    writeln!(std::io::stdout(), "{:width$}  caught by\n{table}{} mutants", "mutant", verdicts.len()).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_mutant_names_a_scenario_there_is() {
    for m in guards::all() {
        assert!(SCENARIOS.iter().any(|s| s.name == m.caught_by), "{}: {}", m.name, m.caught_by);
    }
}

/// The scenarios that fail, and why, in a database of its own.
async fn examine(mutant: Option<&Mutant>) -> Result<Vec<(&'static str, String)>, String> {
    let mut schema = rowlock::migrate::script();
    if let Some(m) = mutant {
        schema = cut::cut(&schema, m.place, m.guard, m.instead).map_err(|e| format!("{}: {e}", m.name))?;
    }
    let lab = Lab::open(&support::empty_database().await.url).await?;
    lab.ask(&schema).await?;
    let mut failed = Vec::new();
    for scenario in SCENARIOS {
        lab.reset().await?;
        if let Err(why) = (scenario.run)(&lab).await {
            failed.push((scenario.name, why));
        }
    }
    Ok(failed)
}
