//! The launcher of commands: it admits a job, chooses a slot for it, and runs it by its type's kind of launch.

use std::{
    ffi::OsString,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    admit::admit,
    guardian::Guardian,
    host::Host,
    job_types::{JobTypes, Unknown},
    options::LaunchOptions,
    pod::{self, Pods},
    process,
    process_group::ProcessGroups,
    resident::{self, Warm},
    run::Run,
    slot::{Slot, choose},
    spec::{Kind, Plan},
};
use crate::{
    ClaimedJob, Error, JobQueue, Session,
    worker::{
        launcher::{Ended, Launcher, Outcome},
        progress::Progress,
        stop::Stops,
    },
};

/// Runs jobs as commands.
pub(super) struct Commands {
    queue: JobQueue,
    options: LaunchOptions,
    /// The variables that no job gets.
    withheld: Vec<OsString>,
    host: Host,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last deadline of the lease: known before there are groups to guard.
    deadline: Option<Instant>,
    current: Option<Arc<Registered>>,
}

/// One registration of the worker, with everything that ends with it.
struct Registered {
    types: JobTypes,
    /// The free slots, each with the handler that waits in it; the others are with the jobs that run in them.
    slots: Mutex<Vec<(Slot, Warm)>>,
    groups: Arc<ProcessGroups>,
    pods: Option<Arc<Pods>>,
    _guardian: Option<Guardian>,
    _sweeper: Option<AbortOnDropHandle<()>>,
}

impl Commands {
    /// # Errors
    /// [`Error::Config`], as [`LaunchOptions::check`].
    pub(super) fn new(queue: JobQueue, options: LaunchOptions, withheld: Vec<OsString>) -> Result<Commands, Error> {
        options.check()?;
        let host = Host::new(options.facts.clone());
        Ok(Commands { queue, options, withheld, host, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn current(&self) -> Option<Arc<Registered>> {
        self.state().current.clone()
    }
}

impl Launcher for Commands {
    async fn start(&self, session: &Arc<Session>, places: usize) -> Result<(), Error> {
        let groups = ProcessGroups::new(session.id(), Slot::groups_of(places), self.withheld.clone());
        let groups = Arc::new(groups.map_err(|e| cannot_start("a place for files", &e))?);
        if let Some(deadline) = self.state().deadline {
            groups.set_deadline(deadline);
        }
        let guardian = self.options.guardian.clone();
        let guardian = guardian.map(|program| Guardian::start(program, session.id(), groups.clone()));
        let guardian = guardian.transpose().map_err(|e| cannot_start("the guardian", &e))?;
        let cluster = self.options.cluster.as_ref().filter(|_| self.options.accept.contains(&Kind::Pod));
        let pods = match cluster {
            Some(cluster) => {
                let database = pod::database_id(&self.queue).await?;
                Some(Pods::start(cluster.clone(), self.options.pods.clone(), database, places))
            }
            None => None,
        };
        let sweeper = pods.clone().map(|pods| tokio::spawn(pods.sweep(self.queue.clone())));
        let registered = Arc::new(Registered {
            types: JobTypes::load(&self.queue).await?,
            slots: Mutex::new((0..places).map(|n| (Slot::new(n, groups.clone()), Warm::default())).collect()),
            groups: groups.clone(),
            pods,
            _guardian: guardian,
            _sweeper: sweeper.map(AbortOnDropHandle::new),
        });
        let mut state = self.state();
        // It may have moved on while the types were read.
        if let Some(deadline) = state.deadline {
            groups.set_deadline(deadline);
        }
        state.current = Some(registered);
        Ok(())
    }

    async fn run(&self, job: &ClaimedJob, mut stops: Stops, progress: &Arc<Progress>) -> Ended {
        let Some(registered) = self.current() else { return Outcome::Released.into() };
        let found = tokio::select! {
            found = registered.types.get(&self.queue, &job.job_type) => found,
            // There is nothing to stop yet.
            _ = stops.step(false) => {
                let reason = stops.reason();
                return reason.map_or(Outcome::Released, |reason| Outcome::of_stop(reason, stops.timeout())).into();
            }
        };
        let job_type = match found {
            Ok(job_type) => job_type,
            Err(Unknown { after, error }) => return Outcome::HandedBack { after: Some(after), error }.into(),
        };
        if job_type.as_ref().is_some_and(|job_type| job_type.stops_with_the_lease) {
            stops.stop_with_the_lease();
        }
        match admit(job, job_type.as_deref(), &self.options.accept) {
            Ok(plan) => registered.run(plan, job, stops, progress, &self.host).await,
            Err(failure) => Outcome::Failed(failure).into(),
        }
    }

    fn lease_until(&self, deadline: Instant) {
        let mut state = self.state();
        state.deadline = Some(deadline);
        if let Some(registered) = &state.current {
            registered.groups.set_deadline(deadline);
        }
        self.options.facts.tick(Instant::now());
        self.host.look(Instant::now());
    }

    fn runs_beside_the_worker(&self, job: &ClaimedJob) -> bool {
        !self.current().is_some_and(|registered| registered.types.is_pod(&job.job_type))
    }

    fn paused_until(&self) -> Option<Instant> {
        self.host.paused_until()
    }

    fn was_killed(&self) -> bool {
        self.current().is_some_and(|registered| registered.groups.is_killed())
    }

    async fn close(&self, within: Duration) {
        let Some(registered) = std::mem::take(&mut *self.state()).current else { return };
        let slots = std::mem::take(&mut *registered.slots());
        // A handler that is dropped is killed.
        let _ = timeout(within, futures_util::future::join_all(slots.into_iter().map(|(_, warm)| warm.close()))).await;
    }
}

impl Registered {
    async fn run(
        &self,
        plan: Plan,
        job: &ClaimedJob,
        mut stops: Stops,
        progress: &Arc<Progress>,
        host: &Host,
    ) -> Ended {
        // A Pod's command is timed where it runs: an image may take long to come.
        stops.start_timeout(plan.timeout.filter(|_| plan.kind != Kind::Pod));
        let mut run = Run { job, plan, stops, progress, host };
        if run.plan.kind == Kind::Pod {
            return match &self.pods {
                Some(pods) => pod::run(pods, &mut run).await,
                None => Outcome::Released.into(),
            };
        }
        let (mut slot, mut warm) = self.take_slot(&run.plan);
        let outcome = match run.plan.kind {
            Kind::Resident => resident::run(&slot, &mut warm, &mut run).await,
            Kind::Process | Kind::Pod => process::run(&mut slot, &mut run).await,
        };
        self.slots().push((slot, warm));
        outcome.into()
    }

    /// The engine hands out no more jobs than there are slots.
    fn take_slot(&self, plan: &Plan) -> (Slot, Warm) {
        let wanted = (plan.kind == Kind::Resident).then_some(&*plan.spec);
        let mut slots = self.slots();
        let chosen = choose(slots.iter().map(|(_, warm)| warm.spec()), wanted);
        slots.remove(chosen)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<(Slot, Warm)>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }
}

fn cannot_start(what: &str, error: &io::Error) -> Error {
    Error::Config(format!("the worker cannot start: {what}: {error}; set TMPDIR to a directory it can write"))
}
