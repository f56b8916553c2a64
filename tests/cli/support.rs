//! Running the program, and the one `rowlock dev` behind the tests.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::binary::{PROGRAM, unsteered};

pub const TYPES: &str = r#"
types:
  - name: answer
    queue: answers
    command: ["sh", "-c", 'cat > /dev/null; echo "{\"answer\": 42}" > "$ROWLOCK_RESULT_FILE"']
  - name: wrong
    queue: answers
    command: ["sh", "-c", "echo no such luck >&2; exit 3"]
    max_retries: 0
"#;

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Said {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Said {
        assert!(self.err.contains(text), "expected {text:?}: {self:?}");
        self
    }
}

pub fn program(url: Option<&str>) -> Command {
    steered_by_nothing(Command::new(PROGRAM), url)
}

/// Nothing of the caller's environment steers the program under test.
pub fn steered_by_nothing(command: Command, url: Option<&str>) -> Command {
    let mut command = unsteered(command);
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn finish(mut command: Command, stdin: &str) -> Said {
    let mut child = command.spawn().unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command on the database of `dev`.
pub fn run(args: &[&str]) -> Said {
    run_with(args, "")
}

pub fn run_with(args: &[&str], stdin: &str) -> Said {
    let mut command = program(Some(url()));
    command.args(args);
    finish(command, stdin)
}

/// Asks again until the answer is yes.
#[track_caller]
pub fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ask() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A command without a database.
pub fn alone(args: &[&str], stdin: &str) -> Said {
    let mut command = program(None);
    command.args(args);
    finish(command, stdin)
}

pub fn start_dev(args: &[&str]) -> (Child, String) {
    let mut child = program(None).arg("dev").args(args).stderr(Stdio::inherit()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let url =
        line.strip_prefix("DATABASE_URL=").unwrap_or_else(|| panic!("first line: {line:?}")).trim_end().to_owned();
    (child, url)
}

/// The URL of the `dev` that serves all tests. It is stopped by a helper that waits for this process's end,
/// since statics are never dropped.
pub fn url() -> &'static str {
    static DEV: OnceLock<String> = OnceLock::new();
    DEV.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let types = dir.path().join("types.yaml");
        std::fs::write(&types, TYPES).unwrap();
        let (dev, url) = start_dev(&["--types", types.to_str().unwrap(), "--workers", "1"]);
        let stop = format!("cat > /dev/null; kill -TERM {}", dev.id());
        let watch = Command::new("sh").args(["-c", &stop]).stdin(Stdio::piped()).spawn().unwrap();
        // Forgotten on purpose: its stdin closes when this process ends, however that comes about.
        std::mem::forget(watch);
        std::mem::forget(dev);
        url
    })
}
