//! The size of a Deployment and its changes, while the watch may still show the size of before. Pure.

/// A change of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// To at least this size.
    AtLeast(u32),
    /// By so many fewer.
    Fewer(u32),
}

/// The step that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// The size is right already.
    Done,
    /// The watch has to show the last change first.
    Wait,
    /// The size has to be set, if the Deployment still has the observed version.
    Set(u32),
}

/// The end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    /// No answer came: the call may have had its effect.
    None,
}

/// The changes of this controller, each with the version of the Deployment before it.
#[derive(Debug, Default)]
pub(super) struct Size {
    set: Option<(String, u32)>,
    /// A smaller size was asked for, and no answer came.
    tried: Option<(String, u32)>,
}

impl Size {
    /// The size, when the watch shows this version with that one.
    pub(super) fn present(&mut self, version: &str, seen: u32) -> u32 {
        self.set.take_if(|(before, _)| before != version);
        self.set.as_ref().map_or(seen, |(_, to)| *to)
    }

    pub(super) fn plan(&mut self, version: &str, present: u32, change: Change) -> Plan {
        let to = match change {
            Change::AtLeast(n) => present.max(n),
            Change::Fewer(n) => {
                // The call had its effect: the same number would go twice.
                let tried = self.tried.take_if(|(before, _)| before != version);
                if tried.is_some_and(|(_, to)| to == present) { present } else { present.saturating_sub(n) }
            }
        };
        match () {
            () if to == present => Plan::Done,
            () if self.set.is_some() => Plan::Wait,
            () => Plan::Set(to),
        }
    }

    pub(super) fn answered(&mut self, version: String, to: u32, change: Change, answer: Answer) {
        match (answer, change) {
            (Answer::Yes, _) => (self.set, self.tried) = (Some((version, to)), None),
            (Answer::None, Change::Fewer(_)) => self.tried = Some((version, to)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_change_counts_before_it_is_seen_and_the_next_one_waits() {
        let mut size = Size::default();
        assert_eq!(size.plan("1", 0, Change::AtLeast(3)), Plan::Set(3));
        size.answered("1".into(), 3, Change::AtLeast(3), Answer::Yes);
        assert_eq!(size.present("1", 0), 3, "the watch is late");
        assert_eq!(size.plan("1", 3, Change::AtLeast(3)), Plan::Done);
        assert_eq!(size.plan("1", 3, Change::AtLeast(5)), Plan::Wait);
        assert_eq!(size.present("2", 4), 4, "what is seen since then holds, whoever set it");
        assert_eq!(size.plan("2", 4, Change::AtLeast(5)), Plan::Set(5));
    }

    #[test]
    fn fewer_without_an_answer_are_not_taken_twice() {
        let mut size = Size::default();
        assert_eq!(size.plan("1", 5, Change::Fewer(2)), Plan::Set(3));
        size.answered("1".into(), 3, Change::Fewer(2), Answer::None);
        // Not seen yet: asked again, for the same version, which is refused if it had its effect.
        assert_eq!(size.plan("1", 5, Change::Fewer(2)), Plan::Set(3));
        size.answered("1".into(), 3, Change::Fewer(2), Answer::No);
        assert_eq!(size.plan("2", 3, Change::Fewer(2)), Plan::Done, "it had");
        assert_eq!(size.plan("3", 3, Change::Fewer(2)), Plan::Set(1), "the next ones");
    }

    #[test]
    fn fewer_without_an_effect_are_taken_then() {
        let mut size = Size::default();
        size.answered("1".into(), 3, Change::Fewer(2), Answer::None);
        assert_eq!(size.plan("2", 5, Change::Fewer(2)), Plan::Set(3));
        assert_eq!(size.plan("2", 0, Change::Fewer(2)), Plan::Done, "never below none");
    }
}
