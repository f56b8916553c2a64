//! LISTEN: wakes the loop sooner than its next poll. Losing it costs latency only.
//!
//! A connection can be deaf without an error: half open, or through a pooler that gives LISTEN to one server
//! connection and the next statement to another. So a listener trusts its connection only while it hears the keeper's
//! signs of life, which come from elsewhere, about every second. Into a longer silence it speaks to itself, to learn
//! whether the wire is dead.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep_until};
use tokio_postgres::{AsyncMessage, Notification};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Error, Target};

/// The channel of jobs (`rowlock.wake`): the payload is the id of the one who is woken.
const JOBS: &str = "rowlock";
/// The channel of the keeper (`rowlock.maintain_v1`, `wake_keeper`, `stop_worker_v1`), and its payloads.
const KEEPER: &str = "rowlock_keeper";
const KEPT: &str = "kept";
const DUE: &str = "due";
const ENDED: &str = "ended";
/// After so long without a sign of the keeper's, nobody relies on being woken. A keeper rests for a shorter time, and
/// one that died is followed within it.
const TRUST: Duration = Duration::from_secs(2);
/// A connection on which nothing was heard for so long, not even the listener's own voice, is dead.
const DEAF: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is woken by what is heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakes {
    /// A job came for this listener, or something else that ends a wait.
    pub jobs: Arc<Notify>,
    pub keeper: Arc<KeeperSigns>,
}

/// The signs of life of the keeper, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct KeeperSigns {
    /// The keeper has given its place back.
    pub ended: Notify,
    /// A job is due sooner than the keeper may know.
    pub due: Notify,
    /// When it gave its last sign of life.
    kept: Mutex<Option<Instant>>,
}

impl KeeperSigns {
    /// When the keeper was heard last; none if nobody listens, or hears it no more.
    pub(crate) fn heard_at(&self) -> Option<Instant> {
        self.kept().filter(|at| at.elapsed() < TRUST)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Instant>> {
        self.kept.lock().expect("no code panics while it holds this lock")
    }
}

/// Whether somebody listens. If nobody can, polling goes on as it always does.
#[derive(Debug, Default)]
pub(crate) struct Listener(AtomicBool);

impl Listener {
    pub(crate) fn connected(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens until `end`, anew whenever it is cut off or deaf. `id` is the worker's or the controller's.
pub(crate) fn listen(target: Target, id: Uuid, wakes: Wakes, end: CancellationToken) -> Arc<Listener> {
    let listener = Arc::new(Listener::default());
    let told = listener.clone();
    tokio::spawn(async move {
        let mut wait = Duration::from_millis(200);
        while !end.is_cancelled() {
            let started = Instant::now();
            tokio::select! {
                heard = hear(&target, id, &wakes, &told) => {
                    if let Err(error) = heard {
                        tracing::debug!(%error, "not listening");
                    }
                }
                () = end.cancelled() => return,
            }
            trust_no_more(&told, &wakes);
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
async fn hear(target: &Target, id: Uuid, wakes: &Wakes, listener: &Listener) -> Result<(), Error> {
    let deaf = || Error::Pool(format!("LISTEN: nothing heard within {DEAF:?}"));
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, target.listen_connection());
    let (client, mut connection) = connecting.await.map_err(|_| deaf())??;
    // A channel of its own: an echo wakes nobody else.
    let own = format!("{JOBS}_{}", id.simple());
    let heard = Mutex::new(Instant::now());
    let heard_at = || *heard.lock().expect("no code panics while it holds this lock");
    let speak = async {
        client.batch_execute(&format!("LISTEN {JOBS}; LISTEN {KEEPER}; LISTEN {own}")).await?;
        loop {
            sleep_until((heard_at() + TRUST).into()).await;
            if heard_at().elapsed() >= TRUST {
                client.batch_execute(&format!("NOTIFY {own}")).await?;
                tokio::time::sleep(TRUST).await;
            }
        }
    };
    tokio::pin!(speak);
    loop {
        let trusted_until = wakes.keeper.kept().unwrap_or_else(Instant::now) + TRUST;
        tokio::select! {
            // Only ever ends with an error.
            spoken = &mut speak => return spoken,
            message = target.presence().message(&mut connection) => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    *heard.lock().expect("no code panics while it holds this lock") = Instant::now();
                    pass_on(&notification, id, wakes, listener);
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(()),
            },
            () = sleep_until(trusted_until.into()), if listener.connected() => trust_no_more(listener, wakes),
            () = sleep_until((heard_at() + DEAF).into()) => return Err(deaf()),
        }
    }
}

fn pass_on(notification: &Notification, id: Uuid, wakes: &Wakes, listener: &Listener) {
    match (notification.channel(), notification.payload()) {
        (JOBS, woken) if woken.parse::<Uuid>().is_ok_and(|woken| woken == id) => wakes.jobs.notify_one(),
        (KEEPER, KEPT) => {
            *wakes.keeper.kept() = Some(Instant::now());
            if !listener.0.swap(true, Ordering::Relaxed) {
                // What came before it listened was not heard.
                wakes.jobs.notify_one();
            }
        }
        (KEEPER, DUE) => wakes.keeper.due.notify_one(),
        (KEEPER, ENDED) => wakes.keeper.ended.notify_one(),
        _ => {}
    }
}

fn trust_no_more(listener: &Listener, wakes: &Wakes) {
    *wakes.keeper.kept() = None;
    if listener.0.swap(false, Ordering::Relaxed) {
        tracing::info!("LISTEN is lost; polling goes on");
    }
    wakes.jobs.notify_one();
}
