//! Workers killed at any moment: nothing is lost, nothing is accepted twice, and what they held runs again soon.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rowlock::JobQueue;

use crate::{
    fleet::{Chance, Fleet, count, quantile, turn, until},
    ledger::{self, Ledger, drained, judge},
    support::database,
};

const SLOTS: usize = 4;
/// The bar for a job that was cut short to run again: the lease, a search of the lanes from their beginning
/// (see `src/hints.rs`), and two seconds.
const AGAIN: Duration = Duration::from_millis(3000 + 500 + 2000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_killed_workers_are_neither_lost_nor_doubled_and_run_again_soon() {
    let _turn = turn().await;
    let (jobs, kills) = (count(10_000), count(100));
    let db = database().await;
    let ledger = Ledger::open(&db).await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let mut chance = Chance::new();
    let ids = ledger::enqueue(&q, jobs, |_| 20 + chance.below(40)).await;

    let fleet = Fleet::new(&db.url, &["--lease", "3s", "--concurrency", &SLOTS.to_string()]);
    let started = Instant::now();
    let mut workers = vec![fleet.start(), fleet.start()];
    let mut dead = HashMap::new();
    // By how far the work is, so that the last kill comes before the end on any machine.
    let mut moments: Vec<usize> = (0..kills).map(|_| chance.below(2 * jobs)).collect();
    moments.sort_unstable();
    for moment in moments {
        until("the work goes on to the next kill", || async { ledger.lines().await >= moment }).await;
        let victim = workers.swap_remove(chance.below(2));
        dead.insert(victim.number, victim.kill());
        workers.push(fleet.start());
    }
    let killing = started.elapsed();
    drained(&db).await;
    let mut v = judge(&db, &ledger, &ids, &dead).await;

    let lost_leases = fleet.said("registering anew");
    let (p50, p99) = (quantile(&mut v.recoveries, 0.5), quantile(&mut v.recoveries, 0.99));
    eprintln!(
        "kills: {jobs} jobs, {kills} SIGKILLs in {killing:.1?}: {} accepted, {} crash loops, {} extra runs (bound {}), \
         {} cut short, again after {p50:.2?} (median), {p99:.2?} (p99), {:.2?} (worst); {lost_leases} leases lost alive",
        v.completed,
        v.crash_loops,
        v.extra_runs,
        kills * SLOTS,
        v.recoveries.len(),
        quantile(&mut v.recoveries, 1.0),
    );
    assert_eq!((v.completed, v.crash_loops), (jobs, 0));
    assert!(v.extra_runs <= (kills + lost_leases) * SLOTS);
    assert!(p99 <= AGAIN, "{p99:?}");
}

/// One kill at a time, so that what is measured is one recovery. Fifteen in CI, 75 in a soak.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_held_runs_again_within_the_lease_a_sweep_and_two_seconds() {
    let _turn = turn().await;
    let kills = count(15);
    let db = database().await;
    let ledger = Ledger::open(&db).await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let mut chance = Chance::new();
    let mut ids = HashSet::new();
    let fleet = Fleet::new(&db.url, &["--lease", "3s", "--concurrency", "10"]);
    let mut workers = vec![fleet.start(), fleet.start()];
    let mut dead = HashMap::new();
    for _ in 0..kills {
        ids.extend(ledger::enqueue(&q, 40, |_| 300 + chance.below(500)).await);
        let victim = workers.swap_remove(chance.below(2));
        until("it runs jobs", || async { ledger.open_runs(victim.number).await.len() >= 5 }).await;
        tokio::time::sleep(chance.millis(300)).await;
        dead.insert(victim.number, victim.kill());
        workers.push(fleet.start());
        drained(&db).await;
    }
    let mut v = judge(&db, &ledger, &ids, &dead).await;
    let (p50, p99) = (quantile(&mut v.recoveries, 0.5), quantile(&mut v.recoveries, 0.99));
    eprintln!(
        "recovery: {kills} SIGKILLs, one at a time: {} of {} accepted, {} cut short, again after {p50:.2?} (median), \
         {p99:.2?} (p99), {:.2?} (worst)",
        v.completed,
        ids.len(),
        v.recoveries.len(),
        quantile(&mut v.recoveries, 1.0),
    );
    assert_eq!(v.completed, ids.len());
    assert!(v.recoveries.len() > kills && p99 <= AGAIN, "{p99:?}");
}
