//! A worker in this process: handlers in Rust on the engine of `rowlock worker`, with the same promises.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rowlock::{
    Error, Failure, Job, JobQueue, NewJob, Status, TypedJob,
    worker::{JobContext, StopReason, Worker, WorkerBuilder, WorkerSummary},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    jobs::{ends, job, reason, result, runs},
    proxy::Proxy,
    support::{Db, PATIENCE, database, eventually},
};

async fn queue() -> (JobQueue, Db) {
    let db = database().await;
    (JobQueue::connect(&db.url).await.unwrap(), db)
}

fn builder(q: &JobQueue) -> WorkerBuilder {
    let poll = Duration::from_millis(50);
    Worker::builder(q).concurrency(4).lease(Duration::from_secs(5)).grace(Duration::from_secs(2)).poll(poll)
}

/// A worker at work.
struct Working {
    stop: CancellationToken,
    task: JoinHandle<Result<WorkerSummary, Error>>,
}

impl Working {
    fn start(builder: WorkerBuilder) -> Working {
        let (worker, stop) = (builder.build().unwrap(), CancellationToken::new());
        let told = stop.clone();
        Working { stop, task: tokio::spawn(async move { worker.run(told.cancelled()).await }) }
    }

    async fn stop(self) -> WorkerSummary {
        self.stop.cancel();
        self.ended().await.unwrap()
    }

    async fn ended(self) -> Result<WorkerSummary, Error> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker ends").unwrap()
    }
}

/// How many handlers have begun, and how many futures of theirs are gone.
#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
}

struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Seen {
    fn begin(&self) -> Gone {
        self.begun.fetch_add(1, Relaxed);
        Gone(self.gone.clone())
    }

    async fn begun(&self, n: usize) {
        eventually("the handlers run", || async { self.begun.load(Relaxed) >= n }).await;
    }

    async fn gone(&self, n: usize) {
        eventually("the handlers are gone", || async { self.gone.load(Relaxed) >= n }).await;
    }

    /// A handler that never ends by itself and does not listen.
    fn endless(
        &self,
    ) -> impl Fn(Job, JobContext) -> futures_util::future::BoxFuture<'static, Result<(), Failure>> + use<> {
        let seen = self.clone();
        move |_, _| {
            let here = seen.begin();
            Box::pin(async move {
                let _here = here;
                std::future::pending().await
            })
        }
    }
}

#[tokio::test]
async fn a_closure_gets_its_job_and_its_value_is_the_result() {
    let (q, _db) = queue().await;
    let id = q.enqueue("resize", json!({"w": 3})).opts(json!({"tags": ["a"]})).await.unwrap().id;
    let worker = builder(&q).stop_when_empty().handler("resize", |job, ctx| async move {
        let payload: Value = job.payload_as()?;
        let about =
            json!([job.id, job.job_type, job.queue, job.attempts, job.tags, ctx.lease(), ctx.deadline().is_none()]);
        Ok::<_, Failure>(json!({"twice": payload["w"].as_i64().unwrap_or(0) * 2, "about": about}))
    });
    let summary = worker.build().unwrap().run(std::future::pending()).await.unwrap();
    assert_eq!((summary.completed, summary.failed), (1, 0));
    let done = job(&q, id).await;
    assert_eq!(done.status, Status::Completed, "{:?}", done.error);
    let result = result(&done);
    assert_eq!(result["twice"], 6);
    let about = &result["about"];
    assert_eq!(
        (&about[0], &about[1], &about[2], &about[3]),
        (&json!(id), &json!("resize"), &json!("default"), &json!(0))
    );
    assert_eq!((&about[4], &about[6]), (&json!(["a"]), &json!(true)));
    let (worker, receipt) = about[5].as_str().unwrap().split_once('/').unwrap();
    worker.parse::<Uuid>().unwrap();
    receipt.parse::<i64>().unwrap();
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Divide {
    by: i64,
}

impl TypedJob for Divide {
    const NAME: &'static str = "divide";
    const MAX_RETRIES: Option<i32> = Some(0);
    const TIMEOUT: Option<Duration> = Some(Duration::from_millis(200));
    type Output = i64;
    type Error = String;
    async fn run(self, _: &Job) -> Result<i64, String> {
        match self.by {
            -1 => panic!("a bug"),
            7 => JobContext::current().ok_or("no context")?.stopped().await,
            _ => return 100_i64.checked_div(self.by).ok_or_else(|| "division by zero".to_owned()),
        };
        Err("it was stopped".into())
    }
}

#[tokio::test]
async fn a_typed_job_ends_as_it_says_and_each_end_has_its_reason() {
    let (q, db) = queue().await;
    let mut ids = Vec::new();
    for by in [4, 0, -1, 7] {
        ids.push(q.enqueue_typed(&Divide { by }).await.unwrap().id);
    }
    ids.push(q.enqueue("divide", json!({"by": "four"})).max_retries(5).await.unwrap().id);
    let working = Working::start(builder(&q).register::<Divide>());
    for (id, want) in ids.iter().zip([
        (None, "25"),
        (Some("error"), "division by zero"),
        (Some("panic"), "the job panicked"),
        (Some("timeout"), "timed out after 200ms"),
        (Some("invalid_payload"), "payload: "),
    ]) {
        let ended = ends(&q, *id).await;
        assert_eq!(reason(&db, *id).await.as_deref(), want.0, "{:?}", ended.error);
        let text = ended.error.unwrap_or_else(|| ended.result.unwrap().get().to_owned());
        assert!(text.starts_with(want.1), "{text}");
    }
    assert_eq!(working.stop().await.completed, 1);
}

#[tokio::test]
async fn a_typed_job_without_defaults_of_its_own_has_those_of_its_type() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Plain {}
    impl TypedJob for Plain {
        const NAME: &'static str = "plain";
        type Output = ();
        type Error = String;
        async fn run(self, _: &Job) -> Result<(), String> {
            Ok(())
        }
    }
    let (q, db) = queue().await;
    crate::jobs::put_type(&db, json!({"name": "plain", "priority": 9, "max_retries": 0, "queue": "own"})).await;
    let job = job(&q, q.enqueue_typed(&Plain {}).await.unwrap().id).await;
    assert_eq!((job.priority, job.max_retries, &*job.queue), (9, 0, "own"));
}

