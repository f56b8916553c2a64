//! `/livez`, `/readyz` and `/metrics`, of the program and of a server in this process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use rowlock::{
    JobQueue,
    http::{self, Served, State},
    metrics::Facts,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    binary::program,
    metrics::samples,
    proxy::Proxy,
    support::{Db, PATIENCE, database, empty_database, eventually},
    work::Program,
};

/// The status and the body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.0\r\nHost: rowlock\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = tokio::time::timeout(PATIENCE, answer).await.expect("an answer").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A server of this process, and the facts it tells.
pub async fn serving(url: &str) -> (Served, Facts) {
    let facts = Facts::new("controller");
    let queue = JobQueue::connect(url).await.unwrap();
    let state = State::new(queue, facts.clone());
    (http::serve("127.0.0.1:0".parse().unwrap(), state).await.unwrap(), facts)
}

/// The program as a worker or controller that serves, and where.
pub fn started(db: &Db, what: &str) -> (Program, SocketAddr) {
    let mut command = program();
    command.args([what, "--http", "127.0.0.1:0", "--log-format", "json"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("DATABASE_URL", &db.url);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines
        .by_ref()
        // Every line but messages to people, which are not the log's.
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).ok())
        .find_map(|line| line["address"].as_str().map(|a| a.parse().unwrap()))
        .expect("it says where it serves");
    std::thread::spawn(move || lines.for_each(drop));
    (Program(child), address)
}

#[tokio::test]
async fn a_worker_is_alive_and_ready_and_tells_its_metrics() {
    let db = database().await;
    let (_worker, at) = started(&db, "worker");
    assert_eq!(get(at, "/livez").await, (200, "ok\n".to_owned()));
    eventually("it is ready", || async { get(at, "/readyz").await.0 == 200 }).await;
    let (_, list) = get(at, "/readyz").await;
    for line in ["[+] database: answers\n", "[+] schema: version ", "[+] role: worker\n", "[+] last tick: 0", "ready\n"]
    {
        assert!(list.contains(line), "{list}");
    }
    let (code, text) = get(at, "/metrics").await;
    assert_eq!((code, samples(&text)["rowlock_database_up"]), (200, 1.0));
    assert_eq!(get(at, "/nothing").await.0, 404);
}

#[tokio::test]
async fn of_two_controllers_both_are_ready_one_leads_and_when_it_dies_the_other_does() {
    let db = database().await;
    let (mut first, a) = started(&db, "controller");
    let leads = async |at| samples(&get(at, "/metrics").await.1)["rowlock_leader"];
    eventually("the first leads", async || leads(a).await == 1.0).await;
    let (_second, b) = started(&db, "controller");
    eventually("the second is ready", async || get(b, "/readyz").await.0 == 200).await;
    assert_eq!((leads(a).await, leads(b).await), (1.0, 0.0));
    for (at, role) in [(a, "leader"), (b, "follower")] {
        let (code, list) = get(at, "/readyz").await;
        assert!(code == 200 && list.contains(&format!("[+] role: {role}\n")), "{list}");
    }
    let counters = async |at| -> Vec<_> {
        let all = samples(&get(at, "/metrics").await.1);
        all.into_iter().filter(|(name, _)| name.contains("_total") || name.contains("rowlock_job_")).collect()
    };
    db.enqueue().await;
    eventually("both tell the same totals", async || {
        let told = counters(a).await;
        told.iter().any(|(name, _)| name.contains("rowlock_jobs_")) && told == counters(b).await
    })
    .await;
    let before = counters(a).await;
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    eventually("the second leads", async || leads(b).await == 1.0).await;
    assert_eq!(counters(b).await, before);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_if_it_was_asked_for() {
    let db = database().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program();
    command.args(["worker", "--stop-when-empty", "--http", &address]).env_clear().env("DATABASE_URL", &db.url);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("--http: cannot listen on {address}")), "{said}");
}

#[tokio::test]
async fn a_storm_of_scrapes_costs_one_read() {
    let db = database().await;
    let (served, _facts) = serving(&db.url).await;
    db.run("CREATE SEQUENCE public.reads; GRANT ALL ON SEQUENCE public.reads TO PUBLIC").await;
    // Counted inside the function, without a change of what it answers.
    db.run(
        "ALTER FUNCTION rowlock.metrics_v1 RENAME TO metrics_v1_real;
         CREATE FUNCTION rowlock.metrics_v1(int4[], int2[], int8[]) RETURNS TABLE (what text, queue text, type text, label text, value float8) LANGUAGE sql AS
           'SELECT r.* FROM (SELECT nextval(''public.reads'')) n, rowlock.metrics_v1_real($1, $2, $3) r'",
    )
    .await;
    let started = Instant::now();
    let mut storm = JoinSet::new();
    for _ in 0..50 {
        storm.spawn(get(served.address, "/metrics"));
    }
    for (code, text) in storm.join_all().await {
        assert_eq!((code, samples(&text)["rowlock_database_up"]), (200, 1.0));
    }
    let reads: i64 = db.one("SELECT last_value FROM public.reads", &[]).await;
    let most = 1 + started.elapsed().as_secs() as i64;
    assert!((1..=most).contains(&reads), "{reads} reads for 50 scrapes in {:?}", started.elapsed());
}

