//! How far a claimer has scanned each lane, so that it never walks rows that are gone but not yet
//! vacuumed. Pure: the caller brings the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// A job committed later than this after it got its position may be behind the hint; a sweep finds it.
const LAG: Duration = Duration::from_millis(10);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// A sweep may take at most this part of the time: under an old transaction it walks every dead row.
const SWEEP_SHARE: u32 = 20;

/// A lane: queue and rank.
type Lane = (i32, i16);

#[derive(Debug, Default)]
pub(crate) struct Hints {
    lanes: BTreeMap<Lane, LaneHint>,
    next_sweep: Option<Instant>,
}

#[derive(Debug, Default)]
struct LaneHint {
    after: i64,
    /// Positions that were claimed too recently to skip.
    recent: VecDeque<(Instant, i64)>,
}

/// The arguments of `claim_v1`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HintArgs {
    pub queues: Vec<i32>,
    pub ranks: Vec<i16>,
    pub after: Vec<i64>,
    pub sweep: bool,
}

impl Hints {
    /// Where to search from now; from the start when a sweep is due.
    pub fn args(&mut self, now: Instant) -> HintArgs {
        if self.sweep_due(now) {
            // Taken: a claim beside this one does not sweep as well.
            self.next_sweep = Some(now + SWEEP_EVERY);
            return HintArgs { sweep: true, ..Default::default() };
        }
        let mut args = HintArgs::default();
        for (&(queue, rank), lane) in &mut self.lanes {
            while let Some(&(at, pos)) = lane.recent.front() {
                if now.duration_since(at) < LAG {
                    break;
                }
                lane.after = lane.after.max(pos);
                lane.recent.pop_front();
            }
            args.queues.push(queue);
            args.ranks.push(rank);
            args.after.push(lane.after);
        }
        args
    }

    /// A sweep began at `started` and is over.
    pub fn swept(&mut self, started: Instant, now: Instant) {
        self.next_sweep = Some(now + SWEEP_EVERY.max(now.duration_since(started) * SWEEP_SHARE));
    }

    /// Jobs were put back in their old places, before the hints: the next claim looks there, whatever it costs.
    pub fn put_back(&mut self) {
        self.next_sweep = None;
    }

    /// Whether a sweep would be allowed now.
    pub fn sweep_due(&self, now: Instant) -> bool {
        self.next_sweep.is_none_or(|t| now >= t)
    }

    /// The highest position taken from a lane.
    pub fn took(&mut self, queue: i32, rank: i16, pos: i64, now: Instant) {
        self.lanes.entry((queue, rank)).or_default().recent.push_back((now, pos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_trails_what_was_taken_by_the_lag() {
        let t = Instant::now();
        let mut h = Hints::default();
        assert!(h.args(t).sweep);
        h.swept(t, t);
        h.took(1, -6, 100, t);
        assert_eq!(h.args(t + Duration::from_millis(5)).after, vec![0]);
        assert_eq!(h.args(t + Duration::from_millis(10)).after, vec![100]);
    }

    #[test]
    fn a_hint_never_goes_back() {
        let t = Instant::now();
        let mut h = Hints::default();
        h.swept(t, t);
        h.took(1, 0, 100, t);
        h.took(1, 0, 7, t); // a rescued job, in its old place
        assert_eq!(h.args(t + LAG).after, vec![100]);
    }

    #[test]
    fn a_costly_sweep_is_repeated_rarely() {
        let t = Instant::now();
        let mut h = Hints::default();
        h.swept(t, t + Duration::from_secs(1));
        assert!(!h.sweep_due(t + Duration::from_secs(20)));
        assert!(h.sweep_due(t + Duration::from_secs(21)));
    }

    #[test]
    fn what_was_put_back_is_looked_for_at_once() {
        let t = Instant::now();
        let mut h = Hints::default();
        h.swept(t, t + Duration::from_secs(1));
        assert!(!h.args(t + Duration::from_secs(2)).sweep);
        h.put_back();
        assert!(h.args(t + Duration::from_secs(2)).sweep);
    }
}
