//! The controller: how many workers there should be, and why.
//!
//! - [`limits`]: a Deployment's annotations as a type. [`demand`]: the state of its queues and its Pods.
//! - `need`: the law, from demand to slots. [`mod@decide`]: from need to replicas, with every brake on the way.
//! - [`decision`]: the answer with its reason, and `explain`: the same in words.
//!
//! - [`history`]: earlier decisions.
//!
//! All of that is pure and knows neither Kubernetes nor Postgres: the cluster, `rowlock dev` and
//! `rowlock simulate` call the same functions. What runs them:
//!
//! - `reconcile`: one round of the loop. `lead`, `ticks`: tasks beside it.
//! - `observe`, `rates`: one observation of the database. `memory`: one Deployment between two rounds.
//! - [`target`]: the thing that is scaled. [`local`]: processes of this machine. [`kubernetes`]: Deployments.
//!   `scale_in`: how replicas go, and none that works. `share`: Deployments that serve the same queue.
//! - [`configmaps`]: the catalogue from a cluster; `sources`: its ConfigMaps, as they come and go. `release`: whose an
//!   object is.
//! - `scaler_error`: the acts that can fail, by name. `ending`: how a controller ends. `store`: the only file that
//!   calls the controller's SQL.

pub mod configmaps;
pub mod decide;
pub mod decision;
pub mod demand;
mod ending;
mod explain;
pub mod history;
pub mod kubernetes;
mod lead;
pub mod limits;
pub mod local;
mod memory;
mod need;
mod observe;
mod present;
mod rates;
mod reconcile;
mod reconcile_error;
mod release;
mod scale_in;
mod scaler_error;
mod share;
mod sources;
mod store;
pub mod target;
mod ticks;

use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use decide::decide;
pub use decision::{Clamp, Decision, Hold, Reason, Term};
pub use demand::{Connections, Current, Demand, TypeDemand};
pub use history::History;
pub use limits::{InvalidLimits, Limits, Rule};

use self::{ending::Ending, lead::LeaderTerm, reconcile::Reconciler, store::Store, target::Target};
use crate::{
    Error, JobQueue, SessionOptions,
    listen::{self, Wakes},
    maintenance,
    metrics::Facts,
};

/// Two reconciliations are no closer than this, however often a NOTIFY comes.
const RECONCILE_DEBOUNCE: Duration = Duration::from_millis(100);

/// The settings of a controller.
#[derive(Debug, Clone)]
pub struct Options {
    /// The leadership lasts this long without a sign of life.
    pub lease: Duration,
    /// The time between two reconciliations when nothing wakes the controller.
    pub tick: Duration,
    /// A direct connection for LISTEN, where the usual one goes through a pooler.
    pub listen: Option<crate::Target>,
    /// The controller leaves the facts about itself here, for [`crate::http`].
    pub facts: Facts,
    /// The cluster whose labelled ConfigMaps are the catalogue.
    pub catalog: Option<configmaps::Source>,
    /// The namespace whose Deployments it scales. It is a part of its name for controllers of other namespaces.
    pub namespace: Option<String>,
    /// The Helm release it belongs to; Deployments of other releases are left alone. A part of its name, too.
    pub release: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lease: Duration::from_secs(15),
            tick: Duration::from_secs(1),
            listen: None,
            facts: Facts::new("controller"),
            catalog: None,
            namespace: None,
            release: None,
        }
    }
}

/// Runs a controller until `end`: it leads when it can, and does the duties of a leader. Gives back the target.
///
/// # Errors
/// [`Error::Config`] for a URL for LISTEN that cannot be read. The database's, if it refuses the controller at its
/// start for a reason that time does not mend, or if it refuses at any time a password that did not come from a file.
/// Other errors are logged, and tried again.
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
    let ending = Ending::of(&end);
    let end = ending.token().clone();
    let store = Store::new(&queue, ending.clone());
    let (terms, term) = watch::channel(None);
    let wakes = Wakes::default();
    let address = options.listen.unwrap_or_else(|| queue.target().clone());
    listen::listen(address, id, wakes.clone(), end.clone());
    let tasks = TaskTracker::new();
    let scope = lead::Scope { namespace: options.namespace, release: options.release };
    let name = scope.named(&SessionOptions::default().name);
    let (rivals, rival) = watch::channel(None);
    let candidate = lead::Candidate { id, name, scope, lease: options.lease, terms, rivals };
    tasks.spawn(lead::lead(store.clone(), candidate, end.clone()));
    let maintained = store.clone();
    let round = move || {
        let store = maintained.clone();
        async move { store.maintain(id).await }
    };
    tasks.spawn(maintenance::maintain(round, wakes.keeper, end.clone()));
    tasks.spawn(ticks::tick(store.clone(), term.clone(), end.clone()));
    if let Some(source) = options.catalog {
        tasks.spawn(configmaps::sync(store.clone(), source, term.clone(), end.clone()));
    }
    tasks.close();
    let mut reconciler = Reconciler::new(store, target, options.facts);
    reconcile(&mut reconciler, (term, rival), &wakes.jobs, options.tick, &end).await;
    tasks.wait().await;
    ending.error()?;
    Ok(reconciler.target)
}

async fn reconcile<T: Target>(
    reconciler: &mut Reconciler<T>,
    (mut term, rival): (watch::Receiver<Option<LeaderTerm>>, watch::Receiver<Option<String>>),
    wake: &Notify,
    tick: Duration,
    end: &CancellationToken,
) {
    loop {
        let leads = *term.borrow_and_update();
        let started = Instant::now();
        let mut wait = tick;
        let lasting = leads.filter(LeaderTerm::lasts);
        reconciler.facts.set_leader(lasting.is_some());
        if let Some(leads) = lasting {
            match reconciler.reconcile(leads.epoch).await {
                Ok(next) => wait = next.unwrap_or(tick).min(tick),
                Err(error) => tracing::warn!(%error, "nothing more was changed, and it is tried again"),
            }
            tracing::debug!(ms = started.elapsed().as_secs_f64() * 1e3, "reconciled");
        }
        let leader = rival.borrow().clone();
        reconciler.report_rival(leader.as_deref()).await;
        reconciler.facts.tick(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wake.notified() => {}
            () = reconciler.target.changed() => {}
            // Not every extension of the lease: only a new term, or the end of one.
            _ = term.wait_for(|t| t.map(|t| t.epoch) != leads.map(|t| t.epoch)) => {}
            () = end.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RECONCILE_DEBOUNCE.saturating_sub(started.elapsed())) => {}
            () = end.cancelled() => return,
        }
    }
}
