//! `JobQueue` by hand: every future may be dropped and every call may be said again; no job is lost or stuck by it.

use std::{future::Future, time::Duration};

use rowlock::{Error, Handler, Job, JobQueue, NewJob, Status, TypedJob};
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{Db, database, eventually};

async fn queue() -> (JobQueue, Db) {
    let db = database().await;
    (JobQueue::connect(&db.url).await.unwrap(), db)
}

/// Polls a future so many times, lets others run in between, and drops it.
async fn give_up<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if let std::task::Poll::Ready(output) = futures_util::poll!(&mut future) {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn end_leases(db: &Db) {
    db.run("UPDATE rowlock.worker SET lease_until = '-infinity'").await;
}

#[tokio::test]
async fn calls_of_dequeue_that_are_given_up_leave_no_job_running() {
    let (q, db) = queue().await;
    let jobs: Vec<NewJob> = (0..200).map(|n| NewJob::new("t", json!({"n": n}))).collect();
    q.enqueue_many(&jobs).await.unwrap();
    let mut done = 0;
    for n in 0..1000 {
        let job = match n % 3 {
            0 => give_up(q.dequeue(), n % 40).await,
            _ => timeout(Duration::from_micros(n as u64 * 3), q.dequeue()).await.ok(),
        };
        if let Some(Some(job)) = job.map(Result::unwrap) {
            q.complete(job.id).await.unwrap();
            done += 1;
        }
    }
    eventually("the given up calls' jobs are back", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE status = 'running'", &[]).await == 0
    })
    .await;
    while let Some(job) = q.dequeue().await.unwrap() {
        assert_eq!(job.attempts, 0);
        q.complete(job.id).await.unwrap();
        done += 1;
    }
    assert_eq!(done, 200);
}

#[tokio::test]
async fn an_end_whose_future_is_dropped_is_carried_out_and_said_again_has_the_same_answer() {
    let (q, db) = queue().await;
    for _ in 0..3 {
        q.enqueue("t", json!({})).max_retries(0).await.unwrap();
    }
    let ids = [(); 3].map(|()| ());
    let mut held = Vec::new();
    for () in ids {
        held.push(q.dequeue().await.unwrap().unwrap().id);
    }
    let [done, failed, retried] = held[..] else { unreachable!("three jobs are held") };
    assert!(give_up(q.complete(done), 1).await.is_none());
    assert!(give_up(q.fail(failed, "no luck"), 1).await.is_none());
    assert!(give_up(q.retry(retried, Duration::from_secs(60)), 1).await.is_none());
    for (id, status) in [(done, "completed"), (failed, "failed"), (retried, "pending")] {
        eventually("the end is carried out", || async { db.status(id).await.as_deref() == Some(status) }).await;
    }
    q.complete(done).await.unwrap();
    assert_eq!(q.fail(failed, "no luck").await.unwrap(), Status::Failed);
    assert_eq!(q.retry(retried, Duration::from_secs(60)).await.unwrap(), Status::Pending);
    assert!(matches!(q.complete(done).await, Err(Error::LeaseLost(_))), "an answer that was heard is not repeated");
}

#[tokio::test]
async fn calls_for_one_job_at_once_have_one_answer() {
    let (q, _db) = queue().await;
    q.enqueue("t", json!({})).await.unwrap();
    let id = q.dequeue().await.unwrap().unwrap().id;
    let (a, b) = tokio::join!(q.complete(id), q.complete(id));
    a.unwrap();
    b.unwrap();
}

#[tokio::test]
async fn after_a_lost_lease_calls_say_so_and_the_next_dequeue_registers_anew() {
    let (q, db) = queue().await;
    q.enqueue("t", json!({})).await.unwrap();
    let id = q.dequeue().await.unwrap().unwrap().id;
    end_leases(&db).await;
    assert!(matches!(q.complete(id).await, Err(Error::LeaseLost(_))));
    eventually("the job is rescued and dequeued again", || async {
        q.dequeue().await.unwrap().is_some_and(|job| job.id == id)
    })
    .await;
    q.complete(id).await.unwrap();
    assert_eq!(db.status(id).await.as_deref(), Some("completed"));
}

