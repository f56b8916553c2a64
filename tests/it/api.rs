//! The Rust API, method by method: the contract a user of `JobQueue` reads off its names.

use std::{collections::HashSet, time::Duration};

use chrono::Utc;
use rowlock::{Error, Field, Handler, Job, JobQueue, NewJob, Status, TypedJob};
use serde_json::json;

use crate::support::{Db, database, eventually};

async fn queue() -> (JobQueue, Db) {
    let db = database().await;
    (JobQueue::connect(&db.url).await.unwrap(), db)
}

#[tokio::test]
async fn enqueue_returns_a_uuid_and_get_job_finds_it_pending_with_the_defaults() {
    let (q, _db) = queue().await;
    let new = q.enqueue("send_email", json!({"to": "a"})).await.unwrap();
    assert!(new.inserted);
    assert_eq!(new.id.get_version_num(), 7);
    let job = q.get_job(new.id).await.unwrap().unwrap();
    assert_eq!((job.status, job.priority, job.max_retries, job.attempts), (Status::Pending, 5, 3, 0));
    assert_eq!(job.payload.get(), r#"{"to": "a"}"#);
    assert!(q.get_job(uuid::Uuid::now_v7()).await.unwrap().is_none());
}

#[tokio::test]
async fn dequeue_gives_the_highest_priority_then_the_first_in_and_marks_it_running() {
    let (q, _db) = queue().await;
    let low = q.enqueue("a", json!({})).priority(1).await.unwrap().id;
    let first = q.enqueue("a", json!({})).priority(9).await.unwrap().id;
    let second = q.enqueue("a", json!({})).priority(9).await.unwrap().id;
    for want in [first, second, low] {
        let job = q.dequeue().await.unwrap().unwrap();
        assert_eq!((job.id, job.status), (want, Status::Running));
        assert!(job.started_at.is_some() && job.worker.is_some());
    }
    assert!(q.dequeue().await.unwrap().is_none());
}

#[tokio::test]
async fn dequeue_respects_execute_at() {
    let (q, _db) = queue().await;
    let at = Utc::now() + chrono::Duration::milliseconds(400);
    let id = q.enqueue("a", json!({})).execute_at(at).await.unwrap().id;
    assert!(q.dequeue().await.unwrap().is_none());
    let mut got = None;
    while got.is_none() && Utc::now() < at + chrono::Duration::seconds(5) {
        got = q.dequeue().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(got.unwrap().id, id);
    assert!(Utc::now() >= at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thirty_two_tasks_dequeue_ten_thousand_jobs_and_none_twice() {
    let (q, _db) = queue().await;
    let jobs: Vec<NewJob> = (0..10_000).map(|n| NewJob::new("a", json!({"n": n}))).collect();
    assert_eq!(q.enqueue_many(&jobs).await.unwrap().len(), 10_000);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let q = q.clone();
        tasks.spawn(async move {
            let mut seen = Vec::new();
            while let Some(job) = q.dequeue().await.unwrap() {
                q.complete(job.id).await.unwrap();
                seen.push(job.id);
            }
            seen
        });
    }
    let all = tasks.join_all().await.concat();
    assert_eq!(all.len(), 10_000);
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 10_000);
}

#[tokio::test]
async fn complete_ends_a_job_once() {
    let (q, _db) = queue().await;
    let id = q.enqueue("a", json!({})).await.unwrap().id;
    q.dequeue().await.unwrap().unwrap();
    q.complete(id).await.unwrap();
    let job = q.get_job(id).await.unwrap().unwrap();
    assert_eq!(job.status, Status::Completed);
    assert!(job.finished_at.is_some());
    assert!(matches!(q.complete(id).await, Err(Error::LeaseLost(_))));
}

#[tokio::test]
async fn fail_retries_after_two_to_the_attempts_seconds_and_then_keeps_the_error() {
    let (q, db) = queue().await;
    let id = q.enqueue("a", json!({})).max_retries(2).await.unwrap().id;
    for attempt in 0..2 {
        db.make_due().await;
        q.dequeue().await.unwrap().unwrap();
        let before = Utc::now();
        assert_eq!(q.fail(id, format!("boom {attempt}")).await.unwrap(), Status::Pending);
        let job = q.get_job(id).await.unwrap().unwrap();
        assert_eq!((job.attempts, job.error.as_deref()), (attempt + 1, Some(&*format!("boom {attempt}"))));
        let wait = (job.execute_at - before).as_seconds_f64();
        let want = f64::from(1 << attempt);
        assert!((want - 0.1..want + 1.0).contains(&wait), "waits {wait} s, wanted {want}");
    }
    db.make_due().await;
    q.dequeue().await.unwrap().unwrap();
    assert_eq!(q.fail(id, "the last").await.unwrap(), Status::Failed);
    let job = q.get_job(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.error.as_deref(), job.attempts), (Status::Failed, Some("the last"), 2));
}

#[tokio::test]
async fn retry_makes_a_failed_job_pending_now_or_after_a_delay() {
    let (q, _db) = queue().await;
    let id = q.enqueue("a", json!({})).max_retries(0).await.unwrap().id;
    q.dequeue().await.unwrap().unwrap();
    assert_eq!(q.fail(id, "x").await.unwrap(), Status::Failed);
    assert_eq!(q.retry(id, Duration::ZERO).await.unwrap(), Status::Pending);
    assert_eq!(q.dequeue().await.unwrap().unwrap().id, id);
    // One it holds goes back too.
    assert_eq!(q.retry(id, Duration::from_secs(60)).await.unwrap(), Status::Pending);
    assert!(q.dequeue().await.unwrap().is_none());
    let wait = (q.get_job(id).await.unwrap().unwrap().execute_at - Utc::now()).as_seconds_f64();
    assert!((58.0..61.0).contains(&wait), "{wait}");
    assert!(matches!(q.retry(uuid::Uuid::now_v7(), Duration::ZERO).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn lists_are_by_status_and_limit() {
    let (q, _db) = queue().await;
    for n in 0..6 {
        q.enqueue("a", json!({"n": n})).max_retries(0).await.unwrap();
    }
    for n in 0..4 {
        let id = q.dequeue().await.unwrap().unwrap().id;
        match n {
            0 | 1 => q.complete(id).await.unwrap(),
            2 => drop(q.fail(id, "x").await.unwrap()),
            _ => {}
        }
    }
    assert_eq!(q.get_pending_jobs().await.unwrap().len(), 2);
    assert_eq!(q.get_running_jobs().await.unwrap().len(), 1);
    assert_eq!(q.get_completed_jobs(10).await.unwrap().len(), 2);
    assert_eq!(q.get_completed_jobs(1).await.unwrap().len(), 1);
    assert_eq!(q.get_failed_jobs().await.unwrap().len(), 1);
    assert_eq!(q.list_jobs(None, 100).await.unwrap().len(), 6);
    assert_eq!(q.list_jobs(Some(Status::Pending), 1).await.unwrap().len(), 1);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Divide {
    by: i64,
}

impl TypedJob for Divide {
    const NAME: &'static str = "divide";
    const MAX_RETRIES: Option<i32> = Some(1);
    const PRIORITY: Option<i32> = Some(7);
    type Output = i64;
    type Error = String;
    async fn run(self, _job: &Job) -> Result<i64, String> {
        assert_ne!(self.by, -1, "a bug");
        100_i64.checked_div(self.by).ok_or_else(|| "division by zero".to_owned())
    }
}

#[tokio::test]
async fn a_typed_job_has_its_defaults_and_execute_job_does_all_of_it() {
    let (q, _db) = queue().await;
    let handler = Handler::default().register::<Divide>();
    let id = q.enqueue_typed(&Divide { by: 4 }).await.unwrap().id;
    let job = q.dequeue().await.unwrap().unwrap();
    assert_eq!((job.priority, job.max_retries), (7, 1));
    assert_eq!(q.execute_job(&handler, job).await.unwrap(), Status::Completed);
    assert_eq!(q.get_job(id).await.unwrap().unwrap().result.unwrap().get(), "25");

    for (by, why) in [(0, "division by zero"), (-1, "the job panicked")] {
        let id = q.enqueue_job(&Divide { by }.new_job().unwrap().max_retries(0)).await.unwrap().id;
        let job = q.dequeue().await.unwrap().unwrap();
        assert_eq!(q.execute_job(&handler, job).await.unwrap(), Status::Failed);
        assert_eq!(q.get_job(id).await.unwrap().unwrap().error.as_deref(), Some(why));
    }

    q.enqueue("stranger", json!({})).await.unwrap();
    let job = q.dequeue().await.unwrap().unwrap();
    let id = job.id;
    assert_eq!(q.execute_job(&handler, job).await.unwrap(), Status::Pending);
    assert_eq!(q.get_job(id).await.unwrap().unwrap().error.as_deref(), Some("unknown job type stranger"));
}

#[tokio::test]
async fn a_job_enqueued_in_a_transaction_is_there_with_it_or_never_was() {
    let (q, mut db) = queue().await;
    db.client.batch_execute("CREATE TABLE orders (id int)").await.unwrap();
    for commit in [true, false] {
        let tx = db.client.transaction().await.unwrap();
        tx.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
        q.enqueue_in(&tx, &NewJob::new("ship", json!({}))).await.unwrap();
        q.enqueue_many_in(&tx, &[NewJob::new("mail", json!({}))]).await.unwrap();
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(q.get_pending_jobs().await.unwrap().len(), 2);
    let orders: i64 = db.client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    assert_eq!(orders, 1);
}

#[tokio::test]
async fn a_refusal_names_its_field() {
    let (q, _db) = queue().await;
    let bad = [
        (NewJob::new("", json!({})), Field::Type),
        (NewJob::new("a", json!([])), Field::Payload),
        (NewJob::new("a", json!({})).queue("\n"), Field::Queue),
        (NewJob::new("a", json!({})).priority(40_000), Field::Priority),
        (NewJob::new("a", json!({})).max_retries(-1), Field::MaxRetries),
        (NewJob::new("a", json!({})).execute_at(Utc::now() + chrono::Duration::days(4000)), Field::ExecuteAt),
        (NewJob::new("a", json!({})).unique_key(""), Field::UniqueKey),
        (NewJob::new("a", json!({})).opts(json!({"color": 1})), Field::Opts),
    ];
    for (job, want) in bad {
        let one = q.enqueue_job(&job).await.unwrap_err();
        let many = q.enqueue_many(&[NewJob::new("a", json!({})), job]).await.unwrap_err();
        assert!(matches!(&one, Error::Refused { field, .. } if *field == want), "{one}");
        assert!(
            matches!(&many, Error::Refused { field, message, .. } if *field == want && message.contains("jobs[1]")),
            "{many}"
        );
    }
    assert!(q.list_jobs(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_unique_key_answers_the_job_that_holds_it_in_a_batch_too() {
    let (q, _db) = queue().await;
    let job = NewJob::new("a", json!({})).unique_key("k");
    let first = q.enqueue_job(&job).await.unwrap();
    let again = q.enqueue_many(&[job.clone(), job, NewJob::new("b", json!({}))]).await.unwrap();
    assert_eq!(again.iter().map(|e| e.inserted).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(again[1].id, first.id);
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_until_it_is_resumed() {
    let (q, _db) = queue().await;
    q.enqueue("a", json!({})).await.unwrap();
    q.pause_queue("default").await.unwrap();
    assert!(q.dequeue().await.unwrap().is_none());
    q.resume_queue("default").await.unwrap();
    assert!(q.dequeue().await.unwrap().is_some());
}

#[tokio::test]
async fn an_enqueuer_may_enqueue_in_bulk_and_nothing_else() {
    let (q, db) = queue().await;
    db.run("DO $$ BEGIN CREATE ROLE api_enqueuer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT rowlock_enqueuer TO api_enqueuer").await;
    let url = db.url.replace("rowlock@", "api_enqueuer@");
    let mine = JobQueue::connect(&url).await.unwrap();
    let jobs = vec![NewJob::new("a", json!({"n": 1})).priority(3), NewJob::new("b", json!({})).unique_key("u")];
    assert_eq!(mine.enqueue_many(&jobs).await.unwrap().len(), 2);
    assert_eq!(mine.dequeue().await.unwrap_err().code(), Some("42501"));
    assert_eq!(q.get_pending_jobs().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_job_committed_late_is_found_by_a_sweep() {
    let (q, mut db) = queue().await;
    let session = q.session(rowlock::SessionOptions::default()).await.unwrap();
    let tx = db.client.transaction().await.unwrap();
    q.enqueue_in(&tx, &NewJob::new("late", json!({}))).await.unwrap();
    for _ in 0..3 {
        q.enqueue("early", json!({})).await.unwrap();
        let jobs = session.claim(1).await.unwrap();
        session.complete(jobs.into_iter().map(|j| (j, None)).collect()).await.unwrap();
    }
    tx.commit().await.unwrap();
    eventually("the late job is claimed", || async {
        session.claim(1).await.unwrap().iter().any(|j| j.job_type == "late")
    })
    .await;
}
