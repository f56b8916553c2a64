//! Futures of every call of `JobQueue` are dropped at a random await while answers are lost at random: every job
//! reaches its end all the same, and none stays with a program that does not know of it.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use rowlock::{Error, Handler, Job, JobQueue, TypedJob};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    fleet::{Chance, count_of},
    hand::{self, Hands, receipt, until_answered},
    judge::{idle_holds, story},
    ledger::{Ledger, drained},
    proxy::{Cut, Proxy},
    scene::Scene,
    support::{Db, connect},
};

const QUEUES: usize = 4;
const TASKS: usize = 16;
const LIMIT: Duration = Duration::from_secs(1200);

const WAITING: &str = "SELECT (SELECT count(*) FROM rowlock.ready) + (SELECT count(*) FROM rowlock.scheduled)";

/// The calls whose futures are dropped.
const CALLS: [&str; 7] = ["dequeue", "complete", "complete_with", "fail", "retry", "execute_job", "enqueue"];

/// How many futures of each call were dropped before they were ready.
#[derive(Default)]
struct Dropped(Mutex<BTreeMap<&'static str, usize>>);

impl Dropped {
    /// Waits for a future for so many polls or so long, and drops it.
    async fn at_random<T>(
        &self,
        call: &'static str,
        chance: &mut Chance,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let (mut polls, time) = if chance.below(2) == 0 {
            (1 + chance.below(4), Duration::from_secs(1))
        } else {
            // From a microsecond to a tenth of a second, short ones as often as long ones.
            (usize::MAX, Duration::from_micros(1 << chance.below(18)))
        };
        let mut future = pin!(future);
        let polled = poll_fn(|cx| match polls {
            0 => Poll::Ready(None),
            _ => {
                polls -= 1;
                future.as_mut().poll(cx).map(Some)
            }
        });
        let done = timeout(time, polled).await.ok().flatten();
        if done.is_none() {
            *self.0.lock().unwrap().entry(call).or_default() += 1;
        }
        done
    }

    fn least(&self) -> usize {
        let counts = self.0.lock().unwrap();
        CALLS.iter().map(|call| counts.get(call).copied().unwrap_or(0)).min().unwrap()
    }
}

/// A job in Rust that does what `handler.py` does.
#[derive(Serialize, Deserialize)]
struct Noted {
    ms: u64,
    again: i16,
}

/// Where it notes: the queue's database and the ledger. The tests take turns, so there is one.
static NOTES: OnceLock<(Db, Ledger)> = OnceLock::new();

impl TypedJob for Noted {
    const NAME: &'static str = "t";
    type Output = String;
    type Error = String;

    async fn run(self, job: &Job) -> Result<String, String> {
        let (db, ledger) = NOTES.get().unwrap();
        let receipt = receipt(db, job.id).await;
        ledger.note("begin", job.id, &receipt).await;
        tokio::time::sleep(Duration::from_millis(self.ms)).await;
        let fails = job.attempts < self.again;
        ledger.note(if fails { "again" } else { "end" }, job.id, &receipt).await;
        if fails { Err("again".into()) } else { Ok(receipt) }
    }
}

/// What the hands share.
struct Storm {
    dropped: Dropped,
    over: AtomicBool,
    /// There are few jobs to work.
    hungry: AtomicBool,
    /// Words said again that were refused, by call.
    refused: Mutex<BTreeMap<&'static str, usize>>,
    /// Enqueues that were answered, and all.
    told: Mutex<Vec<uuid::Uuid>>,
    asked: AtomicUsize,
    handler: Handler,
}

/// One that loses patience with all it asks for.
struct Hasty {
    q: JobQueue,
    chance: Chance,
    storm: Arc<Storm>,
}

impl Hasty {
    async fn work(mut self) {
        while !self.storm.over.load(Ordering::SeqCst) {
            if self.storm.hungry.load(Ordering::SeqCst) {
                self.enqueue().await;
            }
            let asked = self.q.clone();
            match self.storm.dropped.at_random("dequeue", &mut self.chance, asked.dequeue()).await {
                Some(Ok(Some(job))) => self.end(job).await,
                Some(Err(error)) => assert!(error.is_transient(), "dequeue: {error:?}"),
                Some(Ok(None)) | None => {}
            }
        }
    }

    async fn enqueue(&mut self) {
        let payload = json!({"ms": 0, "again": self.chance.below(4)});
        let asked = self.q.enqueue("t", payload).into_future();
        self.storm.asked.fetch_add(1, Ordering::SeqCst);
        match self.storm.dropped.at_random("enqueue", &mut self.chance, asked).await {
            Some(Ok(enqueued)) => self.storm.told.lock().unwrap().push(enqueued.id),
            Some(Err(error)) => assert!(error.is_transient(), "enqueue: {error:?}"),
            None => {}
        }
    }

    /// Ends a job by one of the calls. One that was dropped is said again, or never.
    async fn end(&mut self, job: Job) {
        let (q, storm) = (self.q.clone(), self.storm.clone());
        let fails = job.attempts < hand::Wish::of(&job).again;
        if self.chance.below(3) == 0 {
            // Said again, it would run again.
            let run = q.execute_job(&storm.handler, job);
            if let Some(Err(error)) = storm.dropped.at_random("execute_job", &mut self.chance, run).await {
                assert!(error.is_transient(), "execute_job: {error:?}");
            }
            return;
        }
        let (db, ledger) = NOTES.get().unwrap();
        let receipt = receipt(db, job.id).await;
        ledger.note("begin", job.id, &receipt).await;
        ledger.note(if fails { "again" } else { "end" }, job.id, &receipt).await;
        let result = serde_json::value::to_raw_value(&receipt).unwrap();
        let delay = Duration::from_millis(50);
        match (fails, self.chance.below(2)) {
            (false, 0) => self.say("complete", || q.complete(job.id)).await,
            (false, _) => self.say("complete_with", || q.complete_with(job.id, Some(result.clone()))).await,
            (true, 0) => self.say("fail", || q.fail(job.id, "again")).await,
            (true, _) => self.say("retry", || q.retry(job.id, delay)).await,
        }
    }

    async fn say<T, F: Future<Output = Result<T, Error>>>(&mut self, what: &'static str, call: impl Fn() -> F) {
        match self.storm.dropped.at_random(what, &mut self.chance, call()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) if !error.is_transient() => {
                panic!("{what}, said for the first time, is refused: {error:?}");
            }
            Some(Err(_)) => self.say_again(what, call).await,
            None if self.chance.below(2) == 0 => self.say_again(what, call).await,
            None => {}
        }
    }

    async fn say_again<T, F: Future<Output = Result<T, Error>>>(&self, what: &'static str, call: impl Fn() -> F) {
        if until_answered(what, call).await {
            *self.storm.refused.lock().unwrap().entry(what).or_default() += 1;
        }
    }
}