#[tokio::test]
async fn a_result_that_postgres_refuses_fails_the_attempt_and_says_so() {
    let (q, db) = queue().await;
    let id = q.enqueue("t", json!({})).max_retries(0).await.unwrap().id;
    q.dequeue().await.unwrap().unwrap();
    let result = serde_json::value::to_raw_value("a\0b").unwrap();
    let error = q.complete_with(id, Some(result)).await.unwrap_err();
    assert!(error.to_string().starts_with("result: "), "{error}");
    assert_eq!(db.status(id).await.as_deref(), Some("failed"));
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Nul {}

impl TypedJob for Nul {
    const NAME: &'static str = "nul";
    type Output = String;
    type Error = String;
    async fn run(self, _job: &Job) -> Result<String, String> {
        Ok("a\0b".into())
    }
}

#[tokio::test]
async fn execute_job_of_a_handler_whose_result_cannot_be_stored_fails_the_attempt() {
    let (q, db) = queue().await;
    let id = q.enqueue("nul", json!({})).max_retries(0).await.unwrap().id;
    let job = q.dequeue().await.unwrap().unwrap();
    let status = q.execute_job(&Handler::default().register::<Nul>(), job).await.unwrap();
    assert_eq!(status, Status::Failed);
    let error: String = db.one("SELECT error FROM rowlock.get_job($1)", &[&id]).await;
    assert!(error.starts_with("result: "), "{error}");
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Slow {}

impl TypedJob for Slow {
    const NAME: &'static str = "slow";
    type Output = ();
    type Error = String;
    async fn run(self, _job: &Job) -> Result<(), String> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

#[tokio::test]
async fn execute_job_whose_future_is_dropped_goes_on_to_the_end_of_the_job() {
    let (q, db) = queue().await;
    let id = q.enqueue("slow", json!({})).await.unwrap().id;
    let job = q.dequeue().await.unwrap().unwrap();
    assert!(give_up(q.execute_job(&Handler::default().register::<Slow>(), job), 2).await.is_none());
    eventually("the job has completed", || async { db.status(id).await.as_deref() == Some("completed") }).await;
}

#[tokio::test]
async fn the_rights_of_a_worker_are_enough() {
    let (q, db) = queue().await;
    q.enqueue("t", json!({})).unique_key("k").await.unwrap();
    db.run("CREATE ROLE by_hand LOGIN; GRANT rowlock_worker TO by_hand").await;
    let mine = JobQueue::connect(&db.url.replacen("rowlock@", "by_hand@", 1)).await.unwrap();
    let job = mine.dequeue().await.unwrap().unwrap();
    assert_eq!((job.status, job.unique_key.as_deref()), (Status::Running, Some("k")));
    mine.complete(job.id).await.unwrap();
    db.run("REVOKE rowlock_worker FROM by_hand; DROP ROLE by_hand").await;
}

#[tokio::test]
async fn when_the_last_handle_goes_its_jobs_are_handed_back_at_once() {
    let (q, db) = queue().await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    assert_eq!(q.dequeue().await.unwrap().unwrap().id, id);
    drop(q);
    eventually("the job is pending", || async { db.status(id).await.as_deref() == Some("pending") }).await;
    eventually("the worker is gone", || async {
        db.one::<i64>("SELECT count(*) FROM rowlock.workers", &[]).await == 0
    })
    .await;
}

#[tokio::test]
async fn what_get_job_says_of_a_dequeued_job_is_what_dequeue_said() {
    let (q, _db) = queue().await;
    let tags = json!({"tags": ["a"], "headers": {"traceparent": "00-1"}});
    q.enqueue_job(&NewJob::new("t", json!({"n": 1})).unique_key("k").opts(tags)).await.unwrap();
    let got = q.dequeue().await.unwrap().unwrap();
    let read = q.get_job(got.id).await.unwrap().unwrap();
    assert_eq!(json!(got), json!(read));
}

#[tokio::test]
async fn a_list_of_all_pending_jobs_is_not_cut_off() {
    let (q, _db) = queue().await;
    for _ in 0..3 {
        q.enqueue_many(&vec![NewJob::new("t", json!({})); 4000]).await.unwrap();
    }
    let all = q.get_pending_jobs().await.unwrap();
    let ids: std::collections::HashSet<Uuid> = all.iter().map(|job| job.id).collect();
    assert_eq!((all.len(), ids.len()), (12_000, 12_000));
}
