//! The keeper's rounds, which a worker does where there is one: with none, somebody must find that jobs for later
//! are due, or no worker would ever be started for them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store::Store;

/// As many as one round promotes: there are more.
const FULL: i32 = 2000;

pub(super) async fn keep(store: Store, id: Uuid, end: CancellationToken) {
    loop {
        let wait = match store.keep(id).await {
            Ok((true, FULL.., _)) => Duration::ZERO,
            Ok((true, _, rescued)) => {
                if rescued > 0 {
                    tracing::info!(rescued, "put back the jobs of lost workers");
                }
                // Due jobs are to be claimable within 100 ms of their time.
                Duration::from_millis(80)
            }
            Ok((false, ..)) => Duration::from_secs(1),
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
