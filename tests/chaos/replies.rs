//! The server has done what a worker asked, and the answer is lost, again and again: no job stays with a worker that
//! does not know of it, nothing is lost, nothing is accepted twice. Half of the workers are behind PgBouncer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rowlock::JobQueue;

use crate::{
    fleet::{Chance, Fleet, Worker, count, until},
    hand::{self, Hands},
    judge::{idle_holds, story},
    ledger::drained,
    pooler::Pooler,
    proxy::{Cut, Proxy},
    scene::Scene,
    support::Db,
    wire::Call,
};

const WORKERS: usize = 4;
const HANDS: usize = 24;
/// The bar: a lease and two seconds. For as long may a job be in a receipt while nobody runs it.
const BAR: Duration = Duration::from_secs(3 + 2);
/// A storm that lasts longer stands still.
const LIMIT: Duration = Duration::from_secs(900);

/// What a worker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Claim,
    Complete,
    Fail,
    Release,
    Heartbeat,
}

const KINDS: [Kind; 5] = [Kind::Claim, Kind::Complete, Kind::Fail, Kind::Release, Kind::Heartbeat];

/// What a call asks for. Only its answer tells whether it claimed something.
fn kinds(call: &Call) -> impl Iterator<Item = Kind> {
    let calls = |name: &str| call.text.contains(name);
    let answer = call.answer.clone().unwrap_or_default();
    let found = KINDS.map(|kind| match kind {
        // The first column is a refused completion's, else null.
        Kind::Claim => calls("work_v1(") && answer.rows.iter().any(Option::is_none),
        Kind::Complete => calls("work_v1(") && call.elements(2) > 0,
        Kind::Fail => calls("fail_v1("),
        Kind::Release => calls("release_v"),
        Kind::Heartbeat => calls("extend_v1("),
    });
    KINDS.into_iter().zip(found).filter_map(|(kind, is)| is.then_some(kind))
}

/// Cuts calls of each kind until there were enough.
#[derive(Debug)]
pub struct Storm {
    wanted: usize,
    chance: Chance,
    /// Lost answers, by kind.
    lost: BTreeMap<Kind, usize>,
    /// Of those, on a connection that stayed open.
    silent: usize,
    /// Calls that the server never saw.
    unsent: usize,
}

impl Storm {
    /// Over a wire, until so many answers of each kind are lost.
    pub fn over(proxy: &Proxy, wanted: usize) -> Arc<Mutex<Storm>> {
        let storm = Storm { wanted, chance: Chance::new(), lost: BTreeMap::new(), silent: 0, unsent: 0 };
        let storm = Arc::new(Mutex::new(storm));
        let rule = storm.clone();
        proxy.cut_by(move |call| rule.lock().unwrap().choose(call));
        storm
    }

    pub fn is_over(&self) -> bool {
        KINDS.iter().all(|kind| self.lost.get(kind).is_some_and(|n| *n >= self.wanted))
    }

    fn choose(&mut self, call: &Call) -> Option<Cut> {
        let wanted: Vec<Kind> = kinds(call).filter(|k| self.lost.get(k).is_none_or(|n| *n < self.wanted)).collect();
        match &call.answer {
            None if !wanted.is_empty() && self.chance.below(20) == 0 => {
                self.unsent += 1;
                Some(Cut::Unsent)
            }
            None => None,
            Some(answer) => {
                // There are few heartbeats and releases.
                let rare = wanted.iter().any(|kind| matches!(kind, Kind::Heartbeat | Kind::Release));
                if wanted.is_empty() || answer.refused || self.chance.below(if rare { 3 } else { 4 }) > 0 {
                    return None;
                }
                for kind in wanted {
                    *self.lost.entry(kind).or_default() += 1;
                }
                let silent = self.chance.below(8) == 0;
                self.silent += usize::from(silent);
                Some(if silent { Cut::Silent } else { Cut::Answered })
            }
        }
    }
}

/// Two ways to a database, each with its storm: straight, and through PgBouncer.
pub struct Ways {
    pub urls: Vec<String>,
    pub storms: Vec<Arc<Mutex<Storm>>>,
    proxies: Vec<Proxy>,
    _pooler: Pooler,
}

impl Ways {
    /// So many answers of each kind are lost in all.
    pub async fn to(db: &Db, wanted: usize) -> Ways {
        let pooler = Pooler::start(&db.url);
        let pooled = pooler.url(&db.url);
        until("PgBouncer answers", || async { JobQueue::connect(&pooled).await.is_ok() }).await;
        let (mut urls, mut storms, mut proxies) = (Vec::new(), Vec::new(), Vec::new());
        for url in [&db.url, &pooled] {
            let proxy = Proxy::to(url).await;
            urls.push(proxy.url(url));
            storms.push(Storm::over(&proxy, wanted.div_ceil(2)));
            proxies.push(proxy);
        }
        Ways { urls, storms, proxies, _pooler: pooler }
    }

    pub fn are_calm(&self) -> bool {
        self.storms.iter().all(|storm| storm.lock().unwrap().is_over())
    }

