//! What is wrong with the machine, or with the world around a worker, is not charged to its jobs.

use std::time::{Duration, Instant};

use rowlock::{JobQueue, NewJob, Status, worker};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    binary::{PROGRAM, unsteered},
    proxy::Proxy,
    support::eventually,
    work::{
        Program, Working, drain, ends, exists, job, options, processes_with, program, put_type, runs, shell,
        unique_sleep, with_type,
    },
};

#[tokio::test]
async fn a_worker_without_descriptors_consumes_no_attempt_and_says_so() {
    let (q, db) = with_type(json!({"command": ["sleep", "0.5"], "max_retries": 3})).await;
    let jobs = q.enqueue_many(&vec![NewJob::new("t", json!({})); 30]).await.unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut shell = unsteered(std::process::Command::new("sh"));
    shell.args(["-c", "ulimit -n 48; exec \"$@\"", "sh", PROGRAM, "worker", "--concurrency", "30", "--http", &address]);
    shell.env("DATABASE_URL", &db.url).stdout(std::process::Stdio::null());
    let _worker = Program(shell.spawn().unwrap());
    eventually("it is not ready, and says why", || async {
        readyz(&address).await.is_some_and(|text| text.contains("[-] work: ") && text.contains("not ready"))
    })
    .await;
    for id in jobs.iter().map(|enqueued| enqueued.id) {
        let job = ends(&q, id).await;
        assert_eq!((job.status, job.attempts), (Status::Completed, 0), "{:?}", job.error);
    }
}

/// The checklist; none if there is no answer at the moment.
async fn readyz(address: &str) -> Option<String> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(2), answer).await.ok()?.ok()
}

#[tokio::test]
async fn a_job_that_removes_directories_takes_nothing_of_others() {
    let (q, db) = with_type(json!({"command": ["true"], "max_retries": 3})).await;
    let own = shell(r#"rm -rf "$(dirname "$ROWLOCK_RESULT_FILE")""#);
    let workers = shell(r#"rm -rf "$(dirname "$(dirname "$ROWLOCK_RESULT_FILE")")""#);
    put_type(&db, json!({"name": "own", "command": own, "max_retries": 3})).await;
    put_type(&db, json!({"name": "workers", "command": workers, "max_retries": 3})).await;
    let working = Working::start(&q, worker::WorkerOptions { poll: Duration::from_millis(50), ..options() });
    for name in ["own", "t", "workers", "t", "t"] {
        let job = ends(&q, q.enqueue(name, json!({})).await.unwrap().id).await;
        assert_eq!((job.status, job.attempts), (Status::Completed, 0), "{name}: {:?}", job.error);
    }
    working.stop().await;
}

#[tokio::test]
async fn signals_that_are_for_other_programs_end_no_worker() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let script = format!("touch {}; until test -e {}; do sleep 0.05; done", begun.display(), go.display());
    let (q, db) = with_type(json!({"command": shell(&script)})).await;
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    let mut command = program(&db);
    // No terminal, whoever runs the test.
    command.arg("worker").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut worker = Program(command.spawn().unwrap());
    exists(&begun).await;
    for name in ["-HUP", "-USR1", "-USR2"] {
        worker.signal(name);
    }
    std::fs::write(&go, "").unwrap();
    assert_eq!(ends(&q, id).await.status, Status::Completed);
    let next = q.enqueue("t", json!({})).await.unwrap().id;
    assert_eq!(ends(&q, next).await.status, Status::Completed);
    assert!(worker.0.try_wait().unwrap().is_none(), "it lives");
    worker.signal("-TERM");
    eventually("it ends", || {
        let ended = worker.0.try_wait().unwrap().is_some();
        async move { ended }
    })
    .await;
}

#[tokio::test]
async fn a_hurry_reaches_a_worker_whose_database_is_away() {
    let sleep = unique_sleep();
    let (direct, db) = with_type(json!({"command": ["sleep", sleep]})).await;
    let proxy = Proxy::to(&db.url).await;
    let q = JobQueue::connect(&proxy.url(&db.url)).await.unwrap();
    let id = direct.enqueue("t", json!({})).await.unwrap().id;
    let long = Duration::from_secs(600);
    let working = Working::start(&q, worker::WorkerOptions { lease: long, grace: long, ..options() });
    runs(&direct, id).await;
    eventually("its process is there", || async { processes_with(&sleep) == 1 }).await;
    proxy.freeze(true);
    let asked = Instant::now();
    working.shutdown.drain.cancel();
    working.shutdown.hurry.cancel();
    let ended = working.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(processes_with(&sleep), 0, "{ended:?}");
    proxy.freeze(false);
}

#[tokio::test]
async fn a_row_that_cannot_be_used_fails_its_own_jobs_with_the_reason_and_ends_no_worker() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    put_type(&db, json!({"name": "well", "command": ["true"]})).await;
    // The doors refuse such a time; the row is from elsewhere.
    db.run("UPDATE rowlock.job_type SET timeout = '270000 years' WHERE name = 't'").await;
    let odd = q.enqueue("t", json!({})).await.unwrap().id;
    let well = q.enqueue("well", json!({})).await.unwrap().id;
    drain(&q).await;
    let failed = job(&q, odd).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.as_deref().is_some_and(|error| error.contains("timeout: ")), "{:?}", failed.error);
    assert_eq!(job(&q, well).await.status, Status::Completed);
}
