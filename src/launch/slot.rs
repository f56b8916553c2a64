//! The place of one running command: its number, its thread, the names of its files.

use std::{io, sync::Arc};

use super::{files::Files, process_group::ProcessGroups, runner::Runner, spec::Spec};

/// Room for one running job.
pub(super) struct Slot {
    number: usize,
    pub groups: Arc<ProcessGroups>,
    runs: u64,
    runner: Option<Runner>,
}

impl Slot {
    /// How many process groups the register has to hold for so many slots: a command may run where a handler waits.
    pub(super) fn groups_of(slots: usize) -> usize {
        2 * slots
    }

    pub(super) fn new(number: usize, groups: Arc<ProcessGroups>) -> Slot {
        Slot { number, groups, runs: 0, runner: None }
    }

    /// The place in the register of a command of its own.
    pub(super) fn command_place(&self) -> usize {
        2 * self.number
    }

    /// The place in the register of the handler that waits here.
    pub(super) fn handler_place(&self) -> usize {
        2 * self.number + 1
    }

    /// The slot's thread, from its first command on.
    pub(super) fn runner(&mut self) -> io::Result<&Runner> {
        if self.runner.is_none() {
            self.runner = Some(Runner::new()?);
        }
        Ok(self.runner.as_ref().expect("it was made just now"))
    }

    /// The next command gets another thread.
    pub(super) fn forget_runner(&mut self) {
        self.runner = None;
    }

    /// The files of the next run.
    pub(super) fn files(&mut self) -> Files {
        self.runs += 1;
        Files::new(self.groups.dir(), &format!("{}.{}", self.number, self.runs))
    }
}

/// Chooses one of the free slots by what waits warm in each: a warm handler that fits is worth most, and handlers of
/// other types are left alone while they can be. Answers the index; there must be one.
pub(super) fn choose<'a>(warm: impl Iterator<Item = Option<&'a Spec>>, wanted: Option<&Spec>) -> usize {
    let rank = |spec: Option<&Spec>| match (spec, wanted) {
        (Some(has), Some(wants)) if has == wants => 2,
        (None, _) => 1,
        (Some(_), _) => 0,
    };
    warm.map(rank).enumerate().max_by_key(|(index, rank)| (*rank, *index)).map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(program: &str) -> Spec {
        Spec { program: program.into(), args: Vec::new(), env: Vec::new(), pod: None }
    }

    #[test]
    fn a_job_goes_to_its_warm_handler_then_to_an_empty_slot_then_to_any() {
        let (a, b) = (spec("a"), spec("b"));
        assert_eq!(choose([Some(&a), None, Some(&b)].into_iter(), Some(&a)), 0);
        assert_eq!(choose([Some(&a), None, Some(&a)].into_iter(), Some(&b)), 1);
        assert_eq!(choose([Some(&a), Some(&a)].into_iter(), Some(&b)), 1);
    }

    #[test]
    fn a_command_leaves_warm_handlers_alone_while_it_can() {
        let a = spec("a");
        assert_eq!(choose([None, Some(&a)].into_iter(), None), 0);
        assert_eq!(choose([Some(&a)].into_iter(), None), 0);
    }
}
