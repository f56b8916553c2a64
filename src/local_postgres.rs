//! A Postgres server of our own, from installed binaries: for tests, demos and benchmarks. It listens on
//! loopback only, never runs as root, and does not outlive this process, not even one that is killed. Its
//! room: `binaries`, which installation is taken.

mod binaries;

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// `$1` is postgres, `$2` its data directory, `$3` what to remove at the end (or nothing), the rest are
/// options. The pipe on our stdin is held by the program that started us: when that ends, however it
/// ends, the read below sees the end of file. (A shell's background job has no stdin but what it is given.)
const GUARD: &str = include_str!("local_postgres/guard.sh");

/// Where the data goes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Keep the data in this directory, and use what is there already. None: a directory that goes with
    /// the server.
    pub persist: Option<PathBuf>,
    /// Put the temporary directory in memory (`/dev/shm`), if there is one.
    pub ram: bool,
    /// Listen on this port. None: a free one.
    pub port: Option<u16>,
    /// More settings, `name=value`; they overrule the server's own.
    pub settings: Vec<String>,
}

/// A running server, stopped when this is dropped.
#[derive(Debug)]
pub struct LocalPostgres {
    guard: Child,
    bin_dir: PathBuf,
    port: u16,
    // Removed again at the end, unless the guard was quicker.
    temporary: Option<PathBuf>,
}

