//! SIGTERM under load, a hundred times: no attempt is counted, every exit is inside the grace, no child stays.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rowlock::{JobQueue, Status};
use serde_json::json;

use crate::{
    fleet::{Fleet, Worker, count, processes, quantile, turn, until},
    ledger,
    scene::Scene,
    support::{Db, database},
    work::{put_type, shell},
};

const WORKERS: usize = 5;
const GRACE: Duration = Duration::from_secs(4);
/// For what has left its group: the guardian ends it after its worker.
const CHILDREN: Duration = Duration::from_secs(1);

/// Asks a worker to end, with more haste if so wished. Answers how long it took, and then its last child.
async fn end(mut worker: Worker, at: Duration, hurry: bool) -> (Duration, Duration) {
    tokio::time::sleep(at).await;
    let asked = Instant::now();
    worker.signal("TERM");
    if hurry {
        until("a part of the grace is over", || async { asked.elapsed() > GRACE / 4 }).await;
        if worker.ended().is_none() {
            worker.signal("TERM");
        }
    }
    let mut status = None;
    until("the worker ends", || {
        status = worker.ended();
        std::future::ready(status.is_some())
    })
    .await;
    let took = asked.elapsed();
    assert!(status.unwrap().success(), "{status:?}");
    let mark = format!("CHAOS_WORKER={}", worker.number);
    until("its children have ended", || async { processes(&mark).is_empty() }).await;
    (took, asked.elapsed() - took)
}

/// Jobs that no worker ever ends: of half of them a child is in a session of its own, and half hear no SIGTERM.
async fn endless(db: &Db, q: &JobQueue) -> Vec<uuid::Uuid> {
    let scripts = ["sleep 100000 & setsid sleep 100000 & wait", "trap '' TERM; while :; do sleep 1; done"];
    let mut jobs = Vec::new();
    for (n, script) in scripts.iter().enumerate() {
        let name = format!("endless-{n}");
        put_type(db, json!({"name": name, "command": shell(script)})).await;
        for _ in 0..WORKERS {
            jobs.push(q.enqueue(&*name, json!({})).priority(9).await.unwrap().id);
        }
    }
    jobs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_asked_to_end_under_load_ends_inside_the_grace_and_consumes_no_attempt() {
    let args = ["--lease", "5s", "--concurrency", "4", "--poll", "100ms", "--grace", "4s"];
    let mut scene = Scene::new(&args).await;
    let terms = count(100);
    let endless = endless(&scene.db, &scene.q).await;
    let chance = &mut scene.chance;
    let plan =
        (0..terms).map(|_| (chance.millis(200), chance.below(2) == 0, 10 + chance.below(190))).collect::<Vec<_>>();
    // Each ends, and starts, beside the others.
    let lanes = plan.chunks(terms.div_ceil(WORKERS)).map(async |lane| {
        let (mut exits, mut ids) = (Vec::new(), HashSet::new());
        for (at, hurry, ms) in lane {
            ids.extend(ledger::enqueue(&scene.q, 20, |_| *ms).await);
            let worker = scene.fleet.start();
            let mark = format!("CHAOS_WORKER={}", worker.number);
            until("it has processes", || async { !processes(&mark).is_empty() }).await;
            exits.push(end(worker, *at, *hurry).await);
        }
        (exits, ids)
    });
    let (exits, ids): (Vec<_>, Vec<_>) = join_all(lanes).await.into_iter().unzip();
    let (mut exits, mut orphans): (Vec<_>, Vec<_>) = exits.into_iter().flatten().unzip();
    scene.jobs = ids.into_iter().flatten().collect();
    let db = &scene.db;
    let sql = "SELECT count(*) FROM rowlock.ready WHERE attempts > 0 OR lost_by IS NOT NULL";
    let (counted, workers): (i64, i64) =
        (db.one(sql, &[]).await, db.one("SELECT count(*) FROM rowlock.worker", &[]).await);
    for id in endless {
        assert_eq!(scene.q.cancel(id).await.unwrap(), Status::Cancelled, "it was handed back");
    }
    db.run(
        "DELETE FROM rowlock.history WHERE type LIKE 'endless%'; DELETE FROM rowlock.tally WHERE type LIKE 'endless%'",
    )
    .await;
    db.run("DELETE FROM rowlock.total WHERE type LIKE 'endless%'").await;
    let _last = scene.fleet.start();
    let v = scene.judge(&HashMap::new()).await;
    let (worst, orphan) = (quantile(&mut exits, 1.0), quantile(&mut orphans, 1.0));
    eprintln!(
        "terms: {} SIGTERMs with a grace of {GRACE:?}: exits after {:.2?} (median), {worst:.2?} (worst), the last \
         child \
         {orphan:.2?} later at most; {counted} attempts consumed of jobs handed back, {} extra runs of the others, {} \
         of {} \
         accepted",
        exits.len(),
        quantile(&mut exits, 0.5),
        v.extra_runs,
        v.completed,
        scene.jobs.len(),
    );
    assert_eq!((counted, workers, v.extra_runs, v.completed), (0, 0, 0, scene.jobs.len()));
    assert!(worst <= GRACE && orphan <= CHILDREN, "{worst:?}, {orphan:?}");
}

/// A job that is killed at the last moment, and a handler that does not mind that its stdin is closed: together
/// they once took longer than a short grace.
#[tokio::test]
async fn a_deaf_handler_beside_a_deaf_job_does_not_hold_up_the_end() {
    let _turn = turn().await;
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let handler = r#"read -r line; echo '{"ok": true}'; while :; do sleep 1; done"#;
    put_type(&db, json!({"name": "warm", "launch": "resident", "command": shell(handler)})).await;
    let dir = tempfile::tempdir().unwrap();
    let deaf = dir.path().join("deaf");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1; done", deaf.display());
    put_type(&db, json!({"name": "deaf", "command": shell(&script)})).await;
    let first = q.enqueue("warm", json!({})).await.unwrap().id;
    let fleet = Fleet::new(&db.url, &["--concurrency", "2", "--grace", "4s", "--poll", "100ms"]);
    let worker = fleet.start();
    until("the handler is warm", || async { db.status(first).await.as_deref() == Some("completed") }).await;
    q.enqueue("deaf", json!({})).await.unwrap();
    until("the job is deaf", || std::future::ready(deaf.exists())).await;
    let (took, _) = end(worker, Duration::ZERO, false).await;
    eprintln!("terms: with a deaf handler and a deaf job the end takes {took:.2?} of {GRACE:?}");
    assert!(took <= GRACE, "{took:?}");
}
