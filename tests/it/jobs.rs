//! Jobs and their types, as every test of a worker needs them.

use rowlock::{Job, JobQueue, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Db, database, eventually};

/// A database with one job type, named `t` unless it says otherwise, whose jobs are not retried.
pub async fn with_type(job_type: Value) -> (JobQueue, Db) {
    let db = database().await;
    put_type(&db, job_type).await;
    (JobQueue::connect(&db.url).await.unwrap(), db)
}

pub async fn put_type(db: &Db, mut job_type: Value) {
    for (key, value) in [("name", json!("t")), ("max_retries", json!(0))] {
        if job_type.get(key).is_none() {
            job_type[key] = value;
        }
    }
    db.client.execute("SELECT rowlock.put_job_type($1)", &[&job_type]).await.unwrap();
}

pub async fn job(q: &JobQueue, id: Uuid) -> Job {
    q.get_job(id).await.unwrap().unwrap()
}

pub fn result(job: &Job) -> Value {
    let result = job.result.as_ref().unwrap_or_else(|| panic!("no result: {:?} {:?}", job.status, job.error));
    serde_json::from_str(result.get()).unwrap()
}

pub async fn ends(q: &JobQueue, id: Uuid) -> Job {
    eventually("the job ends", || async { job(q, id).await.status.is_terminal() }).await;
    job(q, id).await
}

pub async fn runs(q: &JobQueue, id: Uuid) {
    eventually("the job runs", || async { job(q, id).await.status == Status::Running }).await;
}

/// The word for counting of a job that has failed.
pub async fn reason(db: &Db, id: Uuid) -> Option<String> {
    db.one("SELECT reason FROM rowlock.history WHERE id = $1", &[&id]).await
}