/// Loses one answer of a hundred, one call of two hundred, and falls silent once in three thousand.
fn lose_some(proxy: &Proxy) {
    let mut chance = Chance::new();
    proxy.cut_by(move |call| match (&call.answer, chance.below(3000)) {
        (None, 0..15) => Some(Cut::Unsent),
        (Some(_), 0..30) => Some(Cut::Answered),
        (Some(_), 30) => Some(Cut::Silent),
        _ => None,
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_is_dropped_at_any_await_loses_no_job() {
    let mut scene = Scene::new(&[]).await;
    let wanted = count_of(100, 5000);
    let look = Db { url: scene.db.url.clone(), client: connect(&scene.db.url).await };
    assert!(NOTES.set((look, scene.ledger.share().await)).is_ok(), "there is one test of this kind");
    let proxy = Proxy::to(&scene.db.url).await;
    let url = proxy.url(&scene.db.url);
    let mut queues = Vec::new();
    for _ in 0..QUEUES {
        queues.push(JobQueue::connect_to(&url, &["default"], 8).await.unwrap());
    }
    lose_some(&proxy);
    let storm = Arc::new(Storm {
        dropped: Dropped::default(),
        over: AtomicBool::new(false),
        hungry: AtomicBool::new(true),
        refused: Mutex::default(),
        told: Mutex::default(),
        asked: AtomicUsize::new(0),
        handler: Handler::default().register::<Noted>(),
    });
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..TASKS {
        let chance = scene.chance.split();
        tasks.spawn(Hasty { q: queues[n % QUEUES].clone(), chance, storm: storm.clone() }.work());
    }
    while storm.dropped.least() < wanted {
        assert!(started.elapsed() < LIMIT, "the storm does not end: {:?}", storm.dropped.0);
        let waiting: i64 = scene.db.one(WAITING, &[]).await;
        storm.hungry.store(waiting < 200, Ordering::SeqCst);
        if let Ok(Some(ended)) = timeout(Duration::from_millis(50), tasks.join_next()).await {
            ended.unwrap();
        }
    }
    storm.over.store(true, Ordering::SeqCst);
    tasks.join_all().await;
    let took = started.elapsed();
    proxy.spare();

    // On the same queues: what one of them holds may be given out by it alone.
    let calm = Instant::now();
    let queues = queues.into_iter().cycle().take(TASKS).collect();
    let mut hands = Hands::start(queues, &scene.db, &scene.ledger).await;
    drained(&scene.db).await;
    hands.look();
    let calm = calm.elapsed();
    hands.stop().await;
    scene.jobs.extend(storm.told.lock().unwrap().iter());
    let lost = scene.lost().await;
    let v = scene.judge(&std::collections::HashMap::new()).await;
    let holds = idle_holds(&scene.db, &scene.ledger).await;
    let longest = holds.iter().max_by_key(|hold| hold.lasted).unwrap();
    let refused = storm.refused.lock().unwrap().clone();
    eprintln!(
        "drops: in {took:.1?} {:?} futures dropped; {} of {} jobs accepted, {lost} lost, {refused:?} words said again \
         were \
         refused; held and not run for {:.2?} (worst); all had ended {calm:.1?} after the last",
        storm.dropped.0.lock().unwrap(),
        v.completed,
        scene.jobs.len(),
        longest.lasted,
    );
    if longest.lasted > hand::LEASE {
        eprintln!("{}", story(&scene.db, &scene.ledger, longest.job).await);
    }
    assert!(scene.jobs.len() <= storm.asked.load(Ordering::SeqCst), "an enqueue that was dropped enqueued twice");
    assert_eq!((v.completed, lost, refused.len()), (scene.jobs.len(), 0, 0));
    assert!(calm < 2 * hand::LEASE, "{calm:?}");
}
