//! Through PgBouncer in transaction mode: no session state, no prepared statements.

use std::{
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rowlock::{JobQueue, NewJob, launch, worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{database, eventually};

struct Pooler {
    child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(database_url: &str) -> Pooler {
    let config: tokio_postgres::Config = database_url.parse().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let ini = dir.path().join("pgbouncer.ini");
    let users = dir.path().join("users.txt");
    std::fs::write(&users, "\"rowlock\" \"\"\n").unwrap();
    let mut file = std::fs::File::create(&ini).unwrap();
    write!(
        file,
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\n\
         auth_file = {}\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\nunix_socket_dir =\n",
        config.get_ports()[0],
        users.display()
    )
    .unwrap();
    let mut command = Command::new("pgbouncer");
    // It refuses to run as root, as it should.
    if let Some((uid, gid)) = unprivileged() {
        for path in [dir.path(), &ini, &users] {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
        command.uid(uid).gid(gid);
    }
    let child = command
        .arg(&ini)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbouncer is installed: make setup");
    Pooler { child, _dir: dir, port }
}

/// nobody, if this is root.
fn unprivileged() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|l| l.starts_with("Uid:\t0\t"));
    root.then_some((65534, 65534))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_and_a_worker_drain_a_thousand_jobs_through_pgbouncer_without_an_error() {
    let db = database().await;
    let pooler = start(&db.url);
    let direct: tokio_postgres::Config = db.url.parse().unwrap();
    let url = format!("postgres://rowlock@127.0.0.1:{}/{}?sslmode=disable", pooler.port, direct.get_dbname().unwrap());
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