#[tokio::test]
async fn a_failure_says_whether_it_is_retried_and_a_type_that_nobody_handles_is() {
    let (q, db) = queue().await;
    let worker = builder(&q)
        .handler("hopeless", |_, _| async { Err::<(), _>(Failure::permanent("no such customer")) })
        .handler("unlucky", |_, _| async { Err::<(), _>(std::io::Error::other("the mail server said no")) });
    let working = Working::start(worker);
    let hopeless = q.enqueue("hopeless", json!({})).await.unwrap().id;
    let done = ends(&q, hopeless).await;
    assert_eq!((done.status, done.attempts, done.error.as_deref()), (Status::Failed, 0, Some("no such customer")));
    for (name, why) in [("unlucky", "the mail server said no"), ("stranger", "unknown job type stranger")] {
        let id = q.enqueue(name, json!({})).await.unwrap().id;
        eventually("it waits for its retry", || async { job(&q, id).await.attempts == 1 }).await;
        let waits = job(&q, id).await;
        assert_eq!((waits.status, waits.error.as_deref()), (Status::Pending, Some(why)));
    }
    let last = q.enqueue("stranger", json!({})).max_retries(0).await.unwrap().id;
    ends(&q, last).await;
    assert_eq!(reason(&db, last).await.as_deref(), Some("unknown_type"));
    working.stop().await;
}

#[tokio::test]
async fn a_result_that_cannot_be_kept_does_not_take_the_others_with_it() {
    let (q, db) = queue().await;
    let worker = builder(&q).handler("say", |job, _| async move {
        let payload: Value = job.payload_as()?;
        Ok::<_, Failure>(match payload["say"].as_str() {
            Some("nul") => json!("\0"),
            Some("much") => json!("x".repeat(2_000_000)),
            _ => json!(1),
        })
    });
    let mut ids = Vec::new();
    for say in ["nul", "much", "well", "well"] {
        ids.push(q.enqueue("say", json!({"say": say})).max_retries(0).await.unwrap().id);
    }
    let working = Working::start(worker);
    for (id, want) in ids.iter().zip([Some("invalid_result"), Some("output_too_large"), None, None]) {
        ends(&q, *id).await;
        assert_eq!(reason(&db, *id).await.as_deref(), want);
    }
    working.stop().await;
}

