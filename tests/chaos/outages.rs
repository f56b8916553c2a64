//! The database is away for a minute under long jobs: none is stopped, none begins anew. A worker that alone is cut off
//! ends its jobs before another begins them. (CI sees a shorter minute and a shorter lease.)

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rowlock::JobQueue;
use serde_json::json;

use crate::{
    fleet::{Fleet, count_of, soak, turn, until},
    ledger::{self, drained},
    promotions::Pair,
    proxy::Proxy,
    scene::Scene,
    server::Server,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    Stopped,
    Crashed,
    /// The standby comes in the place of the primary.
    Promoted,
}

/// Long jobs on a few workers, and a database that goes away under them.
async fn outlive(outage: Outage) {
    let turn = turn().await;
    // The defaults, untouched; or all of it ten times as fast.
    let (args, away, shortest): (&[&str], _, _) = if soak() {
        (&["--concurrency", "25"], Duration::from_secs(60), 20_000)
    } else {
        (&["--concurrency", "25", "--lease", "3s"], Duration::from_secs(6), 3000)
    };
    let mut server = Server::start().await;
    let db = server.db().await;
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    let mut scene = Scene::on(turn, db, args).await;
    let mut standby = None;
    if outage == Outage::Promoted {
        let pair = Pair::of(server, None).await;
        scene.fleet.set_urls(vec![pair.url(false)]);
        (server, standby) = (pair.primary, Some(pair.standby));
    }
    let jobs = count_of(20, 100);
    let mut workers: Vec<_> = (0..4).map(|_| scene.fleet.start()).collect();
    scene.enqueue(jobs, |chance| shortest + chance.below(5 * shortest)).await;
    let begun = || async { scene.ledger.runs().await.len() == jobs };
    until("all jobs run", begun).await;
    let started = Instant::now();
    match outage {
        Outage::Stopped => server.die().await,
        Outage::Crashed | Outage::Promoted => server.be_killed().await,
    }
    tokio::time::sleep(away).await;
    if let Some(standby) = standby.take() {
        standby.promote().await;
        server = standby;
    } else {
        server.up().await;
    }
    let away = started.elapsed();
    scene.db = server.db().await;
    let v = scene.judge(&HashMap::new()).await;
    eprintln!(
        "outages: {outage:?}, away for {away:.1?}: {} of {jobs} jobs accepted, {} begun anew; {} leases lost alive",
        v.completed,
        v.extra_runs,
        scene.fleet.said("registering anew"),
    );
    let ended = workers.iter_mut().find_map(|w| w.ended());
    assert!(ended.is_none(), "{ended:?}: a worker ended: {}", scene.fleet.last_error());
    assert_eq!((v.completed, v.extra_runs), (jobs, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_stopped_for_a_minute_stops_no_job() {
    outlive(Outage::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_crashed_and_is_away_for_a_minute_stops_no_job() {
    outlive(Outage::Crashed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_after_a_minute_stops_no_job() {
    outlive(Outage::Promoted).await;
}

/// When a run was last seen alive: see `handler.py`.
fn last_tick(dir: &Path, lease: &str, job: uuid::Uuid) -> u64 {
    let file = dir.join(format!("{}-{job}", lease.replace('/', "-")));
    let at = std::fs::metadata(&file).and_then(|m| m.modified()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    u64::try_from(at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_alone_is_cut_off_ends_its_jobs_before_another_begins_them() {
    let mut scene = Scene::new(&[]).await;
    let tries = count_of(4, 50);
    let ticks = tempfile::tempdir().unwrap();
    scene.fleet = Fleet::new(&scene.db.url, &["--lease", "2s", "--concurrency", "4", "--poll", "100ms"])
        .with("CHAOS_TICKS", ticks.path().to_str().unwrap());
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(Proxy::to(&scene.db.url).await);
    }
    scene.fleet.set_urls(proxies.iter().map(|p| p.url(&scene.db.url)).collect());
    let workers: Vec<_> = (0..3).map(|_| scene.fleet.start()).collect();
    let mut again = 0;
    for n in 0..tries {
        // They outlive the lease of whoever is cut off.
        scene.jobs.extend(ledger::enqueue_like(&scene.q, 9, |_| json!({"ms": 3500})).await);
        until("all work", || async { scene.ledger.busy().await.len() == 3 }).await;
        tokio::time::sleep(scene.chance.millis(500)).await;
        let victim = &workers[scene.chance.below(3)];
        let proxy = &proxies[usize::try_from(victim.number).unwrap() % 3];
        let held = scene.ledger.open_runs(victim.number).await;
        proxy.freeze(true);
        if n % 2 == 1 {
            proxy.cut_all();
        }
        drained(&scene.db).await;
        proxy.freeze(false);
        again += held.len();
    }
    let v = scene.judge(&HashMap::new()).await;
    let runs = scene.ledger.runs().await;
    let mut margins = Vec::new();
    for job in &scene.jobs {
        let of: Vec<_> = runs.iter().filter(|r| r.job == *job).collect();
        for pair in of.windows(2) {
            let last = last_tick(ticks.path(), &pair[0].lease, *job);
            assert!(last < pair[1].begin, "{job} was alive when it began again: {pair:?}");
            margins.push(Duration::from_nanos(pair[1].begin - last));
        }
    }
    eprintln!(
        "outages: {tries} workers cut off alone, {again} jobs under them: {} of {} accepted, {} begun anew, at least \
         {:.2?} \
         after their last sign of life",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        margins.iter().min().copied().unwrap_or_default(),
    );
    assert_eq!(v.completed, scene.jobs.len());
    assert!(v.extra_runs >= tries, "{}", v.extra_runs);
}
