//! One registration of a worker: its lease, and the tasks beside the engine's loop.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    engine::Engine,
    launcher::Launcher,
    options::{Shutdown, WorkerOptions, WorkerSummary},
    until_lease_ends::UntilLeaseEnds,
};
use crate::{
    Error, JobQueue, Session, SessionOptions,
    listen::{self, Wakes},
    maintenance,
    session::heartbeat::Heartbeat,
};

/// How long the last call to the database may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Registers and works until told to end, until nothing is due if asked so, or until the lease is lost.
pub(super) async fn run_registered<L: Launcher>(
    queue: &JobQueue,
    options: &WorkerOptions,
    launcher: &Arc<L>,
    shutdown: &Shutdown,
    summary: &mut WorkerSummary,
) -> Result<(), Error> {
    let registered = tokio::select! {
        registered = register(queue, options) => registered?,
        // Nothing runs yet, and nothing will.
        () = shutdown.drain.cancelled() => return Ok(()),
    };
    let session = Arc::new(registered);
    tracing::info!(worker = %session.id(), queues = ?options.queues, slots = options.concurrency, "working");
    let beside = CancellationToken::new();
    let _end_beside = beside.clone().drop_guard();
    let enforcer = launcher.clone();
    let lease_until = move |deadline| enforcer.lease_until(deadline);
    let target = options.listen.clone().unwrap_or_else(|| queue.target().clone());
    // Behind a pooler only the direct way to the server tells whether the server is there.
    let presence = target.presence().clone();
    let heartbeat = Heartbeat::start(session.clone(), presence, shutdown.drain.clone(), lease_until);
    let caller = UntilLeaseEnds::new(session.clone(), heartbeat.beats.clone(), shutdown.clone(), options.grace);
    caller.bounded(launcher.start(&session, options.concurrency)).await?;
    let wakes = Wakes::default();
    let listener = listen::listen(target, session.id(), wakes.clone(), beside.clone());
    let maintainer = session.clone();
    let round = move || {
        let session = maintainer.clone();
        async move { session.maintain().await }
    };
    let maintenance = tokio::spawn(maintenance::maintain(round, wakes.keeper, beside.clone()));

    let mut engine = Engine::new(caller, options, launcher.clone(), summary);
    let result = engine.work(&wakes.jobs, &listener, shutdown).await;
    match &result {
        Ok(()) => engine.close().await,
        Err(_) => engine.kill_all().await,
    }
    // Not waited for: a query of theirs can hang as long as its connection does.
    maintenance.abort();
    drop(heartbeat);
    match &result {
        // A courtesy: a worker that did not say goodbye is cleaned up when its lease has ended.
        Ok(()) => {
            if !matches!(timeout(STOP_TIMEOUT, session.stop()).await, Ok(Ok(()))) {
                tracing::warn!("the database was not told that this worker has ended");
            }
        }
        Err(Error::LeaseLost(_)) => {
            let told = tokio::spawn(session.outlive());
            // Who registers anew goes on telling meanwhile.
            if shutdown.drain.is_cancelled() {
                let _ = timeout(STOP_TIMEOUT, told).await;
            }
        }
        Err(_) => {}
    }
    result
}

/// Starts a lease, as another worker than any before.
async fn register(queue: &JobQueue, options: &WorkerOptions) -> Result<Session, Error> {
    let defaults = SessionOptions::default();
    let session = queue.session(SessionOptions {
        name: options.name.clone().unwrap_or(defaults.name),
        queues: options.queues.clone(),
        slots: i32::try_from(options.concurrency).unwrap_or(i32::MAX),
        lease: options.lease,
        identity: defaults.identity,
    });
    session.await
}
