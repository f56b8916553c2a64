//! The leadership: a row in Postgres with a lease and the number of the reign.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store::{Led, Store};

/// A reign of this controller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reign {
    /// Every write names it, and is refused when it is over.
    pub epoch: i64,
    /// By this process's monotonic clock, from before the question was sent: never later than the database's.
    until: Instant,
}

impl Reign {
    /// Whether it is worth trying: what is written is fenced in any case.
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
    reign: watch::Sender<Option<Reign>>,
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
                let before = reign.send_replace(Some(Reign { epoch, until: asked + lease }));
                if before.is_none_or(|r| r.epoch != epoch) {
                    tracing::info!(epoch, "leading");
                }
                lease / 5
            }
            Ok(Led { epoch: None, leader, left }) => {
                if reign.send_replace(None).is_some() {
                    tracing::warn!(leader, "another controller leads now");
                }
                // Not before it can be free, and often enough to be there soon after.
                left.clamp(Duration::from_millis(20), (lease / 15).max(Duration::from_millis(50)))
            }
            Err(error) => {
                tracing::warn!(%error, "the leadership cannot be asked for");
                reign.send_if_modified(|r| r.take_if(|r| !r.lasts()).is_some());
                Duration::from_millis(500).min(lease / 5)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => break,
        }
    }
    if let Some(r) = reign.send_replace(None)
        && let Err(error) = store.resign(r.epoch).await
    {
        tracing::debug!(%error, "the leadership was not given up; its lease ends by itself");
    }
}
