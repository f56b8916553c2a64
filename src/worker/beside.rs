//! What goes on beside the loop: the heartbeat, the keeper, the listener.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::stream::{StreamExt, poll_fn};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Session, Target, session::Kept};

/// The state of the lease, as the loop sees it.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    pub deadline: Instant,
    pub draining: bool,
    pub cancelled: Vec<Uuid>,
    pub lost: bool,
}

/// Extends the lease three times in its life, also while draining: a worker that drains is alive.
pub(super) fn heartbeat(
    session: Arc<Session>,
    stop: CancellationToken,
    end: CancellationToken,
) -> (watch::Receiver<Beat>, JoinHandle<()>) {
    let lease = session.options().lease;
    let first = Beat { deadline: Instant::now() + lease, draining: false, cancelled: Vec::new(), lost: false };
    let (beat, beats) = watch::channel(first);
    let task = tokio::spawn(async move {
        let mut next = (lease / 3).min(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = end.cancelled() => return,
            }
            match tokio::time::timeout(lease / 3, session.extend(stop.is_cancelled())).await {
                Ok(Ok(h)) => {
                    // Cancellations are heard of here, so the beat is quicker than the lease alone asks for.
                    next = (lease / 3).min(Duration::from_secs(1));
                    beat.send_modify(|b| {
                        b.deadline = h.deadline;
                        b.draining = h.draining;
                        b.cancelled = h.cancelled;
                    });
                }
                Ok(Err(Error::LeaseLost(_))) => beat.send_modify(|b| b.lost = true),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "heartbeat failed");
                    next = (lease / 20).max(Duration::from_millis(50));
                }
                Err(_) => tracing::warn!("heartbeat timed out"),
            }
        }
    });
    (beats, task)
}

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

/// Whether somebody listens. If nobody can, polling goes on as it always does.
pub(super) struct Listener(Arc<AtomicBool>);

impl Listener {
    pub(super) fn connected(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn listen(target: Target, wake: Arc<Notify>, end: CancellationToken) -> Listener {
    let connected = Arc::new(AtomicBool::new(false));
    let flag = connected.clone();
    tokio::spawn(async move {
        let mut wait = Duration::from_millis(200);
        while !end.is_cancelled() {
            let started = Instant::now();
            tokio::select! {
                heard = hear(&target, &wake, &flag) => {
                    if let Err(error) = heard {
                        tracing::debug!(%error, "not listening");
                    }
                }
                () = end.cancelled() => {}
            }
            flag.store(false, Ordering::Relaxed);
            wake.notify_one();
            wait = if started.elapsed() > Duration::from_secs(30) {
                Duration::from_millis(200)
            } else {
                (wait * 2).min(Duration::from_secs(10))
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = end.cancelled() => {}
            }
        }
    });
    Listener(connected)
}

async fn hear(target: &Target, wake: &Notify, connected: &AtomicBool) -> Result<(), Error> {
    let (client, mut connection) = target.listen_connection().await?;
    let mut messages = poll_fn(move |cx| connection.poll_message(cx));
    let listen = client.batch_execute("LISTEN rowlock");
    tokio::pin!(listen);
    let mut listening = false;
    loop {
        tokio::select! {
            done = &mut listen, if !listening => {
                done?;
                listening = true;
                connected.store(true, Ordering::Relaxed);
            }
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(_))) => wake.notify_one(),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
        }
    }
}
