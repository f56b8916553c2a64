//! Everything that one worker holds: the receipts whose jobs it knows, the claims that are under way, and the jobs that
//! were dropped without an end.
//!
//! The answer to a claim can be lost after the database has committed the claim. Then the database has a receipt of a
//! worker that lives and does not know of the receipt. So every claim carries a number, and every heartbeat says what
//! the worker knows: the database puts back the jobs of all other receipts. A claim that is under way when the
//! heartbeat is composed, or that begins later, is not touched: its number says so.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use uuid::Uuid;

/// The list of one worker.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many values of each receipt's jobs there are.
    receipts: HashMap<i64, usize>,
    /// The numbers of the claims that are under way.
    pending: BTreeSet<i64>,
    next: i64,
    /// The last claim whose answer did not come, until a heartbeat has said what is known.
    in_doubt: Option<i64>,
    /// Jobs that were dropped without an end, by receipt and id.
    dropped: Vec<(i64, Uuid)>,
}

/// The knowledge of a worker, as its heartbeat says it. The database puts back each receipt of the worker that was
/// claimed under a number
/// below `below`, and neither is in `receipts` nor was claimed under a number in `pending`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub receipts: Vec<i64>,
    pub pending: Vec<i64>,
    pub below: i64,
}

impl Holds {
    /// Begins a claim under a number of its own. The claim is under way as long as the value lives.
    pub(crate) fn begin_claim(self: &Arc<Self>) -> Claim {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.pending.insert(number);
        Claim { number, is_answered: false, holds: self.clone() }
    }

    /// A job of a receipt came.
    pub(crate) fn hold(self: &Arc<Self>, receipt: i64, id: Uuid) -> Hold {
        *self.state().receipts.entry(receipt).or_default() += 1;
        Hold { receipt, id, ended: false, holds: self.clone() }
    }

    pub(crate) fn known(&self) -> Known {
        let state = self.state();
        Known {
            receipts: state.receipts.keys().copied().collect(),
            pending: state.pending.iter().copied().collect(),
            below: state.next,
        }
    }

    /// Whether there is nothing that somebody could cancel, nor anything to hand back.
    pub(crate) fn is_idle(&self) -> bool {
        let State { receipts, pending, dropped, in_doubt, .. } = &*self.state();
        receipts.is_empty() && pending.is_empty() && dropped.is_empty() && in_doubt.is_none()
    }

    /// The database has heard what was known when the next claim had this number.
    pub(crate) fn told(&self, below: i64) {
        self.state().in_doubt.take_if(|number| *number < below);
    }

    /// The dropped jobs that are still to be handed back. Those of receipts without any job left here are not among
    /// them: the heartbeat returns these receipts whole.
    pub(crate) fn dropped(&self) -> Vec<(i64, Uuid)> {
        let mut state = self.state();
        let State { receipts, dropped, .. } = &mut *state;
        dropped.retain(|(receipt, _)| receipts.contains_key(receipt));
        dropped.clone()
    }

    /// The database has answered for these dropped jobs.
    pub(crate) fn returned(&self, jobs: &[(i64, Uuid)]) {
        self.state().dropped.retain(|job| !jobs.contains(job));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// A claim that is under way.
#[derive(Debug)]
pub(crate) struct Claim {
    number: i64,
    is_answered: bool,
    holds: Arc<Holds>,
}

impl Claim {
    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// The answer came, and its jobs are held.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        state.pending.remove(&self.number);
        if !self.is_answered {
            state.in_doubt = state.in_doubt.max(Some(self.number));
        }
    }
}

/// One job's entry in the list, from its claim to its end.
#[derive(Debug)]
pub(crate) struct Hold {
    receipt: i64,
    id: Uuid,
    ended: bool,
    holds: Arc<Holds>,
}

impl Hold {
    pub(crate) fn receipt(&self) -> i64 {
        self.receipt
    }

    /// The database has answered how the job ended, or that the job is not this worker's any more.
    pub(crate) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        if let Some(n) = state.receipts.get_mut(&self.receipt) {
            *n -= 1;
            if *n == 0 {
                state.receipts.remove(&self.receipt);
            }
        }
        if !self.ended {
            state.dropped.push((self.receipt, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_under_way_is_pending_until_it_is_answered_or_given_up() {
        let holds = Arc::new(Holds::default());
        let (first, second) = (holds.begin_claim(), holds.begin_claim());
        assert_eq!(holds.known(), Known { receipts: vec![], pending: vec![0, 1], below: 2 });
        let job = holds.hold(7, Uuid::nil());
        drop(first);
        assert_eq!(holds.known(), Known { receipts: vec![7], pending: vec![1], below: 2 });
        drop((second, job));
        assert_eq!(holds.known(), Known { receipts: vec![], pending: vec![], below: 2 });
    }

    #[test]
    fn who_waits_for_no_answer_and_holds_no_job_is_idle() {
        let holds = Arc::new(Holds::default());
        assert!(holds.is_idle());
        let lost = holds.begin_claim();
        assert!(!holds.is_idle());
        drop(lost);
        assert!(!holds.is_idle(), "the database may have given it jobs");
        holds.told(0);
        assert!(!holds.is_idle(), "that was before");
        holds.told(1);
        assert!(holds.is_idle());
        holds.begin_claim().answered();
        assert!(holds.is_idle());
        let job = holds.hold(7, Uuid::nil());
        assert!(!holds.is_idle());
        job.end();
        assert!(holds.is_idle());
    }

    #[test]
    fn a_job_that_is_dropped_beside_others_of_its_receipt_is_handed_back_by_itself() {
        let holds = Arc::new(Holds::default());
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let (kept, lost, done) = (holds.hold(7, a), holds.hold(7, b), holds.hold(7, c));
        drop(lost);
        done.end();
        assert_eq!(holds.dropped(), [(7, b)]);
        assert_eq!(holds.dropped(), [(7, b)], "until the database has answered");
        holds.returned(&[(7, b)]);
        assert!(holds.dropped().is_empty());
        drop(kept);
        assert!(holds.dropped().is_empty() && holds.known().receipts.is_empty(), "the receipt goes back whole");
    }
}
