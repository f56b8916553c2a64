//! An enqueuer does its worst for a minute: names, priorities, types, keys, rollbacks, open transactions, batches of
//! 10,000. The jobs of others, the figures and the leadership go on as beside an honest one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rowlock::{Failure, JobQueue, worker::Worker};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

use crate::{
    fleet::{Fleet, count_of, get, quantile, turn, until},
    support::{Db, connect, database},
};

/// A batch of jobs, by their number `n`; one of them takes about as long as ten of an honest one.
const WORST: &[(&str, &str)] = &[
    ("queues and priorities", "'type', 't', 'queue', 'q' || $2 || '/' || n, 'priority', n % 32768"),
    ("types", "'type', 'invented ' || $2 || '/' || n, 'queue', 'a'"),
    ("keys", "'type', 't', 'queue', 'a', 'unique_key', $2 || '/' || n"),
    ("times", "'type', 't', 'queue', 'a', 'opts', jsonb_build_object('delay_seconds', n / 1000.0)"),
    ("all the same", "'type', 't', 'queue', 'a'"),
];

/// What is measured of others, again and again.
#[derive(Default, Debug)]
struct Measured {
    pickup: Vec<Duration>,
    metrics: Vec<Duration>,
    ready: Vec<Duration>,
}

struct Watch {
    db: Db,
    q: JobQueue,
    ran: mpsc::UnboundedReceiver<(Uuid, Instant)>,
    address: String,
}

