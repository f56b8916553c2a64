//! A Postgres that dies and rises again, and connections that an administrator ends.

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    process::Command,
};

use rowlock::local_postgres::{LocalPostgres, Options};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    fleet::{Chance, until},
    support::{Db, connect},
};

/// A server that keeps its data, and its port, over its deaths. It syncs what it commits; the machine does not
/// die, so this is a test of crash recovery and not of disks.
pub struct Server {
    dir: tempfile::TempDir,
    port: Option<u16>,
    settings: Vec<String>,
    running: Option<LocalPostgres>,
}

impl Server {
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    /// With settings, each `name=value`.
    pub async fn start_with(settings: &[&str]) -> Server {
        let dir = data_dir();
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut server = Server { dir, port: None, settings, running: None };
        server.up().await;
        server.keep_port();
        server
    }

    /// A copy of a server, which follows it, on this port or a free one.
    pub async fn standby_of(primary: &Server, port: Option<u16>) -> Server {
        let dir = data_dir();
        let data = dir.path().join("data");
        let owner = std::fs::metadata(primary.dir.path().join("data")).unwrap();
        let (uid, gid) = (owner.uid(), owner.gid());
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
        // Beside the program itself, not beside a link to it.
        let postgres = primary.running.as_ref().unwrap().bin_dir().join("postgres").canonicalize().unwrap();
        let mut copy = Command::new(postgres.with_file_name("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &primary.url(), "--pgdata"]);
        // We may be root, which a server's files must not belong to.
        copy.arg(&data).current_dir("/").uid(uid).gid(gid);
        let copied = tokio::task::spawn_blocking(move || copy.output().unwrap()).await.unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let mut standby = Server { dir, port, settings: primary.settings.clone(), running: None };
        standby.up().await;
        standby.keep_port();
        standby
    }

    pub fn port(&self) -> u16 {
        self.port.unwrap()
    }

    /// A standby becomes a primary.
    pub async fn promote(&self) {
        let db = self.db().await;
        assert!(db.one::<bool>("SELECT pg_promote()", &[]).await, "it is promoted");
    }

    fn keep_port(&mut self) {
        let config: tokio_postgres::Config = self.url().parse().unwrap();
        self.port = Some(config.get_ports()[0]);
    }

    /// Starts it again, on the same port.
    pub async fn up(&mut self) {
        let persist = Some(self.dir.path().join("data"));
        let options = Options { persist, port: self.port, settings: self.settings.clone(), ..Options::default() };
        self.running = Some(LocalPostgres::start(options).await.unwrap());
    }

    fn url(&self) -> String {
        self.running.as_ref().unwrap().url("postgres")
    }

    /// What `pg_ctl stop -m immediate` does, waiting included; that refuses to be root, as tests may be.
    pub async fn die(&mut self) {
        self.signal_and_wait(Signal::QUIT).await;
    }

    /// As [`Server::die`], without a word to its children.
    pub async fn be_killed(&mut self) {
        self.signal_and_wait(Signal::KILL).await;
    }

    async fn signal_and_wait(&mut self, signal: Signal) {
        let pid_file = self.dir.path().join("data/postmaster.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        let children = children(pid);
        kill_process(pid, signal).unwrap();
        let alive = |pid: &Pid| test_kill_process(*pid).is_ok();
        until("Postgres is dead", || async { !alive(&pid) && !children.iter().any(alive) }).await;
        let dead = self.running.take();
        tokio::task::spawn_blocking(|| drop(dead)).await.unwrap();
    }

    /// SIGKILL to one of its processes that serves a client: the server ends all others, and recovers.
    pub async fn kill_a_backend(&self, db: &Db) {
        let sql = "SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        let pid: i32 = db.one(sql, &[]).await;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    pub async fn db(&self) -> Db {
        Db { url: self.url(), client: connect(&self.url()).await }
    }
}

fn data_dir() -> tempfile::TempDir {
    let shm = std::path::Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    // The server may be another user than we.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect()
}

/// Ends one of the queue's connections, whose ever.
pub async fn terminate_one(db: &Db, chance: &mut Chance) -> usize {
    let sql = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'rowlock'";
    let pids: Option<Vec<i32>> = db.one(sql, &[]).await;
    let Some(pids) = pids else { return 0 };
    let pid = pids[chance.below(pids.len())];
    usize::from(db.one::<bool>("SELECT pg_terminate_backend($1)", &[&pid]).await)
}
