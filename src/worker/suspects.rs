//! Suspects: jobs that have lost two workers already. An engine runs a suspect with nothing beside it, so that a job
//! that kills its worker takes no other job along, and the database can tell that job from its neighbours.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::ClaimedJob;

/// A worker that is never idle asks for suspects during the last second of each such time.
const ASK_EVERY: Duration = Duration::from_secs(30);
const ASK_FOR: Duration = Duration::from_secs(1);
/// A suspect waits so long for the jobs beside it to end. Then it runs all the same: nobody waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// The suspect of one engine, if it has one.
#[derive(Debug)]
pub(super) struct Suspects {
    since: Instant,
    waiting: Option<(ClaimedJob, Instant)>,
    running: Option<Uuid>,
}

/// The jobs of a claim.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub start: Vec<ClaimedJob>,
    pub release: Vec<ClaimedJob>,
}

impl Suspects {
    pub(super) fn new(now: Instant) -> Suspects {
        Suspects { since: now, waiting: None, running: None }
    }

    /// Whether the next claim may bring suspects. `idle`: no job runs here.
    pub(super) fn are_wanted(&self, idle: bool, now: Instant) -> bool {
        let asks = now.duration_since(self.since).as_millis() % ASK_EVERY.as_millis();
        !self.are_here() && (idle || asks >= (ASK_EVERY - ASK_FOR).as_millis())
    }

    /// Whether a suspect runs or waits: nothing may be claimed.
    pub(super) fn are_here(&self) -> bool {
        self.running.is_some() || self.waiting.is_some()
    }

    /// Takes the first suspect of a claim. Beside it nothing starts: an idle engine releases the others, a busy one
    /// lets the suspect wait.
    pub(super) fn sort(
        &mut self,
        mut jobs: Vec<ClaimedJob>,
        idle: bool,
        now: Instant,
        is_suspect: impl Fn(&ClaimedJob) -> bool,
    ) -> Sorted {
        let Some(first) = jobs.iter().position(&is_suspect) else {
            return Sorted { start: jobs, release: Vec::new() };
        };
        let suspect = jobs.remove(first);
        if idle {
            self.running = Some(suspect.id);
            return Sorted { start: vec![suspect], release: jobs };
        }
        self.waiting = Some((suspect, now + PATIENCE));
        let (release, start) = jobs.into_iter().partition(is_suspect);
        Sorted { start, release }
    }

    /// The suspect that has waited, if it is time to start it.
    pub(super) fn due(&mut self, idle: bool, now: Instant) -> Option<ClaimedJob> {
        let (suspect, _) = self.waiting.take_if(|(_, until)| idle || now >= *until)?;
        self.running = Some(suspect.id);
        Some(suspect)
    }

    /// The suspect that waits, for an engine that starts nothing any more.
    pub(super) fn give_up(&mut self) -> Option<ClaimedJob> {
        self.waiting.take().map(|(suspect, _)| suspect)
    }

    pub(super) fn ended(&mut self, id: Uuid) {
        self.running.take_if(|running| *running == id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::job::claimed::tests::job;

    fn ids(jobs: &[ClaimedJob]) -> Vec<u128> {
        jobs.iter().map(|job| job.id.as_u128()).collect()
    }

    fn claim() -> Vec<ClaimedJob> {
        (1..=4).map(|id| ClaimedJob { suspect: id % 2 == 0, ..job(id) }).collect()
    }

    #[test]
    fn an_idle_engine_runs_the_first_suspect_alone() {
        let now = Instant::now();
        let mut suspects = Suspects::new(now);
        assert!(suspects.are_wanted(true, now));
        let sorted = suspects.sort(claim(), true, now, |job| job.suspect);
        assert_eq!((ids(&sorted.start), ids(&sorted.release)), (vec![2], vec![1, 3, 4]));
        assert!(suspects.are_here() && !suspects.are_wanted(true, now));
        suspects.ended(Uuid::from_u128(1));
        assert!(suspects.are_here());
        suspects.ended(Uuid::from_u128(2));
        assert!(!suspects.are_here());
    }

    #[test]
    fn a_busy_engine_lets_a_suspect_wait_until_nothing_runs_or_patience_ends() {
        let now = Instant::now();
        for (idle, later) in [(true, now), (false, now + PATIENCE)] {
            let mut suspects = Suspects::new(now);
            let sorted = suspects.sort(claim(), false, now, |job| job.suspect);
            assert_eq!((ids(&sorted.start), ids(&sorted.release)), (vec![1, 3], vec![4]));
            assert!(suspects.are_here() && suspects.due(false, now).is_none());
            assert_eq!(suspects.due(idle, later).unwrap().id.as_u128(), 2);
            assert!(suspects.are_here() && suspects.due(true, later).is_none());
        }
    }

    #[test]
    fn a_busy_engine_asks_now_and_then() {
        let now = Instant::now();
        let suspects = Suspects::new(now);
        let asks = |after: u64| suspects.are_wanted(false, now + Duration::from_millis(after));
        assert_eq!([0, 28_999, 29_000, 29_999, 30_000, 59_500].map(asks), [false, false, true, true, false, true]);
    }

    #[test]
    fn a_claim_without_suspects_starts_whole() {
        let now = Instant::now();
        let mut suspects = Suspects::new(now);
        let sorted = suspects.sort(claim(), true, now, |_| false);
        assert_eq!((sorted.start.len(), sorted.release.len()), (4, 0));
        assert!(!suspects.are_here() && suspects.give_up().is_none());
    }
}
