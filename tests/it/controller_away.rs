//! The database is away for a minute, under a running controller with its workers: they are held, the metrics say
//! so, and all goes on when it is back.
#![allow(clippy::print_stdout)] // the figures are what this test is for

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rowlock::{
    JobQueue, NewJob,
    controller::{self, Limits, Rule, local::LocalOptions},
    http::{self, State},
    local_postgres::{LocalPostgres, Options},
    metrics::Facts,
};
use serde_json::json;

use crate::{
    binary::PROGRAM,
    controller_scale::{Scaling, limits, local},
    http::get,
    metrics::samples,
    support::{Db, connect, eventually},
    work::{put_type, shell},
};

const AWAY: Duration = Duration::from_secs(60);
/// Of 200 jobs of 0.4 s, four at once.
const JOBS: usize = 200;
const WORKERS: u32 = 2;

/// A server that keeps its data and its port.
async fn server(dir: &Path, port: Option<u16>) -> LocalPostgres {
    let persist = Some(dir.join("data"));
    LocalPostgres::start(Options { persist, port, ..Options::default() }).await.unwrap()
}

/// The workers, by the name under which the program was started: their environment is readable to nobody.
fn workers(program: &Path) -> BTreeSet<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).next() == Some(program.as_os_str().as_encoded_bytes())
    })
    .collect()
}

fn is_counter(name: &str) -> bool {
    name.contains("_total") || name.contains("rowlock_job_")
}

/// What a scrape says, and that it came soon, and that no counter is lower than it was.
async fn scrape(at: SocketAddr, highest: &mut BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let asked = Instant::now();
    let (code, text) = get(at, "/metrics").await;
    assert!(code == 200 && asked.elapsed() < Duration::from_secs(8), "{code} after {:?}", asked.elapsed());
    let now = samples(&text);
    for (name, value) in now.iter().filter(|(name, _)| is_counter(name)) {
        let before = highest.insert(name.clone(), *value).unwrap_or_default();
        assert!(*value >= before, "{name} went back from {before} to {value}");
    }
    now
}

async fn completed(db: &Db) -> i64 {
    db.one("SELECT coalesce(sum(completed), 0)::int8 FROM rowlock.demand() WHERE type = 't'", &[]).await
}

