//! The registration behind jobs worked by hand, with its heartbeat.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Session, SessionOptions,
    connect::presence::Presence,
    session::heartbeat::{Heartbeat, lease_ended},
};

/// Registers, as often as it is needed.
pub(super) struct Registrar {
    pub pool: Pool,
    pub presence: Arc<Presence>,
    pub options: SessionOptions,
}

pub(super) struct Registration {
    pub session: Arc<Session>,
    heartbeat: Heartbeat,
}

impl Registrar {
    pub(super) async fn register(&self) -> Result<Registration, Error> {
        let session = Arc::new(Session::register(self.pool.clone(), self.options.clone()).await?);
        let heartbeat = Heartbeat::start(session.clone(), self.presence.clone(), CancellationToken::new(), |_| {});
        Ok(Registration { session, heartbeat })
    }
}

impl Registration {
    pub(super) async fn stop(self, within: Duration) {
        if !matches!(tokio::time::timeout(within, self.session.stop()).await, Ok(Ok(()))) {
            tracing::debug!("the database was not told that this worker has ended; its lease will end");
        }
    }
}

/// Returns when the lease of the registration has ended; never without a registration.
pub(super) async fn lease_end(registration: Option<&Registration>) {
    match registration {
        Some(registration) => lease_ended(registration.heartbeat.beats.clone()).await,
        None => std::future::pending().await,
    }
}
