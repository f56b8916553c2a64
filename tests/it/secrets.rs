//! A job that tries hard does not find its worker's password: not as the same ordinary user, not as the
//! root of a container, not where the worker is the first process of one.

use std::{
    io::Write,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    binary::{PROGRAM, unsteered},
    support::{Db, database, eventually},
    work::put_type,
};

const PASSWORD: &str = "hunter2-of-the-worker";
const THIEF: &str = include_str!("thief.py");
/// A user of every Linux system, for whom the tests of root run a worker.
const NOBODY: &str = "65534";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn backwards() -> String {
    PASSWORD.chars().rev().collect()
}

/// The database with a password, which the tests' server does not ask for.
fn url(db: &Db) -> String {
    db.url.replace("rowlock@", &format!("rowlock:{PASSWORD}@"))
}

/// A directory for any user, with the thief.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(dir.path().join("thief.py"), THIEF).unwrap();
    // The file of a URL, which is handed over open.
    std::fs::write(dir.path().join("url"), PASSWORD).unwrap();
    std::fs::set_permissions(dir.path().join("url"), PermissionsExt::from_mode(0o600)).unwrap();
    dir
}

/// A command behind others that say as whom it runs, with a descriptor that holds the password.
fn behind(dir: &Path, wrap: &[&str], command: &[&str]) -> Command {
    let mut sh = unsteered(Command::new("sh"));
    sh.args(["-c", "exec 3<url; exec \"$@\"", "sh"]).args(wrap).args(command).current_dir(dir);
    sh.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    sh
}

fn thief(dir: &Path) -> Vec<String> {
    vec!["python3".into(), "-I".into(), dir.join("thief.py").to_str().unwrap().into()]
}

/// What the thief of each kind of launch found, when a worker ran it.
async fn steal(wrap: &[&str], by_flag: bool) -> Vec<Value> {
    let (db, dir) = (database().await, place());
    for launch in ["process", "resident"] {
        put_type(&db, json!({"name": launch, "launch": launch, "command": thief(dir.path()), "max_retries": 0})).await;
        let enqueue = "SELECT rowlock.enqueue($1, $2)";
        db.client.query(enqueue, &[&launch, &json!({"backwards": backwards()})]).await.unwrap();
    }
    let url = url(&db);
    let mut args = vec![PROGRAM, "worker", "--stop-when-empty", "--concurrency", "2", "--http", "127.0.0.1:0"];
    let mut worker = if by_flag {
        args.extend(["--database-url", &url, "--listen-url", &url]);
        behind(dir.path(), wrap, &args)
    } else {
        let mut worker = behind(dir.path(), wrap, &args);
        for name in ["DATABASE_URL", "ROWLOCK_LISTEN_URL", "SHOP_QUEUE"] {
            worker.env(name, &url);
        }
        for name in ["PGPASSWORD", "PGSSLPASSWORD", "POSTGRES_PASSWORD"] {
            worker.env(name, PASSWORD);
        }
        worker
    };
    let output = worker.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains(PASSWORD), "{wrap:?}: {said}");
    let rows = db.client.query("SELECT type, status, error, result FROM rowlock.history", &[]).await.unwrap();
    assert_eq!(rows.len(), 2, "{said}");
    let results = rows.iter().map(|row| {
        let (status, error): (String, Option<String>) = (row.get(1), row.get(2));
        assert_eq!(status, "completed", "{wrap:?}: {} {error:?} {said}", row.get::<_, String>(0));
        row.get(3)
    });
    results.collect()
}

async fn finds_nothing(wrap: &[&str], by_flag: bool, uid: Option<u64>) {
    for result in steal(wrap, by_flag).await {
        assert_eq!(result["found"], json!([]), "{wrap:?}: {result}");
        // The worker and its guardian.
        assert!(result["processes"].as_u64() >= Some(2) && result["tried"].as_u64() > Some(40), "{wrap:?}: {result}");
        assert!(uid.is_none() || result["uid"].as_u64() == uid, "{wrap:?}: {result}");
    }
}

const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

#[tokio::test]
async fn a_job_that_tries_hard_finds_no_secret_of_its_worker_as_the_same_ordinary_user() {
    let wrap = if is_root() { &AS_NOBODY[..] } else { &[] };
    let uid = is_root().then(|| NOBODY.parse().unwrap());
    finds_nothing(wrap, false, uid).await;
    finds_nothing(wrap, true, uid).await;
}

#[tokio::test]
async fn a_job_finds_no_secret_as_root_of_a_container_and_none_of_its_first_process() {
    if !is_root() {
        return;
    }
    // The rights with which container engines start root.
    let rights = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,\
                  +sys_chroot,+mknod,+audit_write,+setfcap";
    let bounds = format!("--bounding-set={rights}");
    finds_nothing(&["setpriv", &bounds, "--inh-caps=-all"], false, Some(0)).await;
    let container = ["unshare", "--pid", "--mount", "--fork", "--mount-proc"];
    if Command::new("unshare").args(&container[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        finds_nothing(&[&container[..], &AS_NOBODY].concat(), false, None).await;
    }
}

#[test]
fn the_thief_finds_what_is_not_protected() {
    let dir = place();
    let mut command = thief(dir.path());
    command.insert(0, "\"$0\" \"$@\"; true".into());
    let words: Vec<&str> = ["sh", "-c"].into_iter().chain(command.iter().map(String::as_str)).collect();
    let mut sh = behind(dir.path(), if is_root() { &AS_NOBODY } else { &[] }, &words);
    sh.env("SHOP_QUEUE", PASSWORD).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = sh.spawn().unwrap();
    let payload = json!({"backwards": backwards(), "until": std::process::id()}).to_string();
    child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
    let Output { stdout, status, .. } = child.wait_with_output().unwrap();
    assert!(status.success());
    let answer: Value = serde_json::from_slice(&stdout).unwrap();
    let found: Vec<&str> = answer["result"]["found"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for way in ["environ", "its own environment", "an inherited descriptor", "a thread's environ", "mem"] {
        assert!(found.contains(&way), "{way} is not among {found:?}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_leaves_no_core() {
    let (db, dir) = (database().await, place());
    let mut worker = unsteered(Command::new("sh"));
    worker.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh", PROGRAM, "worker"]).current_dir(dir.path());
    let mut worker = worker.env("DATABASE_URL", url(&db)).process_group(0).stderr(Stdio::null()).spawn().unwrap();
    eventually("it works", || async { db.one::<i64>("SELECT count(*) FROM rowlock.worker", &[]).await == 1 }).await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&worker), rustix::process::Signal::ABORT).unwrap();
    let status = worker.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

#[tokio::test]
async fn a_worker_says_which_process_above_it_shows_its_password() {
    let db = database().await;
    for (line, is_shown) in [("\"$@\"; true", true), ("exec \"$@\"", false)] {
        let mut sh = unsteered(Command::new("sh"));
        sh.args(["-c", line, "sh", PROGRAM, "worker", "--stop-when-empty"]).env("DATABASE_URL", url(&db));
        let output = sh.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains(PASSWORD), "{said}");
        assert_eq!(said.contains("this process started the worker"), is_shown, "{line}: {said}");
        assert!(!is_shown || said.contains("variable=\"DATABASE_URL\""), "{said}");
    }
}