#[tokio::test]
async fn a_job_of_its_own_timeout_goes_by_that_and_one_that_is_deaf_is_dropped_after_the_grace() {
    let (q, db) = queue().await;
    let seen = Seen::default();
    let worker = builder(&q).grace(Duration::from_millis(300)).handler("wait", seen.endless());
    let working = Working::start(worker.timeout(Duration::from_secs(3600)));
    let own = q.enqueue("wait", json!({})).opts(json!({"timeout_seconds": 0.2})).max_retries(0).await.unwrap().id;
    ends(&q, own).await;
    assert_eq!(reason(&db, own).await.as_deref(), Some("timeout"));
    seen.gone(1).await;
    working.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_hears_of_it_and_one_that_is_deaf_is_dropped_after_the_grace() {
    let (q, db) = queue().await;
    let (seen, told) = (Seen::default(), Seen::default());
    let hears = {
        let told = told.clone();
        move |_, ctx: JobContext| {
            let told = told.clone();
            async move {
                let here = told.begin();
                let why = ctx.stopped().await;
                drop(here);
                Err::<(), _>(format!("{why:?}"))
            }
        }
    };
    let working = Working::start(
        builder(&q).grace(Duration::from_millis(500)).handler("hears", hears).handler("deaf", seen.endless()),
    );
    for name in ["hears", "deaf"] {
        let id = q.enqueue(name, json!({})).await.unwrap().id;
        runs(&q, id).await;
        assert_eq!(q.cancel(id).await.unwrap(), Status::Running);
        assert_eq!(ends(&q, id).await.status, Status::Cancelled);
        assert_eq!(reason(&db, id).await.as_deref(), Some("cancelled"));
    }
    assert_eq!((told.gone.load(Relaxed), seen.gone.load(Relaxed)), (1, 1));
    working.stop().await;
}

#[tokio::test]
async fn progress_is_stored_while_the_job_runs_and_its_last_value_at_the_end() {
    let (q, _db) = queue().await;
    let go = Arc::new(Notify::new());
    let going = go.clone();
    let working = Working::start(builder(&q).handler("count", move |_, ctx| {
        let go = going.clone();
        async move {
            ctx.progress(json!({"done": 1}));
            go.notified().await;
            ctx.progress("all done");
            Ok::<_, Failure>(())
        }
    }));
    let id = q.enqueue("count", json!({})).await.unwrap().id;
    eventually("progress is seen", || async { job(&q, id).await.progress == Some(json!({"done": 1})) }).await;
    go.notify_one();
    let done = ends(&q, id).await;
    assert_eq!((done.progress, done.result.is_none()), (Some(json!("all done")), true));
    working.stop().await;
}

#[tokio::test]
async fn unfinished_jobs_go_back_within_the_grace_without_an_attempt() {
    let (q, _db) = queue().await;
    let seen = Seen::default();
    let grace = Duration::from_millis(1500);
    let polite = |_, ctx: JobContext| async move {
        assert_eq!(ctx.stopped().await, StopReason::Draining);
        Err::<(), _>("not done")
    };
    let worker = builder(&q).grace(grace).handler("deaf", seen.endless()).handler("polite", polite);
    let (deaf, polite) =
        (q.enqueue("deaf", json!({})).await.unwrap().id, q.enqueue("polite", json!({})).await.unwrap().id);
    let working = Working::start(worker);
    seen.begun(1).await;
    runs(&q, polite).await;
    let asked = Instant::now();
    assert_eq!(working.stop().await.released, 2);
    assert!(asked.elapsed() < grace, "{:?}", asked.elapsed());
    for id in [deaf, polite] {
        let job = job(&q, id).await;
        assert_eq!((job.status, job.attempts, job.error), (Status::Pending, 0, None));
    }
}

#[tokio::test]
async fn a_job_that_ends_within_the_grace_is_completed_and_no_other_is_claimed() {
    let (q, _db) = queue().await;
    let (go, seen) = (Arc::new(Notify::new()), Seen::default());
    let (going, begins) = (go.clone(), seen.clone());
    let worker = builder(&q).concurrency(1).grace(Duration::from_secs(60)).handler("t", move |_, _| {
        let (go, here) = (going.clone(), begins.begin());
        async move {
            go.notified().await;
            drop(here);
            Ok::<_, Failure>(())
        }
    });
    let first = q.enqueue("t", json!({})).await.unwrap().id;
    let second = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(worker);
    seen.begun(1).await;
    working.stop.cancel();
    go.notify_one();
    assert_eq!(working.ended().await.unwrap().completed, 1);
    assert_eq!(job(&q, first).await.status, Status::Completed);
    assert_eq!(job(&q, second).await.status, Status::Pending);
}

#[tokio::test]
async fn a_draining_worker_keeps_its_lease() {
    let (q, db) = queue().await;
    let (go, seen) = (Arc::new(Notify::new()), Seen::default());
    let (going, begins) = (go.clone(), seen.clone());
    let lease = Duration::from_millis(900);
    let worker = builder(&q).lease(lease).grace(Duration::from_secs(60)).handler("t", move |_, _| {
        let (go, here) = (going.clone(), begins.begin());
        async move {
            go.notified().await;
            drop(here);
            Ok::<_, Failure>(())
        }
    });
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let working = Working::start(worker);
    seen.begun(1).await;
    working.stop.cancel();
    eventually("two leases' time has passed while it drains", || async {
        let sql = "SELECT coalesce(bool_or(draining AND lease_until > started_at + interval '3 seconds'), false) FROM rowlock.worker";
        db.one::<bool>(sql, &[]).await
    })
    .await;
    go.notify_one();
    assert_eq!(working.ended().await.unwrap().completed, 1);
    assert_eq!((job(&q, id).await.status, seen.begun.load(Relaxed)), (Status::Completed, 1));
}

#[tokio::test]
async fn a_worker_whose_lease_ends_under_it_drops_its_jobs_and_works_on_as_another() {
    let (q, db) = queue().await;
    let seen = Seen::default();
    let working =
        Working::start(builder(&q).handler("slow", seen.endless()).handler("t", |_, _| async { Ok::<_, Failure>(()) }));
    let id = q.enqueue("slow", json!({})).await.unwrap().id;
    seen.begun(1).await;
    // Paused, so that the worker's next registration does not start it again.
    q.pause_queue("default").await.unwrap();
    db.run("UPDATE rowlock.worker SET lease_until = '-infinity'").await;
    seen.gone(1).await;
    eventually("the job was put back", || async { job(&q, id).await.status == Status::Pending }).await;
    assert_eq!(job(&q, id).await.attempts, 0);
    q.cancel(id).await.unwrap();
    q.resume_queue("default").await.unwrap();
    let next = q.enqueue("t", json!({})).await.unwrap().id;
    assert_eq!(ends(&q, next).await.status, Status::Completed);
    working.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_reach_the_database_drops_its_jobs_before_the_lease_is_over() {
    let (direct, db) = queue().await;
    let proxy = Proxy::to(&db.url).await;
    let q = JobQueue::connect(&proxy.url(&db.url)).await.unwrap();
    let seen = Seen::default();
    let worker =
        builder(&q).lease(Duration::from_secs(2)).grace(Duration::from_secs(60)).handler("deaf", seen.endless());
    let id = direct.enqueue("deaf", json!({})).await.unwrap().id;
    let working = Working::start(worker);
    seen.begun(1).await;
    proxy.freeze(true);
    seen.gone(1).await;
    let expired: bool = db.one("SELECT lease_until < clock_timestamp() FROM rowlock.worker", &[]).await;
    assert!(!expired, "a handler outlived its lease");
    direct.pause_queue("default").await.unwrap();
    proxy.freeze(false);
    eventually("the job was put back", || async { job(&direct, id).await.status == Status::Pending }).await;
    assert_eq!(job(&direct, id).await.attempts, 0);
    working.stop().await;
}

#[tokio::test]
async fn a_worker_marked_in_the_database_ends_its_jobs_claims_no_more_and_waits_to_be_told() {
    let (q, db) = queue().await;
    let go = Arc::new(Notify::new());
    let going = go.clone();
    let working = Working::start(builder(&q).handler("t", move |_, _| {
        let go = going.clone();
        async move {
            go.notified().await;
            Ok::<_, Failure>(())
        }
    }));
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    runs(&q, id).await;
    db.run("UPDATE rowlock.worker SET draining = true").await;
    let other = q.enqueue("t", json!({})).await.unwrap().id;
    go.notify_one();
    assert_eq!(ends(&q, id).await.status, Status::Completed);
    assert_eq!(working.stop().await.completed, 1);
    assert_eq!(job(&q, other).await.status, Status::Pending);
}

#[tokio::test]
async fn a_sleeping_worker_is_woken_by_an_enqueue() {
    let (q, db) = queue().await;
    let worker = builder(&q).poll(Duration::from_secs(60)).handler("t", |_, _| async { Ok::<_, Failure>(()) });
    let working = Working::start(worker);
    eventually("it sleeps", || async { db.one::<i64>("SELECT count(*) FROM rowlock.subscription", &[]).await == 1 })
        .await;
    let asked = Instant::now();
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    ends(&q, id).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    working.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_drain_five_hundred_jobs_once_each() {
    let (q, db) = queue().await;
    q.enqueue_many(&vec![NewJob::new("t", json!({})); 500]).await.unwrap();
    let seen = Seen::default();
    let worker = |seen: Seen| {
        let worker = builder(&q).stop_when_empty().handler("t", move |_, _| {
            drop(seen.begin());
            async { Ok::<_, Failure>(()) }
        });
        worker.build().unwrap().run(std::future::pending())
    };
    let (a, b) = tokio::join!(worker(seen.clone()), worker(seen.clone()));
    assert_eq!((a.unwrap().completed + b.unwrap().completed, seen.begun.load(Relaxed)), (500, 500));
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.history", &[]).await, 500);
}

#[tokio::test]
async fn a_worker_that_cannot_work_is_refused_with_the_field() {
    let (q, _db) = queue().await;
    let ok = |_, _| async { Ok::<_, Failure>(()) };
    for (builder, want) in [
        (builder(&q), "expected a handler"),
        (builder(&q).handler("t", ok).concurrency(0), "concurrency: "),
        (builder(&q).timeout(Duration::from_secs(1)).handler("t", ok), "timeout: "),
    ] {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(want), "{error}");
    }
    let error =
        builder(&q).handler("t", ok).queue("\n").build().unwrap().run(std::future::pending()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}