/// The user a server runs as when we are root, for it refuses to be root.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl LocalPostgres {
    /// Makes the data directory if need be, starts the server and waits until it answers, at most 30 seconds.
    ///
    /// # Errors
    /// No binaries of Postgres 15 or later, a directory that cannot be used, or a server that did not
    /// start: then with the end of its log.
    ///
    /// ```no_run
    /// use rowlock::local_postgres::{LocalPostgres, Options};
    /// # async fn f() -> anyhow::Result<()> {
    /// let postgres = LocalPostgres::start(Options::default()).await?;
    /// let queue = rowlock::JobQueue::connect(&postgres.url("postgres")).await?;
    /// queue.migrate().await?;
    /// # Ok(()) }
    /// ```
    pub async fn start(options: Options) -> anyhow::Result<LocalPostgres> {
        let (mut server, log) =
            tokio::task::spawn_blocking(move || launch(&options)).await.context("starting Postgres")??;
        let url = server.url("postgres");
        let started = Instant::now();
        loop {
            let attempt = tokio_postgres::connect(&url, tokio_postgres::NoTls);
            let error = match tokio::time::timeout(Duration::from_secs(5), attempt).await {
                Ok(Ok(_)) => return Ok(server),
                Ok(Err(e)) => std::error::Error::source(&e).map_or_else(|| e.to_string(), |s| s.to_string()),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(status) = server.guard.try_wait().context("waiting for Postgres")? {
                bail!("Postgres did not start ({status}); its log {} ends:\n{}", log.display(), tail(&log));
            }
            if started.elapsed() > START {
                bail!(
                    "Postgres did not answer within {} s ({error}); its log {} ends:\n{}",
                    START.as_secs(),
                    log.display(),
                    tail(&log)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The URL of one of its databases, as its superuser `rowlock`. `postgres` is there from the start.
    ///
    /// ```no_run
    /// # fn f(postgres: rowlock::local_postgres::LocalPostgres) {
    /// println!("DATABASE_URL={}", postgres.url("postgres"));
    /// # }
    /// ```
    pub fn url(&self, database: &str) -> String {
        let name: String = database
            .bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        format!("postgres://rowlock@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }

    /// Where its binaries are: `psql`, `pgbench` and the rest.
    ///
    /// ```no_run
    /// # fn f(postgres: rowlock::local_postgres::LocalPostgres) -> std::io::Result<()> {
    /// let psql = std::process::Command::new(postgres.bin_dir().join("psql")).arg(postgres.url("postgres")).status()?;
    /// # Ok(()) }
    /// ```
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let started = Instant::now();
        while matches!(self.guard.try_wait(), Ok(None)) {
            if started.elapsed() > STOP {
                return; // the guard goes on without us
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(dir) = &self.temporary {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn launch(options: &Options) -> anyhow::Result<(LocalPostgres, PathBuf)> {
    let bin_dir = binaries::find()?;
    let account = account()?;
    let (data, temporary) = match &options.persist {
        Some(dir) => (std::path::absolute(dir).with_context(|| format!("{}", dir.display()))?, None),
        None => {
            let dir = temporary_dir(options.ram, account)?;
            (dir.join("data"), Some(dir))
        }
    };
    let made = init(&bin_dir, &data, account, temporary.is_some());
    if let (Err(_), Some(dir)) = (&made, &temporary) {
        let _ = fs::remove_dir_all(dir);
    }
    made?;

    let port = match options.port {
        Some(port) => port,
        None => free_port()?,
    };
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "max_connections=200".to_owned(),
        "shared_buffers=256MB".to_owned(),
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
        "max_wal_size=4GB".to_owned(),
    ];
    if temporary.is_some() {
        settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
    }
    settings.extend(options.settings.iter().cloned());
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "rowlock-postgres"]);
    guard.arg(bin_dir.join("postgres")).arg(&data).arg(temporary.as_deref().unwrap_or(Path::new("")));
    for s in settings {
        guard.arg("-c").arg(s);
    }
    // A group of its own: Ctrl-C is for us, and we tell it.
    run_as(&mut guard, account).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let guard = guard.spawn().context("cannot run sh")?;
    let log = data.join("server.log");
    Ok((LocalPostgres { guard, bin_dir, port, temporary }, log))
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
    Ok(listener.context("no free port on 127.0.0.1")?.port())
}

fn init(bin_dir: &Path, data: &Path, account: Option<Account>, quick: bool) -> anyhow::Result<()> {
    let owner = account.map(|a| a.uid);
    if data.join("PG_VERSION").exists() {
        let uid = fs::metadata(data).with_context(|| data.display().to_string())?.uid();
        ensure!(
            owner.is_none_or(|o| o == uid),
            "{} belongs to user {uid}; a server started by root runs as user {}: chown it, or start as its owner",
            data.display(),
            owner.unwrap_or(uid)
        );
        return Ok(());
    }
    fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let mut entries = fs::read_dir(data).with_context(|| format!("cannot read {}", data.display()))?;
    ensure!(
        entries.next().is_none(),
        "{} is neither empty nor a Postgres data directory; name another",
        data.display()
    );
    private(data, account)?;
    let mut initdb = Command::new(bin_dir.join("initdb"));
    initdb.arg("-D").arg(data).args(["-U", "rowlock", "-A", "trust", "-E", "UTF8", "--locale=C"]);
    if quick {
        initdb.arg("--no-sync");
    }
    let output = run_as(&mut initdb, account).stdin(Stdio::null()).output().context("cannot run initdb")?;
    ensure!(output.status.success(), "initdb failed in {}:\n{}", data.display(), binaries::said(&output));
    Ok(())
}

fn temporary_dir(ram: bool, account: Option<Account>) -> anyhow::Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let base = if ram && shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let dir = base.join(format!("rowlock-postgres-{}-{nanos}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    private(&dir, account)?;
    Ok(dir)
}

fn private(dir: &Path, account: Option<Account>) -> anyhow::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .and_then(|()| account.map_or(Ok(()), |a| std::os::unix::fs::chown(dir, Some(a.uid), Some(a.gid))))
        .with_context(|| format!("cannot make {} private", dir.display()))
}

fn run_as(command: &mut Command, account: Option<Account>) -> &mut Command {
    if let Some(a) = account {
        command.uid(a.uid).gid(a.gid);
    }
    // The directory we are in may be closed to that user.
    command.current_dir("/").env_remove("PGDATA").env_remove("PGOPTIONS")
}

/// None: as ourselves.
fn account() -> anyhow::Result<Option<Account>> {
    // Whose we are, without libc: what /proc says, or a process's answer where there is none. The owner of /proc/self
    // is root where nobody may read this process's memory.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of_status = |line: &str| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let uid = match status.lines().find_map(of_status) {
        Some(uid) => uid,
        None => binaries::said(&Command::new("id").arg("-u").output().context("cannot run id")?)
            .trim()
            .parse()
            .context("id -u")?,
    };
    if uid != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let found = ["postgres", "nobody"].iter().find_map(|name| find_account(&passwd, name));
    found.map(Some).context(
        "Postgres refuses to run as root, and /etc/passwd has neither postgres nor nobody; start as another user",
    )
}

fn find_account(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let account = Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? };
    (account.uid != 0).then_some(account)
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_never_root() {
        let passwd = "root:x:0:0::/:/bin/sh\nnobody2:x:1:1::/:\nnobody:x:65534:65533::/:\npostgres:x:0:0::/:";
        let found = find_account(passwd, "nobody").expect("nobody is there");
        assert_eq!((found.uid, found.gid), (65534, 65533));
        assert!(find_account(passwd, "postgres").is_none());
    }
}