    /// No more cuts. Answers how many there were.
    pub fn calm(&self) -> String {
        self.proxies.iter().for_each(Proxy::spare);
        let storms: Vec<_> = self.storms.iter().map(|storm| storm.lock().unwrap()).collect();
        let lost: Vec<_> = storms.iter().map(|s| &s.lost).collect();
        let (silent, unsent): (usize, usize) =
            (storms.iter().map(|s| s.silent).sum(), storms.iter().map(|s| s.unsent).sum());
        format!(
            "answers lost straight and behind PgBouncer {lost:?}, {silent} of them in silence; {unsent} calls unsent"
        )
    }
}

/// Asks a worker to end now and then, so that jobs are handed back, and starts another, until the storm is over.
async fn drain_in_turn(scene: &mut Scene, ways: &Ways) -> Vec<Worker> {
    let mut workers: VecDeque<Worker> = (0..WORKERS).map(|_| scene.fleet.start()).collect();
    let mut leaving: Vec<Worker> = Vec::new();
    let started = Instant::now();
    while !ways.are_calm() {
        assert!(started.elapsed() < LIMIT, "the storm does not end: {:?}", ways.storms);
        let waiting: i64 = scene.db.one("SELECT count(*) FROM rowlock.ready", &[]).await;
        if waiting < 100 {
            scene.enqueue_mixed(200, 800).await;
        }
        tokio::time::sleep(scene.chance.millis(1000)).await;
        let worker = workers.pop_front().unwrap();
        worker.signal("TERM");
        leaving.push(worker);
        workers.push_back(scene.fleet.start());
        leaving.retain_mut(|worker| worker.ended().is_none());
    }
    workers.extend(leaving);
    workers.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bar of time: make soak, on a machine with nothing else to do"]
async fn jobs_worked_by_hand_are_with_nobody_no_longer_when_answers_are_lost() {
    let mut scene = Scene::new(&[]).await;
    let ways = Ways::to(&scene.db, count(100)).await;
    let mut queues = Vec::new();
    for n in 0..HANDS {
        // The storm may hit the connection that says whether the database answers.
        let connect = || JobQueue::connect_to(&ways.urls[n % 2], &["default"], 2);
        let q = loop {
            if let Ok(q) = connect().await {
                break q;
            }
        };
        queues.push(q);
    }
    let started = Instant::now();
    let mut hands = Hands::start(queues, &scene.db, &scene.ledger).await;
    while !ways.are_calm() {
        assert!(started.elapsed() < LIMIT, "the storm does not end: {:?}", ways.storms);
        let waiting: i64 = scene.db.one("SELECT count(*) FROM rowlock.ready", &[]).await;
        if waiting < 100 {
            scene.enqueue_mixed(200, 100).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        hands.look();
    }
    let (took, cuts) = (started.elapsed(), ways.calm());
    drained(&scene.db).await;
    let refused = hands.stop().await;
    eprintln!("replies by hand: in {took:.1?} {cuts}; {refused} words refused");
    judge(&scene, hand::LEASE + Duration::from_secs(2)).await;
    assert_eq!(refused, 0);
}

/// Nothing is lost, and nobody holds a job for longer than the bar without running it.
async fn judge(scene: &Scene, bar: Duration) {
    let v = scene.judge(&HashMap::new()).await;
    let mut holds = idle_holds(&scene.db, &scene.ledger).await;
    holds.sort_by_key(|hold| std::cmp::Reverse(hold.lasted));
    let over = holds.iter().filter(|hold| hold.lasted > bar).count();
    eprintln!(
        "replies: {} of {} jobs accepted, {} extra runs, {} crash loops; held and not run for {:.2?} (median), {:.2?} \
         (worst), {over} for longer than {bar:?}",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        v.crash_loops.len(),
        holds[holds.len() / 2].lasted,
        holds[0].lasted,
    );
    for job in holds[..over].iter().map(|hold| hold.job).take(3).chain(v.crash_loops.first().copied()) {
        eprintln!("{}", story(&scene.db, &scene.ledger, job).await);
    }
    assert_eq!((v.completed, over), (scene.jobs.len(), 0));
}

/// Workers of a program through the storm. So it ends: nothing is lost, and nobody holds a job for long.
async fn weather_it(program: &str, with: impl FnOnce(Fleet) -> Fleet) {
    let mut scene = Scene::new(&["--lease", "3s", "--concurrency", "3", "--poll", "100ms", "--grace", "400ms"]).await;
    scene.fleet = with(scene.fleet);
    let ways = Ways::to(&scene.db, count(100)).await;
    scene.fleet.set_urls(ways.urls.clone());
    let started = Instant::now();
    let _workers = drain_in_turn(&mut scene, &ways).await;
    let (took, cuts) = (started.elapsed(), ways.calm());
    eprintln!("replies to {program}: in {took:.1?} {cuts}");
    judge(&scene, BAR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bar of time: make soak, on a machine with nothing else to do"]
async fn a_worker_whose_answers_are_lost_leaves_no_job_with_nobody() {
    weather_it("rowlock worker", |fleet| fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bar of time: make soak, on a machine with nothing else to do"]
async fn a_worker_inside_a_program_whose_answers_are_lost_leaves_no_job_with_nobody() {
    weather_it("a worker inside a program", Fleet::in_process).await;
}
