//! Programs under test, and what the tests share: turns, chance, and counts.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Mutex, MutexGuard};

use crate::binary::{program, unsteered};

/// No test of this target waits longer for one thing: a loaded machine is slow, not wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The turn of one test.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A count in CI, and five times as many in a soak.
pub fn count(ci: usize) -> usize {
    count_of(ci, 5 * ci)
}

/// A count in CI, and one in a soak.
pub fn count_of(ci: usize, in_soak: usize) -> usize {
    if soak() { in_soak } else { ci }
}

pub fn soak() -> bool {
    std::env::var_os("ROWLOCK_SOAK").is_some_and(|v| v != "0")
}

/// Nanoseconds of the wall clock: the jobs and Postgres are on this machine and see the same.
pub fn now() -> u64 {
    u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

/// Waits until the answer is yes, asking often.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The value below which this part of them is; of none it is zero.
pub fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "few")]
    let at = ((times.len() as f64 * part).ceil() as usize).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

/// Chance that can be had again.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Chance {
        let seed = std::env::var("ROWLOCK_SEED").map_or(5, |s| s.parse().expect("ROWLOCK_SEED is a number"));
        eprintln!("seed {seed}");
        Chance(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// Another one, for who goes on at the same time.
    pub fn split(&mut self) -> Chance {
        Chance(self.0 ^ self.below(usize::MAX) as u64)
    }

    /// Below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    pub fn millis(&mut self, end: usize) -> Duration {
        Duration::from_millis(self.below(end) as u64)
    }
}

/// What a test's workers are.
#[derive(Debug, Clone, Copy)]
enum Program {
    /// `rowlock`: jobs are commands.
    Rowlock,
    /// See `program`: jobs are its own code.
    InProcess,
}

impl Program {
    fn command(self, words: &[&str], args: &[String]) -> Command {
        let Program::InProcess = self else {
            let mut command = program();
            command.args(words).args(args);
            return command;
        };
        let mut command = match std::env::var_os("ROWLOCK_CHAOS_PROGRAM") {
            Some(path) => Command::new(path),
            None => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "program_with_a_worker", "--ignored", "--nocapture"]);
                command
            }
        };
        command.env("CHAOS_ARGS", args.join(" "));
        unsteered(command)
    }
}

/// How a test's workers are started.
pub struct Fleet {
    program: Program,
    /// Each process has the next one, in turn.
    urls: Vec<String>,
    args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    log_level: &'static str,
    dir: tempfile::TempDir,
}

/// `rowlock worker`; killed with the value. Its number is in the environment of all that it starts.
pub struct Worker {
    pub number: u32,
    child: Child,
}

impl Fleet {
    pub fn new(url: &str, args: &[&str]) -> Fleet {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let (urls, dir) = (vec![url.to_owned()], tempfile::tempdir().unwrap());
        Fleet { program: Program::Rowlock, urls, args, environment: Vec::new(), log_level: "rowlock=info", dir }
    }

    /// Its processes are programs with a worker in them.
    pub fn in_process(mut self) -> Fleet {
        self.program = Program::InProcess;
        self
    }

    /// Its processes have this in their environment.
    pub fn with(mut self, name: &'static str, value: &str) -> Fleet {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Other ways to the same database.
    pub fn set_urls(&mut self, urls: Vec<String>) {
        self.urls = urls;
    }

    /// Its workers log all they can.
    pub fn loud(mut self) -> Fleet {
        self.log_level = "trace";
        self
    }

    pub fn start(&self) -> Worker {
        self.run(&["worker"])
    }

    /// The program with these words before the fleet's own arguments.
    pub fn run(&self, words: &[&str]) -> Worker {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut command = self.program.command(words, &self.args);
        let url = &self.urls[usize::try_from(number).unwrap() % self.urls.len()];
        let log = File::options().append(true).create(true).open(self.log()).unwrap();
        command.env("DATABASE_URL", url).envs(self.environment.iter().cloned());
        command.env("POD_NAME", number.to_string());
        command.env("CHAOS_WORKER", number.to_string()).env("RUST_LOG", self.log_level);
        let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Worker { number, child }
    }

    /// What all of them wrote to stderr.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }

    /// Where they serve HTTP, in the order in which they began to.
    pub fn addresses(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let serving = log.lines().filter(|line| line.contains("serving /livez"));
        serving.filter_map(|line| Some(line.split("address=").nth(1)?.split(' ').next()?.to_owned())).collect()
    }

    /// The last error that ended one of them.
    pub fn last_error(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap();
        log.lines().rfind(|line| line.starts_with("error:")).unwrap_or("no error").to_owned()
    }

    /// How often they said so.
    pub fn said(&self, what: &str) -> usize {
        std::fs::read_to_string(self.log()).unwrap().matches(what).count()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("what the processes wrote is in {}", self.log().display());
        }
    }
}

impl Worker {
    pub fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "STOP" => rustix::process::Signal::STOP,
            "CONT" => rustix::process::Signal::CONT,
            other => panic!("no test sends {other}"),
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL. Answers when it was dead for sure.
    pub fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        now()
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is answered to an HTTP request, head and body.
pub fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: rowlock\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The processes whose environment has this entry, without workers: theirs is readable to nobody but root.
pub fn processes(entry: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let has = |file: &str, what: &str| {
            let text = std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
            text.split(|b| *b == 0).any(|part| part == what.as_bytes())
        };
        has("environ", entry) && !has("cmdline", "worker")
    })
    .collect()
}
