//! A worker inside of a program, under all that can happen to it at once: SIGKILL, frozen for longer than its lease,
//! Postgres killed, connections and answers lost, SIGTERM under load.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rowlock::JobQueue;

use crate::{
    fleet::{PATIENCE, Worker, count, turn, until},
    proxy::{Cut, Proxy},
    scene::Scene,
    server::{Server, terminate_one},
};

const LEASE: Duration = Duration::from_secs(2);
const WORKERS: usize = 6;
/// Frozen ones at once; the others go on.
const FROZEN: usize = 3;
/// In which a worker that was asked to end has ended, even if Postgres dies meanwhile.
const END: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    Kill,
    Freeze,
    Death,
    Cut,
    Drain,
}

/// So many of each, in random order.
fn plan(scene: &mut Scene) -> Vec<Event> {
    let counts = [
        (Event::Kill, count(10)),
        (Event::Freeze, count(10)),
        (Event::Death, count(4)),
        (Event::Cut, count(40)),
        (Event::Drain, count(20)),
    ];
    let mut plan: Vec<Event> = counts.into_iter().flat_map(|(event, n)| std::iter::repeat_n(event, n)).collect();
    for n in (1..plan.len()).rev() {
        plan.swap(n, scene.chance.below(n + 1));
    }
    plan
}

struct Field {
    scene: Scene,
    server: Server,
    proxy: Proxy,
    /// Answers to lose.
    armed: Arc<AtomicUsize>,
    workers: VecDeque<Worker>,
    frozen: Vec<(Instant, Worker)>,
    leaving: Vec<(Instant, Worker)>,
    dead: HashMap<u32, u64>,
    slowest_end: Duration,
}

impl Field {
    async fn lay(args: &[&str]) -> Field {
        let turn = turn().await;
        let server = Server::start().await;
        let db = server.db().await;
        JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
        let proxy = Proxy::to(&db.url).await;
        let armed = Arc::new(AtomicUsize::new(0));
        let trap = armed.clone();
        proxy.cut_by(move |call| {
            call.answer.as_ref()?;
            let one_less = trap.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            one_less.is_ok().then_some(Cut::Answered)
        });
        let url = proxy.url(&db.url);
        let mut scene = Scene::on(turn, db, args).await;
        scene.fleet = scene.fleet.in_process();
        scene.fleet.set_urls(vec![url]);
        let workers = (0..WORKERS).map(|_| scene.fleet.start()).collect();
        let (frozen, leaving, dead) = (Vec::new(), Vec::new(), HashMap::new());
        Field { scene, server, proxy, armed, workers, frozen, leaving, dead, slowest_end: Duration::ZERO }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Kill => {
                let victim = self.one();
                self.dead.insert(victim.number, victim.kill());
                self.workers.push_back(self.scene.fleet.start());
            }
            Event::Freeze => {
                until("few are frozen", || std::future::ready(self.thaw() < FROZEN)).await;
                let worker = self.one();
                worker.signal("STOP");
                self.frozen.push((Instant::now() + LEASE + self.scene.chance.millis(1500), worker));
            }
            Event::Death => {
                self.server.be_killed().await;
                tokio::time::sleep(self.scene.chance.millis(1500)).await;
                self.server.up().await;
                self.scene.db = self.server.db().await;
            }
            Event::Cut if self.scene.chance.below(2) == 0 => {
                let started = Instant::now();
                while terminate_one(&self.scene.db, &mut self.scene.chance).await == 0 {
                    assert!(started.elapsed() < PATIENCE, "waited in vain until a connection is there");
                }
            }
            Event::Cut => {
                self.armed.fetch_add(1, Ordering::SeqCst);
                until("an answer is lost", || std::future::ready(self.armed.load(Ordering::SeqCst) == 0)).await;
            }
            Event::Drain => {
                let worker = self.one();
                worker.signal("TERM");
                self.leaving.push((Instant::now(), worker));
                self.workers.push_back(self.scene.fleet.start());
            }
        }
        self.thaw();
        self.see_off();
        let ended = self.workers.iter_mut().find_map(|w| w.ended().map(|status| (w.number, status)));
        assert!(ended.is_none(), "{ended:?}: a worker ended that nobody asked to: {}", self.scene.fleet.last_error());
    }

    fn one(&mut self) -> Worker {
        let n = self.scene.chance.below(self.workers.len());
        self.workers.remove(n).unwrap()
    }

    /// Wakes those whose time has come. Answers how many are frozen still.
    fn thaw(&mut self) -> usize {
        for (_, worker) in self.frozen.extract_if(.., |(until, _)| Instant::now() >= *until) {
            worker.signal("CONT");
            self.workers.push_back(worker);
        }
        self.frozen.len()
    }

    fn see_off(&mut self) {
        for (asked, mut worker) in std::mem::take(&mut self.leaving) {
            if worker.ended().is_some() {
                self.slowest_end = self.slowest_end.max(asked.elapsed());
            } else {
                assert!(asked.elapsed() < END, "worker {} does not end", worker.number);
                self.leaving.push((asked, worker));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_inside_a_program_under_fire_loses_no_job_and_consumes_no_attempt() {
    let mut field = Field::lay(&["--lease", "2s", "--concurrency", "8", "--poll", "100ms", "--grace", "1s"]).await;
    let jobs = count(2000);
    let plan = plan(&mut field.scene);
    let events = plan.len();
    let started = Instant::now();
    for (n, event) in plan.into_iter().enumerate() {
        let batch = jobs * (n + 1) / events - jobs * n / events;
        field.scene.enqueue_anew(batch, |chance| 20 + chance.below(200)).await;
        tokio::time::sleep(field.scene.chance.millis(200)).await;
        field.happen(event).await;
    }
    let took = started.elapsed();
    until("all that were frozen go on", || std::future::ready(field.thaw() == 0)).await;
    let Field { mut scene, dead, slowest_end, proxy, .. } = field;
    proxy.spare();
    let lost = scene.lost().await;
    let v = scene.judge(&dead).await;
    eprintln!(
        "fire: {events} events in {took:.1?} on {WORKERS} processes: {} of {} jobs accepted, {lost} lost, {} crash \
         loops, {} \
         extra runs, 0 attempts consumed; ends after SIGTERM within {slowest_end:.2?}",
        v.completed,
        scene.jobs.len(),
        v.crash_loops.len(),
        v.extra_runs,
    );
    assert_eq!((v.completed, lost), (scene.jobs.len(), 0));
}
