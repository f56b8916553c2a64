//! Faults of this machine, and refusals of the cluster: no job is to blame for them. After a fault the worker claims
//! nothing for a while. While the jobs of a type are refused, the worker is not ready, and runs the others.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::metrics::Facts;

/// A refusal that nobody repeats for so long is forgotten: it may be that no such job is left.
const REFUSAL_HOLDS: Duration = Duration::from_secs(300);
/// After the first fault, and at most; each further one in a row doubles the pause.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The state of this machine, as far as commands need it.
pub(super) struct Host {
    facts: Facts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: u32,
    paused_until: Option<Instant>,
    fault: Option<String>,
    /// The types whose jobs cannot run here now: since when nobody said so again, and why.
    refused: BTreeMap<String, (Instant, String)>,
}

impl State {
    /// The reason for which the worker is not ready.
    fn problem(&self) -> Option<String> {
        let refused = || self.refused.iter().next().map(|(name, (_, why))| format!("jobs of type {name}: {why}"));
        self.fault.clone().or_else(refused)
    }
}

impl Host {
    pub(super) fn new(facts: Facts) -> Host {
        Host { facts, state: Mutex::default() }
    }

    /// Something that every command needs was not to be had.
    pub(super) fn failed(&self, why: &str) {
        tracing::error!("{why}; the job goes back, and this worker claims nothing for a while");
        let now = Instant::now();
        let mut state = self.state();
        // The jobs of one batch meet the same fault.
        if state.paused_until.is_none_or(|until| until <= now) {
            state.paused_until = Some(now + pause(state.faults));
            state.faults += 1;
        }
        state.fault = Some(why.to_owned());
        self.facts.set_problem(state.problem());
    }

    /// A command was started after the last pause.
    pub(super) fn works(&self) {
        let mut state = self.state();
        if state.paused_until.is_some_and(|until| until <= Instant::now()) {
            (state.faults, state.paused_until, state.fault) = (0, None, None);
            self.facts.set_problem(state.problem());
        }
    }

    /// The jobs of this type are refused by something that is not the type's own.
    pub(super) fn refused(&self, name: &str, why: &str) {
        let mut state = self.state();
        state.refused.insert(name.to_owned(), (Instant::now(), why.to_owned()));
        self.facts.set_problem(state.problem());
    }

    /// A job of this type was not refused.
    pub(super) fn accepted(&self, name: &str) {
        let mut state = self.state();
        if state.refused.remove(name).is_some() {
            self.facts.set_problem(state.problem());
        }
    }

    /// Forgets what was not said again for long. Called now and then.
    pub(super) fn look(&self, now: Instant) {
        let mut state = self.state();
        let before = state.refused.len();
        state.refused.retain(|_, (at, _)| now.saturating_duration_since(*at) < REFUSAL_HOLDS);
        if state.refused.len() < before {
            self.facts.set_problem(state.problem());
        }
    }

    /// The worker claims nothing before that time.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.state().paused_until.filter(|until| *until > Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

fn pause(faults: u32) -> Duration {
    (PAUSE.0 * 2_u32.saturating_pow(faults.min(10))).min(PAUSE.1)
}

/// Whether the start of a command failed for want of descriptors, processes, memory or disk, and not by the command.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::MFILE
                | Errno::NFILE
                | Errno::AGAIN
                | Errno::NOMEM
                | Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::IO
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lacks_is_not_the_commands_fault() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::NOSPC] {
            assert!(is_exhausted(&errno.into()), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC, Errno::TOOBIG] {
            assert!(!is_exhausted(&errno.into()), "{errno}");
        }
    }

    #[test]
    fn faults_in_a_row_pause_ever_longer_and_a_command_that_starts_ends_it() {
        let facts = Facts::new("worker");
        let host = Host::new(facts.clone());
        host.failed("no descriptors");
        host.failed("no descriptors");
        assert!(host.paused_until().is_some() && facts.known().problem.is_some());
        assert_eq!(host.state().faults, 1, "a batch is one fault");
        host.works();
        assert!(host.paused_until().is_some(), "it started before the fault");
        host.state().paused_until = Some(Instant::now());
        host.works();
        assert!(host.paused_until().is_none() && facts.known().problem.is_none());
        assert_eq!([0, 1, 4, 5, 99].map(|n| pause(n).as_secs()), [1, 2, 16, 30, 30]);
    }
    #[test]
    fn a_refused_type_is_a_problem_until_it_is_accepted_or_nobody_asks_for_it() {
        let facts = Facts::new("worker");
        let host = Host::new(facts.clone());
        let problem = || facts.known().problem.unwrap_or_default();
        host.refused("a", "a policy");
        host.refused("b", "a webhook");
        assert!(host.paused_until().is_none(), "others run");
        assert!(problem().contains("type a: a policy"));
        host.accepted("a");
        host.failed("no descriptors");
        assert_eq!(problem(), "no descriptors");
        host.state().paused_until = Some(Instant::now());
        host.works();
        assert!(problem().contains("type b: a webhook"));
        host.look(Instant::now());
        assert!(facts.known().problem.is_some());
        host.look(Instant::now() + REFUSAL_HOLDS);
        assert!(facts.known().problem.is_none());
    }
}
