//! One server per test process, one database per test, and the few calls every test makes.

use std::{
    future::Future,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rowlock::local_postgres::{LocalPostgres, Options};
use tokio_postgres::{Client, NoTls, types::ToSql};
use uuid::Uuid;

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
const TEMPLATE: &str = "rowlock_template";

pub struct Db {
    pub url: String,
    pub client: Client,
}

/// The server. It belongs to no test's runtime; it ends with the process, whose pipe it watches.
pub fn server() -> &'static LocalPostgres {
    static SERVER: OnceLock<LocalPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        // A runtime cannot be entered from within another, so this one has its own thread.
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server =
                    LocalPostgres::start(Options { persist: None, ram: true, ..Options::default() }).await.unwrap();
                let admin = connect(&server.url("postgres")).await;
                admin.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await.unwrap();
                let mut client = connect(&server.url(TEMPLATE)).await;
                rowlock::migrate::up(&mut client).await.unwrap();
                server
            })
        };
        std::thread::spawn(start).join().unwrap()
    })
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database of this test's own without the schema.
pub async fn empty_database() -> Db {
    create("template0").await
}

/// A database of this test's own with the schema.
pub async fn database() -> Db {
    create(TEMPLATE).await
}

async fn create(template: &str) -> Db {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = connect(&server().url("postgres")).await;
    let started = Instant::now();
    // 55006: the connection that made the template is still closing.
    while let Err(e) = admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await {
        assert!(e.code().is_some_and(|c| c.code() == "55006") && started.elapsed() < PATIENCE, "{e:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let url = server().url(&name);
    let client = connect(&url).await;
    Db { url, client }
}

/// Asks again until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Debug, Clone)]
pub struct Claimed {
    pub lease: i64,
    pub id: Uuid,
    pub attempts: i16,
    pub lane_rank: i16,
    pub pos: i64,
}

impl Db {
    /// One value.
    pub async fn one<T>(&self, sql: &str, args: &[&(dyn ToSql + Sync)]) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        match self.client.query_one(sql, args).await {
            Ok(row) => row.get(0),
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }

    pub async fn run(&self, sql: &str) {
        if let Err(e) = self.client.batch_execute(sql).await {
            panic!("{sql}: {e:?}");
        }
    }

    pub async fn enqueue(&self) -> Uuid {
        self.one("SELECT id FROM rowlock.enqueue('t')", &[]).await
    }

    pub async fn worker(&self, lease_seconds: f64) -> Uuid {
        self.one("SELECT rowlock.register_worker_v1('w', 'host/1', '{default}', 10, $1)", &[&lease_seconds]).await
    }

    pub async fn claim(&self, worker: Uuid, max: i32) -> Vec<Claimed> {
        self.claim_from(worker, "default", max).await
    }

    /// In order of claim.
    pub async fn claim_from(&self, worker: Uuid, queue: &str, max: i32) -> Vec<Claimed> {
        let rows = self
            .client
            .query(
                "SELECT lease, id, attempts, lane_rank, pos FROM rowlock.claim_v1($1, ARRAY[$2], $3)",
                &[&worker, &queue, &max],
            )
            .await
            .unwrap();
        let mut jobs: Vec<Claimed> = rows
            .iter()
            .map(|r| Claimed { lease: r.get(0), id: r.get(1), attempts: r.get(2), lane_rank: r.get(3), pos: r.get(4) })
            .collect();
        jobs.sort_by_key(|j| (j.lane_rank, j.pos));
        jobs
    }

    pub async fn claim_one(&self, worker: Uuid) -> Claimed {
        let mut jobs = self.claim(worker, 1).await;
        assert_eq!(jobs.len(), 1, "one job is there to claim");
        jobs.remove(0)
    }

    /// The ids that were refused.
    pub async fn complete(&self, worker: Uuid, jobs: &[Claimed]) -> Vec<Uuid> {
        let (leases, ids) = split(jobs);
        let rows = self
            .client
            .query("SELECT refused FROM rowlock.complete_v1($1, $2, $3)", &[&worker, &leases, &ids])
            .await
            .unwrap();
        rows.iter().map(|r| r.get(0)).collect()
    }

    /// The job's new status.
    pub async fn fail(&self, worker: Uuid, job: &Claimed, error: &str, retryable: bool) -> String {
        self.one(
            "SELECT status FROM rowlock.fail_v1($1, ARRAY[$2::int8], ARRAY[$3::uuid], ARRAY[$4::text], ARRAY[$5::bool])",
            &[&worker, &job.lease, &job.id, &error, &retryable],
        )
        .await
    }

    /// How many were refused.
    pub async fn release(&self, worker: Uuid, job: &Claimed, delay: Option<f64>, retried: bool) -> i64 {
        self.one(
            "SELECT count(*) FROM rowlock.release_v1($1, ARRAY[$2::int8], ARRAY[$3::uuid], ARRAY[$4::float8], retried => $5)",
            &[&worker, &job.lease, &job.id, &delay, &retried],
        )
        .await
    }

    pub async fn status(&self, id: Uuid) -> Option<String> {
        self.client.query_opt("SELECT status FROM rowlock.get_job($1)", &[&id]).await.unwrap().map(|r| r.get(0))
    }

    /// A round of keeping by somebody who becomes the keeper if need be: promoted, rescued.
    pub async fn keep(&self) -> (i32, i32) {
        self.run("UPDATE rowlock.keeper SET held_until = '-infinity'").await;
        let row = self
            .client
            .query_one("SELECT promoted, rescued FROM rowlock.maintain_v1(gen_random_uuid())", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1))
    }

    /// Makes every job's time come.
    pub async fn make_due(&self) {
        self.run("UPDATE rowlock.scheduled SET execute_at = clock_timestamp() - interval '1 second'").await;
        self.keep().await;
    }

    /// The SQLSTATE and message of a statement that must fail.
    pub async fn refusal(&self, sql: &str) -> (String, String) {
        refusal(&self.client, sql).await
    }
}

pub async fn refusal(client: &Client, sql: &str) -> (String, String) {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("was not refused: {}", sql.chars().take(300).collect::<String>()),
        Err(e) => {
            let db = e.as_db_error().unwrap();
            (db.code().code().to_owned(), db.message().to_owned())
        }
    }
}

pub fn split(jobs: &[Claimed]) -> (Vec<i64>, Vec<Uuid>) {
    jobs.iter().map(|j| (j.lease, j.id)).unzip()
}
