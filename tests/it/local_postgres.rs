//! The private server: whose it is, how long it lives, and what it leaves.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use rowlock::local_postgres::{LocalPostgres, Options};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use tokio_postgres::Client;

use crate::{
    binary::program,
    support::{connect, eventually, server},
};

/// The data directory, and the process ids of the server and of all it started.
async fn processes(client: &Client) -> (PathBuf, HashSet<u32>) {
    let dir = PathBuf::from(client.query_one("SHOW data_directory", &[]).await.unwrap().get::<_, String>(0));
    let file = fs::read_to_string(dir.join("postmaster.pid")).unwrap();
    let postmaster: u32 = file.lines().next().unwrap().parse().unwrap();
    let mut all = HashSet::from([postmaster]);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok())
            && parent(pid) == Some(postmaster)
        {
            all.insert(pid);
        }
    }
    assert!(all.len() > 3, "a server is several processes: {all:?}");
    (dir, all)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: state, parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn runs(pid: u32) -> bool {
    // One that has ended, but whom nobody has asked yet how, is a zombie.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

async fn assert_all_end(pids: &HashSet<u32>) {
    eventually(&format!("all of {pids:?} have ended"), || async { !pids.iter().any(|pid| runs(*pid)) }).await;
}

#[tokio::test]
async fn it_does_not_outlive_an_owner_that_is_killed_and_leaves_nothing() {
    let mut owner = Command::from(program())
        .args(["dev", "--workers", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let url = line.trim().strip_prefix("DATABASE_URL=").unwrap();
    // A session in the middle of a transaction does not hold it up.
    let client = connect(url).await;
    client.batch_execute("BEGIN; SELECT rowlock.enqueue('a')").await.unwrap();
    let (dir, pids) = processes(&client).await;
    assert!(pids.iter().all(|pid| runs(*pid)));
    owner.kill().await.unwrap(); // SIGKILL: it has no chance to say anything
    assert_all_end(&pids).await;
    let temporary = dir.parent().unwrap();
    eventually(&format!("{} is gone", temporary.display()), || async { !temporary.exists() }).await;
}

#[tokio::test]
async fn it_ends_with_its_value() {
    let postgres = LocalPostgres::start(Options { persist: None, ram: true, ..Options::default() }).await.unwrap();
    let client = connect(&postgres.url("postgres")).await;
    let (dir, pids) = processes(&client).await;
    tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
    assert_all_end(&pids).await;
    assert!(!dir.exists(), "{}", dir.display());
}

#[tokio::test]
async fn persist_keeps_the_data_over_two_starts_and_commits_are_on_disk() {
    let parent = tempfile::tempdir().unwrap();
    // Where we are root the server runs as another user, who has to get there.
    fs::set_permissions(parent.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let options = Options { persist: Some(parent.path().join("data")), ram: false, ..Options::default() };
    for start in 0..3_i64 {
        let postgres = LocalPostgres::start(options.clone()).await.unwrap();
        let mut client = connect(&postgres.url("postgres")).await;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), "on", "{setting}");
        }
        rowlock::migrate::up(&mut client).await.unwrap();
        let rows = client.query_one("SELECT count(*) FROM rowlock.jobs", &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), start, "jobs of the starts before");
        client.batch_execute("SELECT rowlock.enqueue('a')").await.unwrap();
        let (_, pids) = processes(&client).await;
        tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
        assert_all_end(&pids).await;
    }
    assert!(parent.path().join("data/PG_VERSION").exists());
}

#[tokio::test]
async fn a_directory_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let before = fs::metadata(dir.path()).unwrap();
    let options = Options { persist: Some(dir.path().to_owned()), ram: false, ..Options::default() };
    let error = LocalPostgres::start(options).await.unwrap_err().to_string();
    assert!(error.contains(dir.path().to_str().unwrap()) && error.contains("name another"), "{error}");
    let after = fs::metadata(dir.path()).unwrap();
    assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()));
    assert_eq!(fs::read_to_string(dir.path().join("letter.txt")).unwrap(), "dear");
}

#[tokio::test]
async fn it_never_runs_as_root_and_only_its_user_reads_its_data() {
    let (dir, pids) = processes(&connect(&server().url("postgres")).await).await;
    let ours = fs::metadata("/proc/self").unwrap().uid();
    for pid in pids {
        // A session may have ended since.
        let Ok(process) = fs::metadata(Path::new("/proc").join(pid.to_string())) else { continue };
        assert_ne!(process.uid(), 0, "process {pid}");
        assert!(ours == 0 || process.uid() == ours, "process {pid} is of {}", process.uid());
    }
    let data = fs::metadata(&dir).unwrap();
    assert_ne!(data.uid(), 0);
    assert_eq!(data.mode() & 0o077, 0, "{:o}", data.mode());
    assert_eq!(fs::metadata(dir.parent().unwrap()).unwrap().mode() & 0o077, 0);
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let client = connect(&server().url("postgres")).await;
    for (setting, want) in [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", "")] {
        let got: String = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(got, want, "{setting}");
    }
}
