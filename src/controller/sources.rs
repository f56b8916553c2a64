//! The sources of the catalogue: which ones have to be loaded, and which ones have gone. Pure.
//!
//! A renamed ConfigMap is a new one beside the old one, or after it. Its entries belong to the old one until that has
//! gone. Then they move: a source that has gone is ended only after a while, in which another may take its entries.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A source that has gone is ended after this time. Tools apply and prune within seconds, in either order.
const GONE_GRACE: Duration = Duration::from_secs(10);

/// The state of each source.
#[derive(Debug, Default)]
pub(super) struct Sources {
    done: HashMap<String, Done>,
    /// The sources that have gone and are not ended, and since when.
    gone: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Done {
    version: String,
    /// It is tried again at this time: it was refused, or something of it had to stay.
    again: Option<Instant>,
}

/// The next steps, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Present sources to load, by their place.
    pub load: Vec<usize>,
    /// Sources that have gone: the loaded ones may take their entries.
    pub gone: Vec<String>,
    /// Sources to end.
    pub end: Vec<String>,
}

impl Sources {
    /// Plans for the present sources, each with its version.
    pub(super) fn plan(&mut self, there: &[(String, String)], now: Instant) -> Plan {
        let is_there = |name: &String| there.iter().any(|(source, _)| source == name);
        self.gone.retain(|name, _| !is_there(name));
        let before = self.gone.len();
        for name in self.done.keys().filter(|name| !is_there(name)) {
            self.gone.entry(name.clone()).or_insert(now);
        }
        // Whoever was refused because of a source that has gone need not wait.
        let has_news = self.gone.len() > before;
        let is_due = |done: &Done, version: &String| {
            done.version != *version || done.again.is_some_and(|at| has_news || now >= at)
        };
        let load = |(_, (source, version)): &(usize, &(String, String))| {
            self.done.get(source).is_none_or(|done| is_due(done, version))
        };
        let waits = |name: &String| self.done.get(name).is_some_and(|d| d.again.is_some_and(|at| now < at));
        let ended = |(name, since): &(&String, &Instant)| now.duration_since(**since) >= GONE_GRACE && !waits(name);
        Plan {
            load: there.iter().enumerate().filter(load).map(|(n, _)| n).collect(),
            gone: self.gone.keys().cloned().collect(),
            end: self.gone.iter().filter(ended).map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Notes that a version of a source was dealt with.
    pub(super) fn done(&mut self, source: String, version: String, again: Option<Instant>) {
        self.done.insert(source, Done { version, again });
    }

    /// Forgets a source that has ended.
    pub(super) fn forget(&mut self, source: &str) {
        self.done.remove(source);
        self.gone.remove(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|n| ((*n).to_owned(), "1".to_owned())).collect()
    }

    #[test]
    fn a_renamed_source_is_tried_at_once_when_the_old_one_has_gone_and_that_one_ends_later() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        let minute = Duration::from_secs(60);
        assert_eq!(sources.plan(&there(&["old"]), start).load, [0]);
        sources.done("old".into(), "1".into(), None);
        // The new one is refused while the old one is there.
        assert_eq!(sources.plan(&there(&["new", "old"]), start).load, [0]);
        sources.done("new".into(), "1".into(), Some(start + minute));
        assert_eq!(sources.plan(&there(&["new", "old"]), start), Plan::default());
        let pruned = sources.plan(&there(&["new"]), start + minute / 60);
        assert_eq!(pruned, Plan { load: vec![0], gone: vec!["old".into()], end: vec![] });
        sources.done("new".into(), "1".into(), None);
        assert_eq!(sources.plan(&there(&["new"]), start + GONE_GRACE).end, [""; 0]);
        assert_eq!(sources.plan(&there(&["new"]), start + minute / 60 + GONE_GRACE).end, ["old"]);
        sources.forget("old");
        assert_eq!(sources.plan(&there(&["new"]), start + minute), Plan::default());
    }

    #[test]
    fn one_that_comes_after_the_old_one_has_gone_takes_its_entries_and_one_that_comes_back_has_not_gone() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        sources.done("old".into(), "1".into(), None);
        assert_eq!(sources.plan(&[], start).gone, ["old"]);
        let plan = sources.plan(&there(&["new"]), start + GONE_GRACE / 2);
        assert_eq!((plan.load, plan.gone, plan.end), (vec![0], vec!["old".to_owned()], vec![]));
        assert_eq!(sources.plan(&there(&["old"]), start + GONE_GRACE * 2), Plan::default());
    }
}
