//! Workers killed at any moment: nothing is lost, nothing is accepted twice, and what they held runs again soon.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    fleet::{count, quantile, until},
    ledger::drained,
    scene::Scene,
};

const SLOTS: usize = 4;
/// The bar for a job that was cut short to run again: the lease, a search of the lanes from their beginning
/// (see `src/hints.rs`), and two seconds.
const AGAIN: Duration = Duration::from_millis(3000 + 500 + 2000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_killed_workers_are_neither_lost_nor_doubled_and_run_again_soon() {
    let mut scene = Scene::new(&["--lease", "3s", "--concurrency", &SLOTS.to_string()]).await;
    let (jobs, kills) = (count(10_000), count(100));
    scene.enqueue(jobs, |chance| 20 + chance.below(40)).await;

    let started = Instant::now();
    let mut workers = vec![scene.fleet.start(), scene.fleet.start()];
    let mut dead = HashMap::new();
    // By how far the work is, so that the last kill comes before the end on any machine.
    let mut moments: Vec<usize> = (0..kills).map(|_| scene.chance.below(2 * jobs)).collect();
    moments.sort_unstable();
    for moment in moments {
        until("the work goes on to the next kill", || async { scene.ledger.lines().await >= moment }).await;
        let victim = workers.swap_remove(scene.chance.below(2));
        dead.insert(victim.number, victim.kill());
        workers.push(scene.fleet.start());
    }
    let killing = started.elapsed();
    let mut v = scene.judge(&dead).await;

    let lost_leases = scene.fleet.said("registering anew");
    let (p50, p99) = (quantile(&mut v.recoveries, 0.5), quantile(&mut v.recoveries, 0.99));
    eprintln!(
        "kills: {jobs} jobs, {kills} SIGKILLs in {killing:.1?}: {} accepted, {} crash loops, {} extra runs (bound {}), \
         {} cut short, again after {p50:.2?} (median), {p99:.2?} (p99), {:.2?} (worst); {lost_leases} leases lost \
         alive",
        v.completed,
        v.crash_loops.len(),
        v.extra_runs,
        kills * SLOTS,
        v.recoveries.len(),
        quantile(&mut v.recoveries, 1.0),
    );
    assert_eq!((v.completed, v.crash_loops.len()), (jobs, 0));
    assert!(v.extra_runs <= (kills + lost_leases) * SLOTS);
    assert!(p99 <= AGAIN, "{p99:?}");
}

/// One kill at a time, so that what is measured is one recovery. Fifteen in CI, 75 in a soak.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_held_runs_again_within_the_lease_a_sweep_and_two_seconds() {
    let mut scene = Scene::new(&["--lease", "3s", "--concurrency", "10"]).await;
    let kills = count(15);
    let mut workers = vec![scene.fleet.start(), scene.fleet.start()];
    let mut dead = HashMap::new();
    for _ in 0..kills {
        scene.enqueue(40, |chance| 300 + chance.below(500)).await;
        let victim = workers.swap_remove(scene.chance.below(2));
        until("it runs jobs", || async { scene.ledger.open_runs(victim.number).await.len() >= 5 }).await;
        tokio::time::sleep(scene.chance.millis(300)).await;
        dead.insert(victim.number, victim.kill());
        workers.push(scene.fleet.start());
        drained(&scene.db).await;
    }
    let mut v = scene.judge(&dead).await;
    let (p50, p99) = (quantile(&mut v.recoveries, 0.5), quantile(&mut v.recoveries, 0.99));
    eprintln!(
        "recovery: {kills} SIGKILLs, one at a time: {} of {} accepted, {} cut short, again after {p50:.2?} (median), \
         {p99:.2?} (p99), {:.2?} (worst)",
        v.completed,
        scene.jobs.len(),
        v.recoveries.len(),
        quantile(&mut v.recoveries, 1.0),
    );
    assert_eq!(v.completed, scene.jobs.len());
    assert!(v.recoveries.len() > kills && p99 <= AGAIN, "{p99:?}");
}
