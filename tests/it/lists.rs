//! Lists of jobs: pages follow each other without a gap or a double, and a reader sees what it may see.

use std::collections::HashSet;

use rowlock::{JobQueue, ListFilter, NewJob, Status};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Db, connect, database, refusal};

/// Some jobs in each place that a job can be in, with equal times among those that ended.
async fn all_places() -> (JobQueue, Db) {
    let db = database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    for queue in ["default", "other"] {
        for priority in [1, 5, 9] {
            q.enqueue_many(&vec![NewJob::new("t", json!({})).queue(queue).priority(priority); 7]).await.unwrap();
        }
        let later = chrono::Utc::now() + chrono::Duration::hours(1);
        q.enqueue_many(&vec![NewJob::new("t", json!({})).queue(queue).execute_at(later); 5]).await.unwrap();
    }
    let worker = db.worker(60.0).await;
    let done = db.claim(worker, 4).await;
    assert!(db.complete(worker, &done).await.is_empty());
    for job in db.claim(worker, 3).await {
        db.fail(worker, &job, "no luck", false).await;
    }
    // Moved: its place is not the one in its id.
    let back = db.claim_one(worker).await;
    db.release(worker, &back, Some(0.0), false).await;
    db.claim(worker, 3).await;
    (q, db)
}

async fn pages(q: &JobQueue, filter: ListFilter) -> Vec<Uuid> {
    let (mut filter, mut all) = (filter, Vec::new());
    loop {
        let page = q.list(&filter).await.unwrap();
        let Some(last) = page.last() else { return all };
        filter.after = Some(last.id);
        all.extend(page.iter().map(|job| job.id));
    }
}

#[tokio::test]
async fn pages_of_any_size_are_the_list_itself() {
    let (q, _db) = all_places().await;
    let of = |status, queue: Option<&str>, limit| ListFilter {
        status,
        queue: queue.map(ToOwned::to_owned),
        limit,
        ..ListFilter::default()
    };
    let statuses = [Status::Pending, Status::Running, Status::Completed, Status::Failed, Status::Cancelled];
    for status in statuses.map(Some).into_iter().chain([None]) {
        for queue in [None, Some("default"), Some("other"), Some("nowhere")] {
            let whole: Vec<Uuid> = q.list(&of(status, queue, 1000)).await.unwrap().iter().map(|job| job.id).collect();
            for limit in [1, 2, 3, 10] {
                assert_eq!(pages(&q, of(status, queue, limit)).await, whole, "{status:?} {queue:?} by {limit}");
            }
        }
    }
    let all = pages(&q, of(None, None, 5)).await;
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (52, 52));
}

#[tokio::test]
async fn counts_are_those_of_the_lists() {
    let (q, _db) = all_places().await;
    for (status, jobs) in q.counts().await.unwrap() {
        let listed = q.list_jobs(Some(status), 1000).await.unwrap().len();
        assert_eq!(usize::try_from(jobs).unwrap(), listed, "{status:?}");
    }
}

#[tokio::test]
async fn a_page_after_a_job_that_is_not_in_the_list_is_refused_by_name() {
    let (q, db) = all_places().await;
    let ended = q.list_jobs(Some(Status::Completed), 1).await.unwrap()[0].id;
    let (code, text) = db.refusal(&format!("SELECT * FROM rowlock.list_jobs('pending', after => '{ended}')")).await;
    assert_eq!((&*code, text.contains("after: ")), ("RL012", true), "{text}");
    let (code, text) = db.refusal(&format!("SELECT * FROM rowlock.list_jobs(after => '{}')", Uuid::nil())).await;
    assert_eq!((&*code, text.contains("after: ")), ("RL011", true), "{text}");
}

#[tokio::test]
async fn a_reader_sees_jobs_without_what_they_carry_unless_it_may() {
    let (q, db) = all_places().await;
    let id = q.enqueue_job(&NewJob::new("t", json!({"secret": 1})).queue("seen")).await.unwrap().id;
    let client = connect(&db.url).await;
    let seen = "SELECT count(payload) FILTER (WHERE payload IS NOT NULL), count(*) FROM";
    for (grant, want) in [("", 0_i64), ("GRANT SELECT (payload) ON rowlock.jobs TO rowlock_reader", 1)] {
        db.run(grant).await;
        client.batch_execute("SET ROLE rowlock_reader").await.unwrap();
        for list in [format!("rowlock.get_job('{id}')"), "rowlock.list_jobs(queue => 'seen')".to_owned()] {
            let row = client.query_one(&format!("{seen} {list}"), &[]).await.unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (want, 1), "{list}");
        }
        assert_eq!(refusal(&client, "SELECT rowlock.cancel(gen_random_uuid())").await.0, "42501");
        client.batch_execute("RESET ROLE").await.unwrap();
    }
}
