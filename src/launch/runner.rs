//! The thread beside a slot that starts its commands and waits for their ends.
//!
//! A start lasts until the child has become its command. On a thread of its own it holds up neither the worker's loop
//! nor another slot, and the wait for the end costs no detour by way of the runtime.

use std::{
    io,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
};

use rustix::process::Signal;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    exit,
    files::Files,
    process_group::{Group, ProcessGroups},
    tail::Tail,
};
use crate::{Failure, worker::progress::Progress};

/// Of the thread, in bytes.
const STACK: usize = 256 * 1024;

/// A slot's thread. It ends with the value, after the command that it runs.
#[derive(Debug)]
pub(super) struct Runner {
    starts: mpsc::Sender<Task>,
}

#[derive(Debug)]
struct Task {
    start: Start,
    link: Arc<Link>,
    told: oneshot::Sender<End>,
}

/// A command to run, and where it belongs.
#[derive(Debug)]
pub(super) struct Start {
    pub command: Command,
    /// Becomes its stdin, here: a disk that hangs must not hold up the heartbeat.
    pub payload: Box<RawValue>,
    pub files: Files,
    pub groups: Arc<ProcessGroups>,
    pub place: usize,
    pub progress: Arc<Progress>,
}

/// How a command ended.
#[derive(Debug)]
pub(super) enum End {
    NotStarted(io::Error),
    Succeeded(Result<Option<Box<RawValue>>, Failure>),
    Failed {
        status: ExitStatus,
        stderr: String,
    },
    /// The worker cannot tell.
    Unknown(io::Error),
}

/// A command under way. It is killed with the value.
#[derive(Debug)]
pub(super) struct Running {
    link: Arc<Link>,
    end: oneshot::Receiver<End>,
}

/// The way to a command for signals: they find it only while its number is its own.
#[derive(Debug)]
struct Link(Mutex<Stage>);

#[derive(Debug)]
enum Stage {
    /// The signals it was sent meanwhile.
    Starting(Vec<Signal>),
    Running(Group),
    Ended,
}

impl Runner {
    /// # Errors
    /// If the system has no room for a thread.
    pub(super) fn new() -> io::Result<Runner> {
        let (starts, heard) = mpsc::channel();
        thread::Builder::new().name("command".into()).stack_size(STACK).spawn(move || serve(&heard))?;
        Ok(Runner { starts })
    }

    /// Hands a command over to the thread, which must have none.
    pub(super) fn start(&self, start: Start) -> Running {
        let link = Arc::new(Link(Mutex::new(Stage::Starting(Vec::new()))));
        let (told, end) = oneshot::channel();
        // Without its thread the command's end is `Unknown`.
        let _ = self.starts.send(Task { start, link: link.clone(), told });
        Running { link, end }
    }
}

impl Running {
    /// To its whole group; if it is still being started, as soon as it runs.
    pub(super) fn signal(&self, signal: Signal) {
        match &mut *self.link.stage() {
            Stage::Starting(signals) => signals.push(signal),
            Stage::Running(group) => group.signal(signal),
            Stage::Ended => {}
        }
    }

    /// Waits for the end; may be dropped and called again, until it has answered.
    pub(super) async fn end(&mut self) -> End {
        let gone = |_| End::Unknown(io::Error::other("the thread that runs commands has ended"));
        (&mut self.end).await.unwrap_or_else(gone)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Link {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    fn runs(&self, group: Group) {
        let mut stage = self.stage();
        if let Stage::Starting(signals) = &*stage {
            signals.iter().for_each(|signal| group.signal(*signal));
        }
        *stage = Stage::Running(group);
    }

    /// Ends every process that the command left running, and then lets its number go: until here nobody else can have
    /// it.
    fn ends(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut stage = self.stage();
        *stage = Stage::Ended;
        child.wait()
    }
}

fn serve(starts: &mpsc::Receiver<Task>) {
    while let Ok(Task { start, link, told }) = starts.recv() {
        let end = run(start, &link);
        // Last of all: who hears it may end the process.
        let _ = told.send(end);
    }
}

fn run(start: Start, link: &Link) -> End {
    let Start { mut command, payload, mut files, groups, place, progress } = start;
    match files.stdin(&payload) {
        Ok(stdin) => command.stdin(stdin),
        Err(error) => return End::Unknown(error),
    };
    let started = command.spawn().and_then(|child| Ok((groups.enter(place, child.id())?, child)));
    let (group, mut child) = match started {
        Ok(started) => started,
        Err(error) => return End::NotStarted(error),
    };
    link.runs(group);
    let (mut stderr, tail, mut seen) = (child.stderr.take(), Tail::default(), 0);
    let waited = exit::until_end(&child, &mut stderr, &tail, || files.look(&mut seen, &progress));
    // In any case: what cannot be waited for must not run on either.
    let status = match waited.and(link.ends(&mut child)) {
        Ok(status) => status,
        Err(error) => return End::Unknown(error),
    };
    files.last_look(&mut seen, &progress);
    if status.success() {
        return End::Succeeded(files.result());
    }
    exit::last_words(&mut stderr, &tail);
    End::Failed { status, stderr: tail.text() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{os::fd::AsFd, process::Stdio, time::Duration};

    use uuid::Uuid;

    use super::{super::spec::Spec, *};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn groups() -> Arc<ProcessGroups> {
        Arc::new(ProcessGroups::new(Uuid::now_v7(), 1, Vec::new()).unwrap())
    }

    fn start(groups: &Arc<ProcessGroups>, line: &str) -> Start {
        let args = vec!["-c".into(), line.into()];
        let spec = Spec { program: "sh".into(), args, env: Vec::new(), pod: None };
        let mut command = groups.command(&spec);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let files = Files::new(groups.dir(), "0.1");
        let payload = RawValue::from_string("{}".into()).unwrap();
        Start { command, payload, files, groups: groups.clone(), place: 0, progress: Arc::default() }
    }

    async fn end(mut running: Running) -> End {
        tokio::time::timeout(PATIENCE, running.end()).await.expect("the command ends")
    }

    #[tokio::test]
    async fn a_command_ends_with_its_status_and_its_last_words() {
        let (groups, runner) = (groups(), Runner::new().unwrap());
        assert!(matches!(end(runner.start(start(&groups, "exit 0"))).await, End::Succeeded(Ok(None))));
        let End::Failed { status, stderr } = end(runner.start(start(&groups, "echo why >&2; exit 3"))).await else {
            panic!("it exits with 3");
        };
        assert_eq!((status.code(), &*stderr), (Some(3), "why\n"));
        let mut none = start(&groups, "");
        none.command = Command::new("/none");
        assert!(matches!(end(runner.start(none)).await, End::NotStarted(_)));
    }

    #[tokio::test]
    async fn a_signal_reaches_a_command_that_is_being_started() {
        use std::os::unix::process::ExitStatusExt;
        let (groups, runner) = (groups(), Runner::new().unwrap());
        for _ in 0..20 {
            let running = runner.start(start(&groups, "sleep 60"));
            running.signal(Signal::TERM);
            let End::Failed { status, .. } = end(running).await else { panic!("a signal ends it") };
            assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
        }
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_on_is_killed_and_its_thread_goes_on() {
        let (groups, runner) = (groups(), Runner::new().unwrap());
        drop(runner.start(start(&groups, "sleep 60")));
        end(runner.start(start(&groups, "exit 0"))).await;
        let left = super::super::process_group::read(groups.register().as_fd()).unwrap().1;
        assert_eq!(left, [], "nothing is left in the register");
    }
}
