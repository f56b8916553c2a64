//! Jobs that kill their worker, beside jobs that do not: these complete, and those fail, with that reason.

use std::collections::HashMap;

use serde_json::json;

use crate::{
    fleet::count,
    ledger::drained,
    scene::Scene,
    work::{put_type, shell},
};

const WORKERS: usize = 3;
const POISON: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_beside_those_that_kill_their_worker_complete() {
    let mut scene = Scene::new(&["--lease", "2s", "--concurrency", "8", "--poll", "100ms"]).await;
    let jobs = count(200);
    let poison = json!({"name": "poison", "command": shell("sleep 0.2; kill -9 $PPID"), "max_retries": 3});
    put_type(&scene.db, poison).await;
    scene.enqueue(jobs, |chance| 20 + chance.below(400)).await;
    for _ in 0..POISON {
        scene.q.enqueue("poison", json!({})).priority(9).await.unwrap();
    }
    let mut workers: Vec<_> = (0..WORKERS).map(|_| scene.fleet.start()).collect();
    let mut deaths = 0;
    // Somebody starts a dead worker again, as a kubelet or systemd does.
    let restart = async {
        loop {
            for worker in &mut workers {
                if worker.ended().is_some() {
                    deaths += 1;
                    *worker = scene.fleet.start();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = drained(&scene.db) => {}
        () = restart => {}
    }
    let sql =
        "SELECT count(*) FROM rowlock.history WHERE type = 'poison' AND status = 'failed' AND reason = 'crash_loop'";
    let failed: i64 = scene.db.one(sql, &[]).await;
    for table in ["history", "tally", "total"] {
        scene.db.run(&format!("DELETE FROM rowlock.{table} WHERE type = 'poison'")).await;
    }
    let v = scene.judge(&HashMap::new()).await;
    eprintln!(
        "poison: {POISON} jobs killed their workers {deaths} times and {failed} failed for it; {} of {jobs} others \
         accepted, {} \
         failed for it, {} extra runs",
        v.completed,
        v.crash_loops.len(),
        v.extra_runs
    );
    assert_eq!((v.completed, v.crash_loops.len(), failed), (jobs, 0, i64::try_from(POISON).unwrap()));
}
