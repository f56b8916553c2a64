//! Rounds of maintenance, in which every worker and controller takes part: due jobs become ready, those of lost workers
//! are rescued, totals are folded. The controller does, too: with no worker, somebody must find that jobs for
//! later are due, or none would ever be started for them.
//!
//! An idle fleet is quiet. The keeper rests until something is due, for less than a second, and its rounds send a sign
//! of life to all who listen. So nobody else asks the database while the keeper lives.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, listen::KeeperSigns, session::Maintained};

/// Between two rounds that have something to do: due jobs are to be claimable within 100 ms of their time.
const ROUND: Duration = Duration::from_millis(80);
/// A keeper that has nothing to do looks again so soon. The place is held for a second (see `maintain_v1`).
const REST: Duration = Duration::from_millis(900);
/// A keeper is taken for dead after so long without a sign, and up to `SPREAD` later, so that not all ask at once. The
/// jobs of the lost wait for their lease and a second and a half at most, even where keepers are lost in a row.
const SILENCE: Duration = Duration::from_millis(1100);
const SPREAD: Duration = Duration::from_millis(250);
/// How often a place that another holds is asked for by whoever does not hear the keeper.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Does the rounds while the holder is the keeper, and asks when the keeper is not heard, until `end`.
pub(crate) async fn maintain<F>(round: impl Fn() -> F, signs: Arc<KeeperSigns>, end: CancellationToken)
where
    F: Future<Output = Result<Maintained, Error>>,
{
    // Of the random bits of an id: each holder has another.
    let turn = SPREAD * (Uuid::now_v7().as_u128() % 256) as u32 / 256;
    let rounds = async {
        loop {
            match round().await {
                Ok(done) if done.keeper => {
                    if done.rescued > 0 {
                        tracing::info!(done.rescued, "put back the jobs of lost workers");
                    }
                    keep(rest(&done, signs.heard_at().is_some()), &signs).await;
                }
                Ok(_) => follow(turn, &signs).await,
                Err(error) => {
                    tracing::warn!(%error, "maintenance failed");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    end.run_until_cancelled(rounds).await;
}

/// How long the keeper rests after a round. One that does not hear hears of no sooner job either.
fn rest(done: &Maintained, hears: bool) -> Duration {
    // As many as one round promotes: there are more.
    if done.promoted >= 2000 {
        return Duration::ZERO;
    }
    if !hears || done.promoted > 0 || done.rescued > 0 {
        return ROUND;
    }
    match done.next_due {
        None => REST,
        // Overdue, and this round could not do it.
        Some(Duration::ZERO) => ROUND,
        Some(due) => due.clamp(Duration::from_millis(5), REST),
    }
}

/// The keeper's pause, which a job ends that is due sooner.
async fn keep(pause: Duration, signs: &KeeperSigns) {
    let soonest = Instant::now() + pause.min(ROUND);
    tokio::select! {
        () = sleep(pause) => {}
        () = signs.due.notified() => sleep_until(soonest.into()).await,
    }
}

/// Returns when the place of the keeper is to be asked for.
async fn follow(turn: Duration, signs: &KeeperSigns) {
    let asked_at = Instant::now();
    loop {
        let heard_at = signs.heard_at();
        let silent = heard_at.map_or(asked_at, |at| at + SILENCE + turn).max(asked_at + ASK_INTERVAL);
        let last = tokio::select! {
            () = sleep_until(silent.into()) => heard_at,
            () = signs.ended.notified() => {
                let last = signs.heard_at();
                // Whoever is first gives a sign, and the others go on as before.
                sleep(turn / 4).await;
                last
            }
        };
        if signs.heard_at().is_none_or(|at| Some(at) == last) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(promoted: i32, next_due: Option<Duration>) -> Maintained {
        Maintained { keeper: true, promoted, rescued: 0, next_due }
    }

    #[test]
    fn the_keeper_rests_until_something_is_due_and_never_longer_than_its_place_is_held() {
        let ms = Duration::from_millis;
        for (promoted, next_due, hears, expected) in [
            (0, None, true, REST),
            (0, Some(ms(300)), true, ms(300)),
            (0, Some(ms(60_000)), true, REST),
            (0, Some(ms(0)), true, ROUND),
            (7, Some(ms(1)), true, ROUND),
            (2000, None, true, ms(0)),
            (0, None, false, ROUND),
        ] {
            assert_eq!(rest(&done(promoted, next_due), hears), expected, "{promoted} {next_due:?} {hears}");
        }
        assert!(SILENCE + SPREAD < Duration::from_millis(1500) && REST < SILENCE);
    }
}
