//! A secret in payloads is found nowhere but where payloads belong: not in any process's arguments or environment,
//! not in logs at their loudest (Postgres's own too), not in errors, not in metrics, not in what commands print.
//!
//! Where it belongs: the database, the job's own stdin and payload file, and what shows a job whole (`jobs get`,
//! `enqueue --wait`, and `jobs list` as JSON or YAML).

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    binary::program,
    fleet::{Fleet, get, turn, until},
    support::{Db, database},
    work::{put_type, shell},
};

/// Job types, the reason their jobs end with, and scripts that read the payload and end in that way.
fn types() -> Vec<(&'static str, Option<&'static str>, Value)> {
    let process = |script: &str| json!({"command": shell(&format!("payload=$(cat); sleep 0.1; {script}"))});
    let resident = |script: &str| json!({"launch": "resident", "command": shell(&format!("read -r line; {script}"))});
    vec![
        ("fine", None, process("exit 0")),
        ("exits", Some("exit_code"), process("exit 3")),
        ("signal", Some("signal"), process("kill -9 $$")),
        ("slow", Some("timeout"), with(process("sleep 100000"), "timeout", json!("200 milliseconds"))),
        ("no-json", Some("invalid_result"), process(r#"echo "no $payload" > "$ROWLOCK_RESULT_FILE""#)),
        ("half-json", Some("invalid_result"), process(r#"echo "[$payload" > "$ROWLOCK_RESULT_FILE""#)),
        ("no-utf8", Some("invalid_utf8"), process(r#"printf "$payload\377" > "$ROWLOCK_RESULT_FILE""#)),
        (
            "schema",
            Some("invalid_payload"),
            with(process("exit 0"), "payload_schema", schema(json!({"type": "integer"}))),
        ),
        (
            "pattern",
            Some("invalid_payload"),
            with(process("exit 0"), "payload_schema", schema(json!({"pattern": "^x$"}))),
        ),
        ("no-command", Some("no_command"), json!({"command": []})),
        ("no-program", Some("spawn_failed"), json!({"command": ["no-such-program"]})),
        ("pod", Some("unsupported_launch"), json!({"launch": "pod", "image": "i", "command": ["true"]})),
        ("answers", None, resident(r#"echo '{"ok": true}'; read -r line"#)),
        ("echoes", Some("invalid_result"), resident(r#"echo "$line"; read -r line"#)),
        ("says", Some("invalid_result"), resident(r#"echo "got $line"; read -r line"#)),
        ("dies", Some("exit_code"), resident("exit 4")),
    ]
}

fn with(mut job_type: Value, key: &str, value: Value) -> Value {
    job_type[key] = value;
    job_type
}

fn schema(rule: Value) -> Value {
    json!({"properties": {"secret": rule}})
}

/// Looks into every process there is, again and again.
struct Watch {
    found: Arc<AtomicUsize>,
    rounds: Arc<AtomicUsize>,
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(secret: String) -> Watch {
        let (found, rounds, end) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (f, r, e) = (found.clone(), rounds.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            while !e.load(Ordering::SeqCst) {
                f.fetch_add(exposed(&secret), Ordering::SeqCst);
                r.fetch_add(1, Ordering::SeqCst);
            }
        });
        Watch { found, rounds, end, thread }
    }

    /// How often it looked, and how often it found something.
    fn stop(self) -> (usize, usize) {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        (self.rounds.load(Ordering::SeqCst), self.found.load(Ordering::SeqCst))
    }
}

/// How many processes have it in their arguments or their environment.
fn exposed(secret: &str) -> usize {
    let has = |path: std::path::PathBuf| contains(&std::fs::read(path).unwrap_or_default(), secret);
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    processes.filter(|p| has(p.join("cmdline")) || has(p.join("environ"))).count()
}

fn contains(text: &[u8], secret: &str) -> bool {
    text.windows(secret.len()).any(|w| w == secret.as_bytes())
}

/// Runs a command to its end, with a text on its stdin. Answers all that it printed.
fn command(db: &Db, args: &[&str], stdin: &str) -> Vec<u8> {
    let mut command = program();
    command.args(args).env("DATABASE_URL", &db.url).env("RUST_LOG", "trace");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    [output.stdout, output.stderr].concat()
}

/// What the program that was the `nth` to serve in a fleet exports, as soon as it is about the jobs that failed here.
async fn metrics(fleet: &Fleet, nth: usize) -> String {
    let served = || fleet.addresses().get(nth).and_then(|address| get(address, "/metrics").ok()).unwrap_or_default();
    let whole = |text: &str| text.contains(" 200 OK") && text.contains(r#"reason="timeout""#);
    until("metrics are served", || std::future::ready(whole(&served()))).await;
    served()
}

fn refused(secret: &str) -> String {
    secret.replace("canary", "refused")
}

/// A job of each type, enqueued by the program, and one that runs until it is told otherwise.
fn enqueue_all(db: &Db, secret: &str) -> Vec<u8> {
    let payload = json!({"secret": secret}).to_string();
    let names = types().into_iter().map(|(name, ..)| name).chain(["unheard", "endless"]);
    let printed = names.map(|name| command(db, &["enqueue", name, "-", "--max-retries", "0"], &payload));
    let mut printed: Vec<u8> = printed.flatten().collect();
    // Refused ones: what is no JSON, no object, or has what Postgres cannot keep. Postgres logs the line of JSON
    // that it could not read, which is its own doing: so these have a secret that is not searched for there.
    let refused = refused(secret);
    for bad in [format!("{{\"a\": \"{refused}\""), format!("\"{refused}\""), format!("{{\"a\": \"{refused}\\u0000\"}}")]
    {
        let said = command(db, &["enqueue", "fine", "-"], &bad);
        assert!(!said.is_empty());
        printed.extend(said);
    }
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_a_payload_is_found_in_no_process_no_log_no_error_and_no_table() {
    let _turn = turn().await;
    let secret = format!("canary{}", Uuid::now_v7().simple());
    let db = &database().await;
    for (name, _, job_type) in types() {
        put_type(db, with(job_type, "name", json!(name))).await;
    }
    put_type(db, json!({"name": "endless", "command": shell("sleep 100000 & setsid sleep 100000 & wait")})).await;
    let watch = Watch::start(secret.clone());
    let mut printed = enqueue_all(db, &secret);

    // One worker is killed under the endless job, the next one is cut off from it and then asked to end.
    let fleet = Fleet::new(&db.url, &["--lease", "2s", "--grace", "2s", "--http", "127.0.0.1:0"]).loud();
    let controllers = Fleet::new(&db.url, &["--http", "127.0.0.1:0"]).loud();
    let _controller = controllers.run(&["controller"]);
    let first = fleet.start();
    let holder = "SELECT max(worker::text) FROM rowlock.lease";
    let (ready, ended) = ("SELECT count(*) FROM rowlock.ready", "SELECT count(*) FROM rowlock.history");
    let jobs = i64::try_from(types().len()).unwrap() + 1;
    until("only the endless job is left", || async { db.one::<i64>(ended, &[]).await == jobs }).await;
    let by_first: Option<String> = db.one(holder, &[]).await;
    first.kill();
    let mut second = fleet.start();
    let by_other = |than: Option<String>| async move {
        let by: Option<String> = db.one(holder, &[]).await;
        by.is_some() && by != than
    };
    until("the endless job runs again", || by_other(by_first.clone())).await;
    let by_second: Option<String> = db.one(holder, &[]).await;
    db.run("UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 second'").await;
    until("it runs under another lease", || by_other(by_second.clone())).await;
    let metrics = [metrics(&fleet, 1).await, metrics(&controllers, 0).await];
    second.signal("TERM");
    until("it ends", || std::future::ready(second.ended().is_some())).await;
    assert_eq!(db.one::<i64>(ready, &[]).await, 1, "the endless job is handed back");
    for args in [
        &["jobs", "list"][..],
        &["jobs", "list", "-o", "wide"],
        &["jobs", "list", "-o", "name"],
        &["queues", "list", "-o", "json"],
        &["types", "list", "-o", "json"],
        &["workers", "list", "-o", "json"],
        &["doctor", "-o", "json"],
        &["jobs", "cancel", "--type", "endless", "--yes", "-o", "json"],
    ] {
        let said = command(db, args, "");
        assert!(!said.is_empty(), "{args:?}");
        printed.extend(said);
    }
    let (rounds, in_processes) = watch.stop();
    assert!(!contains(&printed, &refused(&secret)), "a refusal repeats what it refuses");

    let logged = [fleet.log(), controllers.log()].map(|log| std::fs::read(log).unwrap()).concat();
    let server_log: String = db.one("SELECT current_setting('data_directory') || '/server.log'", &[]).await;
    let sql = "SELECT type, reason, coalesce(error, ''), payload::text FROM rowlock.history";
    let rows = db.client.query(sql, &[]).await.unwrap();
    let in_errors = rows.iter().filter(|r| r.get::<_, String>(2).contains(&secret)).count();
    let everywhere = [
        ("printed", printed),
        ("logged", logged),
        ("metrics", metrics.concat().into_bytes()),
        ("Postgres's log", std::fs::read(server_log).unwrap()),
    ];
    let found: Vec<&str> =
        everywhere.iter().filter(|(_, text)| contains(text, &secret)).map(|(what, _)| *what).collect();
    eprintln!(
        "canary: {} jobs, {rounds} looks into all processes: {in_processes} found; {in_errors} in errors; elsewhere: \
         {found:?} \
         of {:?} bytes",
        rows.len(),
        everywhere.iter().map(|(what, text)| (*what, text.len())).collect::<Vec<_>>(),
    );
    for (name, reason, _) in types() {
        let row = rows.iter().find(|r| r.get::<_, &str>(0) == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(row.get::<_, Option<&str>>(1), reason, "{name}: {}", row.get::<_, &str>(2));
        assert!(row.get::<_, &str>(3).contains(&secret), "the payload is where it belongs");
    }
    assert!(rounds > 10);
    assert_eq!((in_processes, in_errors, found), (0, 0, Vec::new()));
}

/// The watch above sees what it is to see.
#[test]
fn a_secret_in_an_environment_or_an_argument_is_found() {
    let secret = format!("canary{}", Uuid::now_v7().simple());
    assert_eq!(exposed(&secret), 0);
    let mut shown = [
        Command::new("sleep").arg("100000").env("SHOWN", &secret).spawn().unwrap(),
        Command::new("sleep").arg0(&secret).arg("100000").spawn().unwrap(),
    ];
    let started = std::time::Instant::now();
    while exposed(&secret) < 2 {
        assert!(started.elapsed() < crate::fleet::PATIENCE);
    }
    for child in &mut shown {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
