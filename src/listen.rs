//! LISTEN: wakes the loop sooner than its next poll. Losing it costs latency only.
//!
//! A connection can be deaf without an error: half open, or through a pooler that gives LISTEN to one server
//! connection and the next statement to another. So the listener sends itself a NOTIFY now and then, and
//! counts as connected only while it hears its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::stream::{StreamExt, poll_fn};
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Target};

/// The payload of the NOTIFY by which a keeper gives its place back (`rowlock.stop_worker_v1`).
const KEEPER_ENDED: &str = "keeper";

/// Who is woken by what is heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakes {
    /// A job came, or something else that ends a wait.
    pub jobs: Arc<Notify>,
    /// The keeper has given its place back.
    pub keeper: Arc<Notify>,
}

/// Whether somebody listens. If nobody can, polling goes on as it always does.
#[derive(Debug, Default)]
pub(crate) struct Listener(AtomicBool);

impl Listener {
    pub(crate) fn connected(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens until `end`, anew whenever it is cut off or deaf. It speaks to itself every `ping`, and waits no
/// longer for the echo.
pub(crate) fn listen(
    target: Target,
    worker: Uuid,
    ping: Duration,
    wakes: Wakes,
    end: CancellationToken,
) -> Arc<Listener> {
    let listener = Arc::new(Listener::default());
    let told = listener.clone();
    tokio::spawn(async move {
        let mut wait = Duration::from_millis(200);
        while !end.is_cancelled() {
            let started = Instant::now();
            tokio::select! {
                heard = hear(&target, worker, ping, &wakes, &told) => {
                    if let Err(error) = heard {
                        tracing::debug!(%error, "not listening");
                    }
                }
                () = end.cancelled() => return,
            }
            if told.0.swap(false, Ordering::Relaxed) {
                tracing::info!("LISTEN is lost; polling goes on");
            }
            wakes.jobs.notify_one();
            wait = if started.elapsed() > Duration::from_secs(30) {
                Duration::from_millis(200)
            } else {
                (wait * 2).min(Duration::from_secs(10))
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = end.cancelled() => return,
            }
        }
    });
    listener
}

/// Hears until the connection ends or is deaf.
async fn hear(target: &Target, worker: Uuid, ping: Duration, wakes: &Wakes, listener: &Listener) -> Result<(), Error> {
    let deaf = || Error::Pool(format!("LISTEN: nothing heard within {ping:?}"));
    let connecting = tokio::time::timeout(ping.max(Duration::from_secs(1)), target.listen_connection());
    let (client, mut connection) = connecting.await.map_err(|_| deaf())??;
    let mut messages = poll_fn(move |cx| connection.poll_message(cx));
    // A channel of its own: an echo wakes nobody else.
    let own = format!("rowlock_{}", worker.simple());
    let speak = async {
        client.batch_execute(&format!("LISTEN rowlock; LISTEN {own}; NOTIFY {own}")).await?;
        loop {
            tokio::time::sleep(ping).await;
            client.batch_execute(&format!("NOTIFY {own}")).await?;
        }
    };
    tokio::pin!(speak);
    let mut silent_at = Instant::now() + 2 * ping;
    loop {
        tokio::select! {
            // Only ever ends with an error.
            spoken = &mut speak => return spoken,
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(n))) if n.channel() == own => {
                    silent_at = Instant::now() + 2 * ping;
                    if !listener.0.swap(true, Ordering::Relaxed) {
                        // What came before it listened was not heard.
                        wakes.jobs.notify_one();
                    }
                }
                Some(Ok(AsyncMessage::Notification(n))) if n.payload() == KEEPER_ENDED => wakes.keeper.notify_one(),
                Some(Ok(AsyncMessage::Notification(_))) => wakes.jobs.notify_one(),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(silent_at.into()) => return Err(deaf()),
        }
    }
}