impl Watch {
    /// Measures until `end`, or for this time.
    async fn measure(&mut self, time: Duration) -> Measured {
        let (mut measured, started) = (Measured::default(), Instant::now());
        while started.elapsed() < time {
            for _ in 0..10 {
                let asked = Instant::now();
                let id = self.q.enqueue("mine", json!({})).await.unwrap().id;
                let (ran, at) = self.ran.recv().await.unwrap();
                assert_eq!(ran, id);
                measured.pickup.push(at - asked);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            for (path, times) in [("/metrics", &mut measured.metrics), ("/readyz", &mut measured.ready)] {
                let (address, asked) = (self.address.clone(), Instant::now());
                let text = tokio::task::spawn_blocking(move || get(&address, path).unwrap()).await.unwrap();
                assert!(text.starts_with("HTTP/1.0 200"), "{path}: {}", text.lines().next().unwrap_or_default());
                times.push(asked.elapsed());
            }
        }
        measured
    }

    async fn epoch(&self) -> i64 {
        self.db.one("SELECT epoch FROM rowlock.leader WHERE held_until > clock_timestamp()", &[]).await
    }

    async fn bytes(&self) -> i64 {
        let sql = "SELECT sum(pg_total_relation_size(c.oid))::int8 FROM pg_class c
                    WHERE c.relnamespace = 'rowlock'::regnamespace AND c.relkind IN ('r', 'S')";
        self.db.one(sql, &[]).await
    }
}

/// Enqueues batch after batch until told to stop. Answers how many jobs it has made.
async fn enqueues(url: String, kinds: Vec<&'static str>, batch: i32, stop: Arc<AtomicBool>) -> u64 {
    let client = connect(&url).await;
    let open = connect(&url).await;
    let (mut jobs, mut round) = (0, 0);
    let honest = kinds.len() == 1;
    while !stop.load(Ordering::Relaxed) {
        let kind = kinds[round % kinds.len()];
        let sql = format!(
            "SELECT count(e) FROM (SELECT jsonb_agg(jsonb_build_object({kind})) AS jobs FROM generate_series(1, $1) n) j, rowlock.enqueue_many(j.jobs) e"
        );
        round += 1;
        let name = format!("{}/{round}", Uuid::now_v7());
        let text = sql.replace("$1", &batch.to_string()).replace("$2", &format!("'{name}'"));
        client.batch_execute(&text).await.unwrap();
        jobs += u64::try_from(batch).unwrap();
        if honest {
            continue;
        }
        // And what leaves nothing.
        client.batch_execute(&format!("BEGIN; {text}; ROLLBACK")).await.unwrap();
        let _refused = client.batch_execute(&format!("{text}; SELECT rowlock.enqueue('')")).await;
        open.batch_execute("ROLLBACK").await.unwrap();
        open.batch_execute(&format!("BEGIN; SELECT rowlock.enqueue('t', queue => 'open {name}')")).await.unwrap();
        open.batch_execute("SELECT rowlock.enqueue('t', queue => 'a', unique_key => 'held')").await.unwrap();
    }
    jobs
}

async fn login(db: &Db) -> String {
    db.run(
        "DO $$ BEGIN CREATE ROLE chaos_enqueuer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT rowlock_enqueuer TO chaos_enqueuer",
    )
    .await;
    db.url.replacen("rowlock@", "chaos_enqueuer@", 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enqueuer_that_does_its_worst_costs_others_no_more_than_an_honest_one() {
    let _turn = turn().await;
    let db = database().await;
    let url = login(&db).await;
    let fleet = Fleet::new(&db.url, &[]);
    let _controller = fleet.run(&["controller", "--http", "127.0.0.1:0"]);
    until("the controller serves", || std::future::ready(!fleet.addresses().is_empty())).await;
    let (tell, ran) = mpsc::unbounded_channel();
    let q = JobQueue::connect(&db.url).await.unwrap();
    let handler = move |job: rowlock::Job, _: rowlock::worker::JobContext| {
        let tell = tell.clone();
        async move {
            let _ = tell.send((job.id, Instant::now()));
            Ok::<_, Failure>(())
        }
    };
    let worker = Worker::builder(&q).handler("mine", handler).build().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(worker.run(async move { drop(ended.await) }));
    let mut watch = Watch { db, q, ran, address: fleet.addresses()[0].clone() };
    let time = Duration::from_secs(count_of(15, 60) as u64);
    let batch = 10_000;
    watch.measure(Duration::from_secs(2)).await;
    let alone = watch.measure(time / 3).await;
    let (epoch, empty) = (watch.epoch().await, watch.bytes().await);

    let mut beside = Vec::new();
    for kinds in [vec![WORST[4].1], WORST.iter().map(|(_, kind)| *kind).collect::<Vec<_>>()] {
        let stop = Arc::new(AtomicBool::default());
        let mut enqueuers = JoinSet::new();
        enqueuers.spawn(enqueues(url.clone(), kinds, batch, stop.clone()));
        let measured = watch.measure(time).await;
        stop.store(true, Ordering::Relaxed);
        let jobs: u64 = enqueuers.join_all().await.into_iter().sum();
        beside.push((jobs, measured, watch.bytes().await));
    }
    let [(honest_jobs, mut honest, after_honest), (worst_jobs, mut worst, after_worst)] =
        <[_; 2]>::try_from(beside).unwrap_or_else(|_| panic!("two enqueuers"));
    let mut calm = Measured::default();
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(60) {
        calm = watch.measure(Duration::from_secs(5)).await;
        if quantile(&mut calm.pickup, 0.5) <= 2 * quantile(&mut alone.pickup.clone(), 0.5) {
            break;
        }
    }
    let of = |times: &mut Vec<Duration>| format!("{:.1?}/{:.1?}", quantile(times, 0.5), quantile(times, 0.95));
    let told = |name: &str, m: &mut Measured| {
        let (pickup, metrics, ready) = (of(&mut m.pickup), of(&mut m.metrics), of(&mut m.ready));
        eprintln!("enqueuer, {name}: pickup {pickup}, /metrics {metrics}, /readyz {ready} (median/p95)");
    };
    let mut alone = alone;
    told("nobody beside", &mut alone);
    told("an honest one", &mut honest);
    told("the worst", &mut worst);
    told("afterwards", &mut calm);
    let each = |jobs: u64, bytes: i64| bytes as f64 / jobs as f64;
    let (honest_bytes, worst_bytes) =
        (each(honest_jobs, after_honest - empty), each(worst_jobs, after_worst - after_honest));
    eprintln!(
        "enqueuer: {honest_jobs} honest jobs of {honest_bytes:.0} bytes, {worst_jobs} of the worst of {worst_bytes:.0}; \
         the leader led on: {}",
        watch.epoch().await == epoch
    );
    assert_eq!(watch.epoch().await, epoch, "the leadership");
    for (what, of_honest, of_worst) in [
        ("pickup", &mut honest.pickup, &mut worst.pickup),
        ("/metrics", &mut honest.metrics, &mut worst.metrics),
        ("/readyz", &mut honest.ready, &mut worst.ready),
    ] {
        let (before, beside) = (quantile(of_honest, 0.5), quantile(of_worst, 0.5));
        assert!(beside <= 2 * before + Duration::from_millis(5), "{what}: {before:?}, {beside:?}");
    }
    assert!(worst_bytes <= 6.0 * honest_bytes, "{worst_bytes} {honest_bytes}");
    assert!(stopped.elapsed() < Duration::from_secs(60), "back to normal within a minute");
    drop(end);
    working.await.unwrap().unwrap();
}