#[tokio::test]
async fn a_database_that_hangs_is_down_within_seconds_and_up_again_when_it_answers() {
    let db = database().await;
    db.enqueue().await;
    let proxy = Proxy::to(&db.url).await;
    let (served, facts) = serving(&proxy.url(&db.url)).await;
    facts.set_leader(true);
    facts.tick(Instant::now());
    let before = samples(&get(served.address, "/metrics").await.1);
    assert_eq!(before["rowlock_database_up"], 1.0);
    proxy.freeze(true);
    eventually("the database counts as down", || async {
        let asked = Instant::now();
        let (code, text) = get(served.address, "/metrics").await;
        assert!(code == 200 && asked.elapsed() < Duration::from_secs(8), "{code} after {:?}", asked.elapsed());
        let now = samples(&text);
        now["rowlock_database_up"] == 0.0
            && now["rowlock_leader"] == 1.0
            && now["rowlock_scrape_timestamp_seconds"] >= before["rowlock_scrape_timestamp_seconds"]
    })
    .await;
    let (code, list) = get(served.address, "/readyz").await;
    assert!(code == 503 && list.contains("[-] database: ") && list.ends_with("not ready\n"), "{list}");
    assert_eq!(get(served.address, "/livez").await.0, 200);
    proxy.freeze(false);
    eventually("it is up again", || async {
        samples(&get(served.address, "/metrics").await.1)["rowlock_database_up"] == 1.0
    })
    .await;
    let after = samples(&get(served.address, "/metrics").await.1);
    let counters: Vec<_> = before.iter().filter(|(name, _)| name.contains("_total")).collect();
    assert!(!counters.is_empty());
    for (name, value) in counters {
        assert!(after.get(name).is_some_and(|n| n >= value), "{name} went back from {value}");
    }
}

/// Faults of others: a lock that is held, a view that has grown. Whoever asks again every five seconds must not add one
/// query after the other.
#[tokio::test]
async fn a_probe_that_gives_up_leaves_no_query_on_the_server() {
    let db = database().await;
    let (served, _facts) = serving(&db.url).await;
    assert_eq!(get(served.address, "/readyz").await.0, 503, "no tick yet");
    let mut blocker = crate::support::connect(&db.url).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE rowlock.total, rowlock.queue, rowlock.tally IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    tokio::time::timeout(PATIENCE, async {
        while !get(served.address, "/readyz").await.1.contains("[-] database: ") {}
    })
    .await
    .expect("the database counts as down");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'
                     AND query LIKE '%metrics_v1%' AND pid <> pg_backend_pid()";
    eventually("the server has cancelled it while the lock is held", || async {
        db.one::<i64>(running, &[]).await == 0
    })
    .await;
    lock.rollback().await.unwrap();
    eventually("it is read again", || async { get(served.address, "/readyz").await.1.contains("[+] database: ") })
        .await;
}

#[tokio::test]
async fn both_families_are_served_where_the_address_stands_for_all() {
    let db = database().await;
    let queue = JobQueue::connect(&db.url).await.unwrap();
    let state = State::new(queue, Facts::new("controller"));
    let served = http::serve("[::]:0".parse().unwrap(), state).await.unwrap();
    let port = served.address.port();
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/livez").await.0, 200);
    // A machine may have no IPv6 at all.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(get((std::net::Ipv6Addr::LOCALHOST, port).into(), "/livez").await.0, 200);
    }
    drop(served);
    eventually("both are closed", || async { TcpStream::connect(("127.0.0.1", port)).await.is_err() }).await;
}

#[tokio::test]
async fn a_database_without_the_schema_is_not_ready_and_the_list_says_what_to_do() {
    let db = empty_database().await;
    let (served, _facts) = serving(&db.url).await;
    let (code, list) = get(served.address, "/readyz").await;
    assert!(code == 503 && list.contains("rowlock migrate up"), "{list}");
    assert!(list.contains("[-] last tick: none yet"), "{list}");
}

#[tokio::test]
async fn one_who_sends_nothing_is_sent_away_and_holds_up_nobody() {
    let db = database().await;
    let (served, _facts) = serving(&db.url).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /metr").await.unwrap();
        silent.push(stream);
    }
    // There is no room until they are gone.
    let mut refused = TcpStream::connect(served.address).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 1])).await.expect("closed at once");
    assert!(matches!(closed, Ok(0) | Err(_)));
    for stream in &mut silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        ended.expect("one who sends nothing is cut off").unwrap_or_default();
    }
    assert_eq!(get(served.address, "/livez").await.0, 200);
}

#[tokio::test]
async fn nothing_is_served_any_more_when_the_server_is_dropped() {
    let db = database().await;
    let (served, _facts) = serving(&db.url).await;
    let address = served.address;
    drop(served);
    eventually("the port is closed", || async { TcpStream::connect(address).await.is_err() }).await;
}
