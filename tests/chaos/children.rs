//! Workers killed while their jobs have children and grandchildren: none is alive a second later.

use std::time::{Duration, Instant};

use rowlock::JobQueue;
use serde_json::json;

use crate::{
    fleet::{Chance, Fleet, count, processes, quantile, turn, until},
    support::database,
    work::{put_type, shell},
};

const GONE: Duration = Duration::from_secs(1);
/// A child, one that does not hear SIGTERM, one in a session of its own, and an orphan of a process that is gone.
const FAMILY: &str = "sleep 100000 & (trap '' TERM; sleep 100000) & setsid sleep 100000 & \
                      sh -c 'setsid sh -c \"sleep 100000; true\" & true'; wait";
const SLEEPERS: usize = 4;
const SLOTS: usize = 3;

/// How many of a worker's processes sleep: all that a job starts has begun.
fn asleep(mark: &str) -> usize {
    let comm = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    processes(mark).iter().filter(|pid| comm(pid).trim_end() == "sleep").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_killed_worker_started_is_alive_after_a_second() {
    let _turn = turn().await;
    let kills = count(20);
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let mut chance = Chance::new();
    put_type(&db, json!({"command": shell(FAMILY)})).await;
    let fleet = Fleet::new(&db.url, &["--concurrency", &SLOTS.to_string()]);
    let (mut times, mut most) = (Vec::new(), 0);
    for n in 0..kills {
        for _ in 0..SLOTS {
            q.enqueue("t", json!({})).await.unwrap();
        }
        let worker = fleet.start();
        let mark = format!("CHAOS_WORKER={}", worker.number);
        // Every second one at a moment when its jobs still start.
        let wanted = if n % 2 == 0 { SLOTS * SLEEPERS } else { 1 + chance.below(SLOTS * SLEEPERS) };
        until("the families are there", || async { asleep(&mark) >= wanted }).await;
        most = most.max(processes(&mark).len());
        worker.kill();
        let killed = Instant::now();
        until("all are gone", || async { processes(&mark).is_empty() }).await;
        times.push(killed.elapsed());
    }
    let worst = quantile(&mut times, 1.0);
    eprintln!(
        "children: {kills} workers killed with up to {most} processes: all gone after {:.2?} (median), \
         {worst:.2?} (worst)",
        quantile(&mut times, 0.5)
    );
    assert!(most > SLOTS * SLEEPERS && worst < GONE, "{most}, {worst:?}");
}
