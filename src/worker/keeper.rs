//! The keeper's rounds: due jobs become ready, those of lost workers are rescued, totals are folded.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{Session, session::Kept};

/// Does the keeper's rounds while this worker is it, and asks every second while it is not.
pub(super) async fn keep(session: Arc<Session>, end: CancellationToken) {
    loop {
        let wait = match session.keep().await {
            Ok(Kept { keeper: true, promoted: 2000.., .. }) => Duration::ZERO,
            // Due jobs are to be claimable within 100 ms of their time.
            Ok(Kept { keeper: true, rescued, .. }) => {
                if rescued > 0 {
                    tracing::info!(rescued, "put back the jobs of lost workers");
                }
                Duration::from_millis(80)
            }
            Ok(Kept { keeper: false, .. }) => Duration::from_secs(1),
            Err(error) => {
                tracing::warn!(%error, "keeping failed");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => return,
        }
    }
}