/// Each second of the time away: the same workers, and metrics that say that the database is away.
async fn hold(
    at: SocketAddr,
    held: &BTreeSet<i32>,
    program: &Path,
    highest: &mut BTreeMap<String, f64>,
    last_read: f64,
) {
    let began = Instant::now();
    let (mut looks, mut told) = (0, None);
    while began.elapsed() < AWAY {
        let now = scrape(at, highest).await;
        assert_eq!(&workers(program), held, "{:?} after the database went", began.elapsed());
        looks += 1;
        if now["rowlock_database_up"] == 0.0 {
            told.get_or_insert(began.elapsed());
            assert!(!now.keys().any(|name| is_counter(name)), "an old figure is told as if it were of now: {now:#?}");
            assert!(now["rowlock_scrape_timestamp_seconds"] >= last_read && now.contains_key("rowlock_leader"));
        } else {
            assert!(told.is_none(), "it cannot be up");
        }
        if began.elapsed() > Duration::from_secs(40) {
            assert_eq!(now["rowlock_leader"], 0.0, "a reign that cannot be renewed is over");
            assert_eq!(get(at, "/readyz").await.0, 503);
            assert_eq!(get(at, "/livez").await.0, 200);
        }
        // A pace, not a wait.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let told = told.expect("the metrics say that the database is away");
    println!("away {AWAY:?}: told {told:?} after it went; {looks} looks, always the same {} workers", held.len());
    assert!(told < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_a_minute_holds_all_as_it_is_and_then_all_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    // The server may be another user than we.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let postgres = server(dir.path(), None).await;
    let url = postgres.url("postgres");
    let port = url.rsplit_once('/').and_then(|(rest, _)| rest.rsplit_once(':')).and_then(|(_, p)| p.parse().ok());
    // A name of its own, to find its workers by.
    let program = dir.path().join("rowlock");
    std::os::unix::fs::symlink(PROGRAM, &program).unwrap();
    let q = JobQueue::connect(&url).await.unwrap();
    q.migrate().await.unwrap();
    let db = Db { client: connect(&url).await, url: url.clone() };
    put_type(&db, json!({"command": shell("sleep 0.4"), "expected": "400 milliseconds"})).await;
    put_type(&db, json!({"name": "tick", "command": ["true"], "expected": "10 milliseconds"})).await;
    let schedule = json!({"name": "s", "type": "tick", "every": "1 second", "catch_up": "all"});
    db.client.execute("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();

    let facts = Facts::new("dev");
    let served = http::serve("127.0.0.1:0".parse().unwrap(), State::new(q.clone(), facts.clone())).await.unwrap();
    let limits = Limits { rule: Rule::JobsPerReplica(4), ..limits(WORKERS, Duration::from_secs(1)) };
    let options = controller::Options { facts, ..controller::Options::default() };
    let scaling = Scaling::of(&q, LocalOptions { program: program.clone(), ..local(&db, limits, 2) }, options);
    let jobs: Vec<NewJob> = (0..JOBS).map(|n| NewJob::new("t", json!({"n": n}))).collect();
    q.enqueue_many(&jobs).await.unwrap();
    eventually("some jobs are done by all workers", || async {
        completed(&db).await > 20 && workers(&program).len() == WORKERS as usize
    })
    .await;
    let mut highest = BTreeMap::new();
    let before = scrape(served.address, &mut highest).await;
    assert_eq!((before["rowlock_database_up"], before["rowlock_leader"]), (1.0, 1.0));
    let held = workers(&program);

    let done = completed(&db).await;
    tokio::task::spawn_blocking(|| drop(postgres)).await.unwrap();
    hold(served.address, &held, &program, &mut highest, before["rowlock_scrape_timestamp_seconds"]).await;
    let _postgres = server(dir.path(), port).await;
    let back = Instant::now();
    goes_on(&url, done, served.address, &mut highest, back).await;
    eventually("the workers go again", || async { workers(&program).is_empty() }).await;
    scaling.stop().await;
}

async fn goes_on(url: &str, done: i64, at: SocketAddr, highest: &mut BTreeMap<String, f64>, back: Instant) {
    let soon = async |what: &str, within: Duration| {
        println!("{what} {:?} after the database is back", back.elapsed());
        assert!(back.elapsed() < within, "{what} only {:?} after the database is back", back.elapsed());
    };
    let db = Db { client: connect(url).await, url: url.to_owned() };
    loop {
        let now = scrape(at, highest).await;
        if now["rowlock_database_up"] == 1.0 {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(10), "the metrics say that it is still away");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    soon("the metrics are back", Duration::from_secs(5)).await;
    eventually("it leads again", async || scrape(at, &mut BTreeMap::new()).await["rowlock_leader"] == 1.0).await;
    soon("it leads", Duration::from_secs(5)).await;
    eventually("a job is done", async || completed(&db).await > done).await;
    soon("a job is done", Duration::from_secs(10)).await;
    eventually("all jobs are done", async || completed(&db).await == JOBS as i64).await;
    soon("all jobs are done", Duration::from_secs(40)).await;
    let row = db
        .client
        .query_one(
            "SELECT count(*) FILTER (WHERE type = 't' AND status = 'completed' AND attempts = 0),
                    count(*) FILTER (WHERE type = 'tick') - count(DISTINCT headers ->> 'rowlock-tick'),
                    extract(epoch FROM max(execute_at) FILTER (WHERE type = 'tick') - min(execute_at) FILTER (WHERE type = 'tick'))::int8 + 1
                      - count(*) FILTER (WHERE type = 'tick'), count(*) FILTER (WHERE type = 'tick') FROM rowlock.jobs",
            &[],
        )
        .await
        .unwrap();
    let (whole, twice, missing, ticks): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    println!("{whole} jobs, none lost; {ticks} ticks of a schedule of every second, {twice} twice, {missing} missing");
    assert_eq!((whole, twice, missing), (JOBS as i64, 0, 0));
    assert!(ticks > AWAY.as_secs() as i64);
    scrape(at, highest).await;
    db.run("SELECT rowlock.remove_schedule('s')").await;
}
