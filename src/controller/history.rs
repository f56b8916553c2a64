//! Earlier decisions: they hold a scale-in back, and limit how fast replicas come and go.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

use super::decision::Decision;

/// After a longer time without a decision the history starts anew: nobody knows what happened in between.
const MAX_GAP: TimeDelta = TimeDelta::seconds(30);

/// Earlier decisions of one Deployment, oldest first. Kept in Postgres as rows of `rowlock.decisions`, so that a
/// restart or another leader goes on with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    past: VecDeque<Past>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Past {
    at: DateTime<Utc>,
    need_slots: f64,
    wanted: u32,
}

impl History {
    /// Adds a decision and forgets what is older than `keep`. A decision without a need, as when demand was
    /// unknown, is left out.
    pub fn remember(&mut self, decision: &Decision, keep: TimeDelta) {
        if let Some(need_slots) = decision.need_slots {
            self.add(decision.at, need_slots, decision.wanted, keep);
        }
    }

    /// Adds the columns of a stored decision, as [`remember`](Self::remember) does.
    pub fn add(&mut self, at: DateTime<Utc>, need_slots: f64, wanted: u32, keep: TimeDelta) {
        if self.past.back().is_some_and(|last| at - last.at > MAX_GAP) {
            self.past.clear();
        }
        self.past.push_back(Past { at, need_slots, wanted });
        // A decision that is older than the window stays: it tells that the whole window was seen.
        while self.past.get(1).is_some_and(|second| second.at <= at - keep) {
            self.past.pop_front();
        }
    }

    /// Whether there were decisions throughout the window.
    pub(crate) fn covers(&self, window: TimeDelta, now: DateTime<Utc>) -> bool {
        self.past.front().is_some_and(|first| first.at <= now - window)
            && self.past.back().is_some_and(|last| now - last.at <= MAX_GAP)
    }

    /// The highest need within the window, in slots.
    pub(crate) fn highest_need(&self, window: TimeDelta, now: DateTime<Utc>) -> f64 {
        self.within(window, now).map(|p| p.need_slots).fold(0.0, f64::max)
    }

    /// The fewest and the most replicas wanted within the window, the present ones among them.
    pub(crate) fn replicas(&self, window: TimeDelta, now: DateTime<Utc>, present: u32) -> (u32, u32) {
        self.within(window, now).fold((present, present), |(min, max), p| (min.min(p.wanted), max.max(p.wanted)))
    }

    fn within(&self, window: TimeDelta, now: DateTime<Utc>) -> impl Iterator<Item = &Past> {
        self.past.iter().rev().take_while(move |p| p.at > now - window)
    }
}
