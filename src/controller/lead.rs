//! The leadership: a row in Postgres with a lease and the number of the leader's term.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store::{Led, Store};

/// A term in which this controller leads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LeaderTerm {
    /// Every write of a leader names this number, and is refused when the term is over.
    pub epoch: i64,
    /// The lease lasts at least until then. The time is on this process's monotonic clock, from before the question
    /// was sent, so it is never later than the database's.
    until: Instant,
}

impl LeaderTerm {
    /// Whether a write is worth trying. A write after the end of the term is refused in any case.
    pub(super) fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Takes the leadership when it is free and keeps it until `end`, then gives it up.
pub(super) async fn lead(
    store: Store,
    id: Uuid,
    name: String,
    lease: Duration,
    term: watch::Sender<Option<LeaderTerm>>,
    end: CancellationToken,
) {
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = store.lead(id, &name, lease) => answer,
            () = end.cancelled() => break,
        };
        let wait = match answer {
            Ok(Led { epoch: Some(epoch), .. }) => {
                let before = term.send_replace(Some(LeaderTerm { epoch, until: asked + lease }));
                if before.is_none_or(|t| t.epoch != epoch) {
                    tracing::info!(epoch, "leading");
                }
                lease / 5
            }
            Ok(Led { epoch: None, leader, left }) => {
                if term.send_replace(None).is_some() {
                    tracing::warn!(leader, "another controller leads now");
                }
                // Not before it can be free, and often enough to be there soon after.
                left.clamp(Duration::from_millis(20), (lease / 15).max(Duration::from_millis(50)))
            }
            Err(error) => {
                tracing::warn!(%error, "the leadership cannot be asked for");
                term.send_if_modified(|t| t.take_if(|t| !t.lasts()).is_some());
                Duration::from_millis(500).min(lease / 5)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => break,
        }
    }
    if let Some(term) = term.send_replace(None)
        && let Err(error) = store.resign(term.epoch).await
    {
        tracing::debug!(%error, "the leadership was not given up; its lease ends by itself");
    }
}
