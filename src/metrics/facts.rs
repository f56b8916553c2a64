//! The facts that only this process knows.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

/// The facts, shared between the tasks that make them and the server that exports them. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Facts(Arc<Mutex<Known>>);

/// The facts at one moment.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// `worker`, `controller` or `dev`.
    pub role: &'static str,
    /// Whether a controller leads; none in other processes.
    pub leader: Option<bool>,
    /// The time of the last periodic work: a worker's heartbeat, or a controller's reconciliation.
    pub ticked: Option<Instant>,
    /// The Deployments that a leading controller scales.
    pub replicas: Vec<Replicas>,
    /// The reason for which this process cannot do its work, although the database is well: a fault of this machine, or
    /// a controller of another release that leads.
    pub problem: Option<String>,
}

/// The replicas of one Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// Its name.
    pub deployment: String,
    /// The present number.
    pub current: u32,
    /// The wanted number.
    pub wanted: u32,
    /// The maximum; 0 where the number does not follow the demand.
    pub max: u32,
}

impl Facts {
    /// The facts of a process that has done nothing yet. `role` is a label of `rowlock_build_info`.
    ///
    /// ```
    /// assert!(rowlock::metrics::Facts::new("worker").known().ticked.is_none());
    /// ```
    pub fn new(role: &'static str) -> Facts {
        Facts(Arc::new(Mutex::new(Known { role, ..Known::default() })))
    }

    /// Notes that the periodic work was done.
    ///
    /// ```
    /// let facts = rowlock::metrics::Facts::new("controller");
    /// facts.tick(std::time::Instant::now());
    /// assert!(facts.known().ticked.is_some());
    /// ```
    pub fn tick(&self, at: Instant) {
        self.lock().ticked = Some(at);
    }

    /// Notes whether this controller leads. A controller that no longer leads forgets its Deployments.
    ///
    /// ```
    /// let facts = rowlock::metrics::Facts::new("controller");
    /// facts.set_leader(true);
    /// assert_eq!(facts.known().leader, Some(true));
    /// ```
    pub fn set_leader(&self, leads: bool) {
        let mut known = self.lock();
        known.leader = Some(leads);
        if !leads {
            known.replicas.clear();
        }
    }

    /// Notes all Deployments that the leader scales. Decisions and errors are counted in the database instead, by
    /// `rowlock.record_decisions_v1` and `rowlock.scaler_error_v1`.
    ///
    /// ```
    /// use rowlock::metrics::{Facts, Replicas};
    /// let mail = Replicas { deployment: "mail".into(), current: 1, wanted: 3, max: 10 };
    /// let facts = Facts::new("controller");
    /// facts.set_replicas(vec![mail.clone()]);
    /// assert_eq!(facts.known().replicas, [mail]);
    /// ```
    pub fn set_replicas(&self, replicas: Vec<Replicas>) {
        self.lock().replicas = replicas;
    }

    /// Notes the reason for which this process cannot do its work; none while it can. It is not ready then.
    ///
    /// ```
    /// let facts = rowlock::metrics::Facts::new("controller");
    /// facts.set_problem(Some("another release leads".into()));
    /// assert!(facts.known().problem.is_some());
    /// ```
    pub fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    /// The facts of this moment.
    ///
    /// ```
    /// assert_eq!(rowlock::metrics::Facts::new("dev").known().role, "dev");
    /// ```
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment, so a panic leaves no half of one.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
