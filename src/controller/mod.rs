//! The controller: how many workers there should be, and why.
//!
//! - [`limits`]: a Deployment's annotations as a type. [`demand`]: what is known of its queues and its Pods.
//! - `need`: the law, from demand to slots. [`mod@decide`]: from need to replicas, with every brake on the way.
//! - [`decision`]: the answer with its reason, and `explain`: the same in words.
//!
//! - [`history`]: what earlier decisions found.
//!
//! All of that is pure and knows neither Kubernetes nor Postgres: the cluster, `rowlock dev` and
//! `rowlock simulate` call the same functions. What runs them:
//!
//! - `lead`, `ticks`: tasks beside the loop. `turn`: what the loop does.
//! - `observe`, `rates`: one look at the database. `memory`: what is remembered of a Deployment.
//! - [`target`]: what is scaled. [`local`]: processes of this machine. [`kubernetes`]: Deployments. `scale_in`: none that works is stopped.
//! - [`configmaps`]: the catalogue from a cluster.
//! - `fault`: what can fail, by name. `store`: the only file that calls the controller's SQL.

pub mod configmaps;
pub mod decide;
pub mod decision;
pub mod demand;
mod explain;
mod fault;
pub mod history;
pub mod kubernetes;
mod lead;
pub mod limits;
pub mod local;
mod memory;
mod need;
mod observe;
mod rates;
mod scale_in;
mod store;
pub mod target;
mod ticks;
mod turn;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use decide::decide;
pub use decision::{Clamp, Decision, Reason, Term};
pub use demand::{Connections, Current, Demand, TypeDemand};
pub use history::History;
pub use limits::{InvalidLimits, Limits, Rule};

use self::{lead::Reign, store::Store, target::Target, turn::Turns};
use crate::{Error, JobQueue, SessionOptions, listen, maintenance, metrics::Facts};

/// Turns are no closer than that, however often a NOTIFY comes.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the leadership lasts without a sign of life.
    pub lease: Duration,
    /// Between two looks at the demand when nothing wakes it.
    pub tick: Duration,
    /// A direct connection for LISTEN, where the usual one goes through a pooler.
    pub listen_url: Option<String>,
    /// Where it leaves what it knows of itself, for [`crate::http`].
    pub facts: Facts,
    /// The cluster whose labelled ConfigMaps are the catalogue.
    pub catalog: Option<configmaps::Source>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lease: Duration::from_secs(15),
            tick: Duration::from_secs(1),
            listen_url: None,
            facts: Facts::new("controller"),
            catalog: None,
        }
    }
}

/// Runs a controller until `end`: it leads when it can, and does what a leader has to. Gives back the target.
///
/// # Errors
/// [`Error::Config`] for a URL for LISTEN that cannot be read. Errors of the database are logged, and tried again.
///
/// # Example
/// ```no_run
/// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
/// let end = tokio_util::sync::CancellationToken::new();
/// rowlock::controller::run(queue, (), rowlock::controller::Options::default(), end).await?;
/// # Ok(()) }
/// ```
pub async fn run<T: Target>(queue: JobQueue, target: T, options: Options, end: CancellationToken) -> Result<T, Error> {
    let id = Uuid::now_v7();
    let store = Store::new(&queue);
    let (told, reign) = watch::channel(None);
    let wake = Arc::new(Notify::new());
    let address = listen::target(&queue, options.listen_url.as_deref())?;
    listen::listen(address, id, Duration::from_secs(5), wake.clone(), end.clone());
    let tasks = TaskTracker::new();
    let name = SessionOptions::default().name;
    tasks.spawn(lead::lead(store.clone(), id, name, options.lease, told, end.clone()));
    let keeps = store.clone();
    let round = move || {
        let store = keeps.clone();
        async move { store.keep(id).await }
    };
    tasks.spawn(maintenance::maintain(round, end.clone()));
    tasks.spawn(ticks::tick(store.clone(), reign.clone(), end.clone()));
    if let Some(source) = options.catalog {
        tasks.spawn(configmaps::sync(store.clone(), source, reign.clone(), end.clone()));
    }
    tasks.close();
    let mut turns = Turns::new(store, target, options.facts);
    run_turns(&mut turns, reign, &wake, options.tick, &end).await;
    tasks.wait().await;
    Ok(turns.target)
}

async fn run_turns<T: Target>(
    turns: &mut Turns<T>,
    mut reign: watch::Receiver<Option<Reign>>,
    wake: &Notify,
    tick: Duration,
    end: &CancellationToken,
) {
    loop {
        let leads = *reign.borrow_and_update();
        let started = Instant::now();
        let mut wait = tick;
        let lasting = leads.filter(Reign::lasts);
        turns.facts.set_leader(lasting.is_some());
        if let Some(leads) = lasting {
            match turns.turn(leads.epoch).await {
                Ok(next) => wait = next.unwrap_or(tick).min(tick),
                Err(error) => tracing::warn!("{error:#}; nothing more was changed, and it is tried again"),
            }
            tracing::debug!(ms = started.elapsed().as_secs_f64() * 1e3, "turn");
        }
        turns.facts.tick(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wake.notified() => {}
            () = turns.target.changed() => {}
            // Not every extension of the lease: that it leads, or another reign.
            _ = reign.wait_for(|r| r.map(|r| r.epoch) != leads.map(|r| r.epoch)) => {}
            () = end.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(DEBOUNCE.saturating_sub(started.elapsed())) => {}
            () = end.cancelled() => return,
        }
    }
}
