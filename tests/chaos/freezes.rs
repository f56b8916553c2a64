//! Workers frozen for twice their lease: whatever they or their jobs say afterwards is refused.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    fleet::{count, now, until},
    judge,
    ledger::{Ledger, Run},
    scene::Scene,
    support::Db,
};

const LEASE: Duration = Duration::from_secs(1);
const WORKERS: usize = 8;
/// At once; the others go on.
const FROZEN: usize = 5;

/// From when on a frozen worker's words come too late, and until when it was frozen.
struct Freeze {
    worker: u32,
    over: u64,
    end: u64,
    /// What it ran when it was frozen, and had not ended.
    held: Vec<Run>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_late_word_of_a_frozen_worker_is_refused() {
    let mut scene = Scene::new(&["--lease", "1s", "--concurrency", "2", "--poll", "100ms"]).await;
    let freezes = count(100);
    let workers: Vec<_> = (0..WORKERS).map(|_| scene.fleet.start()).collect();
    let mut frozen: Vec<Freeze> = Vec::new();
    let mut late = Late::default();
    while frozen.len() < freezes {
        // Some end in the freeze, and their word waits in a pipe; some would not, and end with the lease.
        scene.enqueue(150, |chance| 20 + chance.below(300)).await;
        let busy = || async {
            let busy = scene.ledger.busy().await;
            workers.iter().all(|w| busy.contains(&w.number))
        };
        until("all run jobs, those that were frozen as others", busy).await;
        let first = scene.chance.below(WORKERS);
        let mut now_frozen = Vec::new();
        for n in 0..FROZEN.min(freezes - frozen.len()) {
            let worker = &workers[(first + n) % WORKERS];
            worker.signal("STOP");
            let over = now() + u64::try_from(LEASE.as_nanos()).unwrap();
            let held = scene.ledger.open_runs(worker.number).await;
            now_frozen.push(Freeze { worker: worker.number, over, end: 0, held });
            tokio::time::sleep(scene.chance.millis(50)).await;
        }
        let all_over = now_frozen.iter().map(|f| f.over).max().unwrap();
        until("the leases are over", || async { now() > all_over }).await;
        for freeze in &now_frozen {
            late.speak(&scene.db, &freeze.held).await;
        }
        until("twice the lease is over", || async { now() > all_over + u64::try_from(LEASE.as_nanos()).unwrap() })
            .await;
        for mut freeze in now_frozen {
            freeze.end = now();
            workers.iter().find(|w| w.number == freeze.worker).unwrap().signal("CONT");
            frozen.push(freeze);
        }
    }
    let n = frozen.len();
    let v = scene.judge(&HashMap::new()).await;
    let accepted_late = accepted_late(&scene.db, &scene.ledger, &frozen).await;
    eprintln!(
        "freezes: {n} of {LEASE:?} leases for twice as long: {} of {} accepted, {} extra runs, {} late words said for \
         them, {} accepted; of their own accepted late: {accepted_late}; the workers say {} times that they registered \
         anew, {} times that a completion was refused",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        late.said,
        late.accepted,
        scene.fleet.said("registering anew"),
        scene.fleet.said("its completion was refused"),
    );
    assert_eq!((n, v.completed), (freezes, scene.jobs.len()));
    assert_eq!((late.accepted, accepted_late), (0, 0));
    assert!(late.said >= freezes, "{}", late.said);
}

/// The words of a worker that is frozen, said by others with its lease: what it might say when it thaws.
#[derive(Default)]
struct Late {
    said: usize,
    accepted: usize,
}

impl Late {
    async fn speak(&mut self, db: &Db, held: &[Run]) {
        for run in held {
            let worker = run.worker_id();
            let receipt: i64 = run.lease.split('/').nth(1).unwrap().parse().unwrap();
            let of = "$1, ARRAY[$2::int8], ARRAY[$3::uuid]";
            let refused: [(&str, String); 5] = [
                ("complete", format!("SELECT count(*) = 1 FROM rowlock.complete_v1({of})")),
                ("release", format!("SELECT count(*) = 1 FROM rowlock.release_v1({of})")),
                ("fail", format!("SELECT bool_and(status = 'lease lost') FROM rowlock.fail_v1({of}, ARRAY['late'])")),
                ("progress", "SELECT NOT rowlock.progress_v1($1, $2, $3, '1')".to_owned()),
                ("claim", "SELECT count(*) = 0 FROM rowlock.claim_v1($1, ARRAY[$2::text, $3::text], 1)".to_owned()),
            ];
            for (word, sql) in refused {
                self.said += 1;
                let answer = if word == "claim" {
                    db.client.query_one(&sql, &[&worker, &"default", &"other"]).await
                } else {
                    db.client.query_one(&sql, &[&worker, &receipt, &run.job]).await
                };
                let refused = match answer {
                    Ok(row) => row.get::<_, bool>(0),
                    Err(e) => e.code().is_some_and(|c| c.code() == "RL020"),
                };
                self.accepted += usize::from(!refused);
            }
            let extend = db.client.query("SELECT rowlock.extend_v1($1)", &[&worker]).await;
            self.said += 1;
            self.accepted += usize::from(!extend.is_err_and(|e| e.code().is_some_and(|c| c.code() == "RL020")));
        }
    }
}

/// Ends that the queue accepted of a worker that was frozen, after its lease was over.
async fn accepted_late(db: &Db, ledger: &Ledger, frozen: &[Freeze]) -> usize {
    let ends = judge::ends(db).await;
    let mut before: HashMap<u32, HashSet<Uuid>> = HashMap::new();
    let runs = ledger.runs().await;
    let mut late = 0;
    for freeze in frozen {
        // Ids it had before it froze: afterwards it has another.
        let ids = before.entry(freeze.worker).or_default();
        ids.extend(runs.iter().filter(|r| r.worker == freeze.worker && r.begin < freeze.over).map(Run::worker_id));
        let of_it = ends.values().filter(|e| {
            let id = e.lease.as_ref().map(|l| l.split('/').next().unwrap().parse::<Uuid>().unwrap());
            id.is_some_and(|id| ids.contains(&id)) && e.at > freeze.over
        });
        late += of_it.count();
    }
    assert!(frozen.iter().all(|f| f.end > f.over));
    late
}
