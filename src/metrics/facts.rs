//! What only this process knows of itself.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

/// Shared between what happens and what tells of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Facts(Arc<Mutex<Known>>);

/// The facts at one moment.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// `worker`, `controller` or `dev`.
    pub role: &'static str,
    /// Of a controller: whether it leads.
    pub leader: Option<bool>,
    /// When the process last did its periodic work: a worker its heartbeat, a controller its tick.
    pub ticked: Option<Instant>,
    /// Of the controller that leads: what it scales.
    pub replicas: Vec<Replicas>,
}

/// The replicas of one Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// Its name.
    pub deployment: String,
    /// How many there are.
    pub current: u32,
    /// How many there should be.
    pub wanted: u32,
    /// How many there may be; 0 where their number does not follow the demand.
    pub max: u32,
}

impl Facts {
    /// Of a process that has done nothing yet. `role` is a label of `rowlock_build_info`.
    ///
    /// ```
    /// assert!(rowlock::metrics::Facts::new("worker").known().ticked.is_none());
    /// ```
    pub fn new(role: &'static str) -> Facts {
        Facts(Arc::new(Mutex::new(Known { role, ..Known::default() })))
    }

    /// The periodic work was done.
    ///
    /// ```
    /// let facts = rowlock::metrics::Facts::new("controller");
    /// facts.tick(std::time::Instant::now());
    /// assert!(facts.known().ticked.is_some());
    /// ```
    pub fn tick(&self, at: Instant) {
        self.lock().ticked = Some(at);
    }

    /// Whether this controller leads. One that no longer leads forgets what it scaled.
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

    /// What the leader scales, all of it. Decisions and errors are counted in the database instead, by
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

    /// What is known now.
    ///
    /// ```
    /// assert_eq!(rowlock::metrics::Facts::new("dev").known().role, "dev");
    /// ```
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment: what a panic leaves behind is whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
