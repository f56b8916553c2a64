//! Running workers: in this process, and as the program.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rowlock::{
    Error, Job, JobQueue,
    launch::{self, LaunchOptions},
    worker,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use crate::jobs::{ends, job, put_type, reason, result, runs, with_type};
use crate::{
    binary::{self, PROGRAM},
    support::{Db, PATIENCE, eventually},
};

pub fn shell(script: &str) -> Value {
    json!(["sh", "-c", script])
}

pub fn options() -> worker::WorkerOptions {
    worker::WorkerOptions {
        concurrency: 4,
        lease: Duration::from_secs(5),
        grace: Duration::from_secs(2),
        ..Default::default()
    }
}

/// Commands with a guardian, as the program runs them.
pub fn commands() -> LaunchOptions {
    LaunchOptions { guardian: Some(PROGRAM.into()), ..Default::default() }
}

/// Works until nothing is due.
pub async fn drain(q: &JobQueue) -> worker::WorkerSummary {
    let options = worker::WorkerOptions { stop_when_empty: true, ..options() };
    launch::run(q.clone(), options, commands(), worker::Shutdown::default()).await.unwrap()
}

/// Runs one job of a shell command to its end.
pub async fn run_one(mut job_type: Value, script: &str, payload: Value) -> Job {
    job_type["command"] = shell(script);
    let (q, _db) = with_type(job_type).await;
    let id = q.enqueue("t", payload).await.unwrap().id;
    drain(&q).await;
    job(&q, id).await
}

pub async fn exists(path: &std::path::Path) {
    eventually("a file of the job's is there", || async { path.exists() }).await;
}

/// A worker in this process.
pub struct Working {
    pub shutdown: worker::Shutdown,
    task: JoinHandle<Result<worker::WorkerSummary, Error>>,
}

impl Working {
    pub fn start(q: &JobQueue, options: worker::WorkerOptions) -> Working {
        let shutdown = worker::Shutdown::default();
        Working { task: tokio::spawn(launch::run(q.clone(), options, commands(), shutdown.clone())), shutdown }
    }

    pub async fn stop(self) -> worker::WorkerSummary {
        self.shutdown.drain.cancel();
        self.ended().await.unwrap()
    }

    pub async fn ended(self) -> Result<worker::WorkerSummary, Error> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker ends").unwrap()
    }
}

/// The program, as a worker or as something else; killed with the value.
pub struct Program(pub Child);

impl Program {
    pub fn start(db: &Db, args: &[&str]) -> Program {
        Program::run(db, &[&["worker"], args].concat())
    }

    pub fn run(db: &Db, args: &[&str]) -> Program {
        Program(program(db).args(args).stdout(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&self, name: &str) {
        signal(name, &self.0.id().to_string());
    }
}

/// By the shell's own `kill`: the program of that name is missing on a small machine.
pub fn signal(name: &str, pid: &str) {
    assert!(Command::new("sh").args(["-c", &format!("kill {name} {pid}")]).status().unwrap().success());
}

/// The program, on a database.
pub fn program(db: &Db) -> Command {
    let mut command = binary::program();
    command.env("DATABASE_URL", &db.url).process_group(0);
    command
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many processes have this word in their command line, other than shells that were given it in a script.
pub fn processes_with(word: &str) -> usize {
    let lines = std::fs::read_dir("/proc").unwrap().flatten().map(|e| std::fs::read(e.path().join("cmdline")));
    lines.filter(|line| line.as_ref().is_ok_and(|l| l.split(|b| *b == 0).any(|arg| arg == word.as_bytes()))).count()
}

/// A number of seconds that no other test sleeps, to find a process by.
pub fn unique_sleep() -> String {
    let n = Uuid::now_v7().as_u128() % 1_000_000_000;
    format!("9{n:09}")
}
