//! Through PgBouncer in transaction mode: no session state, no prepared statements.

use std::time::Duration;

use rowlock::{JobQueue, NewJob, launch, worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    pooler::Pooler,
    support::{database, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_and_a_worker_drain_a_thousand_jobs_through_pgbouncer_without_an_error() {
    let db = database().await;
    let pooler = Pooler::start(&db.url);
    let url = pooler.url(&db.url);
    eventually("pgbouncer answers", || async { JobQueue::connect(&url).await.is_ok() }).await;
    let q = JobQueue::connect_to(&url, &["api"], 32).await.unwrap();
    db.client.execute("SELECT rowlock.put_job_type($1)", &[&json!({"name": "t", "command": ["true"]})]).await.unwrap();

    q.enqueue_many(&vec![NewJob::new("t", json!({})); 500]).await.unwrap();
    for n in 0..500 {
        q.enqueue("a", json!({"n": n})).queue("api").await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let q = q.clone();
        tasks.spawn(async move {
            let mut n = 0;
            while let Some(job) = q.dequeue().await.unwrap() {
                q.complete(job.id).await.unwrap();
                n += 1;
            }
            n
        });
    }
    let options = worker::WorkerOptions {
        stop_when_empty: true,
        concurrency: 8,
        grace: Duration::from_secs(5),
        ..Default::default()
    };
    let summary =
        launch::run(q.clone(), options, launch::LaunchOptions::default(), CancellationToken::new()).await.unwrap();
    assert_eq!((summary.completed, summary.failed, summary.retried), (500, 0, 0));
    assert_eq!(tasks.join_all().await.into_iter().sum::<i32>(), 500);
}
