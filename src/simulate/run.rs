//! The simulation: events in the order of their time, one scaler, one load.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

use super::{
    load::Load,
    pods::Pods,
    profiles::{Profile, profiles},
    random::Random,
    report::{Report, Step},
    scaler::Scaler,
    seen::{KindState, Seen},
};

/// What to simulate with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of everything that is random.
    pub seed: u64,
    /// The objective: how long a ready job may wait.
    pub target_wait: Duration,
    /// Never more replicas.
    pub max_replicas: u32,
    /// Jobs a replica runs at once.
    pub slots: u32,
    /// How long `decide` holds the highest need.
    pub scale_down_delay: Duration,
    /// From the order of a replica to its first claim; each takes a quarter more or less.
    pub pod_start: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            target_wait: Duration::from_secs(5),
            max_replicas: 50,
            slots: 10,
            scale_down_delay: Duration::from_secs(60),
            pod_start: Duration::from_secs(2),
        }
    }
}

/// After the last job all are watched for so long: what they keep, they pay for.
const AFTERWARDS: f64 = 600.0;
const TICK: f64 = 1.0;

/// Runs one load under every scaler.
///
/// # Example
/// ```
/// use rowlock::simulate::{Options, Shape, simulate};
/// let reports = simulate(&Shape::Spike.load(120.0, 1), &Options::default());
/// assert_eq!(reports[0].scaler, "rowlock");
/// assert!(reports[0].objective_met_percent >= 99.0);
/// ```
pub fn simulate(load: &Load, options: &Options) -> Vec<Report> {
    profiles(options).into_iter().map(|profile| one(load, options, profile)).collect()
}

/// Runs one load under the scaler of this name; none if there is no such scaler.
///
/// # Example
/// ```
/// use rowlock::simulate::{Options, Shape, simulate_only};
/// let load = Shape::Steady.load(60.0, 1);
/// assert_eq!(simulate_only(&load, &Options::default(), "keda").unwrap().scaler, "keda");
/// ```
pub fn simulate_only(load: &Load, options: &Options, scaler: &str) -> Option<Report> {
    profiles(options).into_iter().find(|profile| profile.name == scaler).map(|profile| one(load, options, profile))
}

fn one(load: &Load, options: &Options, profile: Profile) -> Report {
    let Profile { name, settings, scaler } = profile;
    Simulation::new(load, options, scaler).run().report(name, settings, load, options)
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrival(usize),
    Ready(u64),
    End { job: usize, pod: u64, begun: f64 },
    Wake,
    Tick,
}

/// An event and its time. Of those at the same time the one that was planned first comes first.
struct Planned(f64, u64, Event);

impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

pub(super) struct Simulation<'a> {
    load: &'a Load,
    scaler: Box<dyn Scaler>,
    random: Random,
    events: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    woken: bool,
    kinds: Vec<KindState>,
    pub pods: Pods,
    /// How long each job waited; infinite until it began.
    pub waits: Vec<f64>,
    /// Every second.
    pub steps: Vec<Step>,
    /// When the scaler changed its mind, and to what.
    pub changes: Vec<(f64, u32)>,
    until: f64,
}

impl<'a> Simulation<'a> {
    fn new(load: &'a Load, options: &Options, scaler: Box<dyn Scaler>) -> Simulation<'a> {
        let mut simulation = Simulation {
            load,
            scaler,
            random: Random::new(options.seed),
            events: BinaryHeap::new(),
            planned: 0,
            woken: false,
            kinds: load.kinds.iter().map(KindState::new).collect(),
            pods: Pods::new(options.slots, options.pod_start.as_secs_f64()),
            waits: vec![f64::INFINITY; load.arrivals.len()],
            steps: Vec::new(),
            changes: Vec::new(),
            until: load.duration + AFTERWARDS,
        };
        simulation.plan(0.0, Event::Tick);
        if let Some(first) = load.arrivals.first() {
            simulation.plan(first.at, Event::Arrival(0));
        }
        simulation
    }

    fn plan(&mut self, at: f64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse(Planned(at, self.planned, event)));
    }

    fn run(mut self) -> Self {
        while let Some(Reverse(Planned(now, _, event))) = self.events.pop() {
            if now > self.until {
                break;
            }
            self.handle(now, event);
        }
        self.pods.count(self.until);
        self
    }

    fn handle(&mut self, now: f64, event: Event) {
        match event {
            Event::Arrival(job) => {
                self.kinds[self.load.arrivals[job].kind].arrive(job, now);
                if let Some(next) = self.load.arrivals.get(job + 1) {
                    self.plan(next.at, Event::Arrival(job + 1));
                }
                let waited = self.waiting() > 1;
                self.claim(now);
                // One wake-up for what begins to wait; while more wait, the tick is soon enough.
                if !waited && self.waiting() > 0 && !self.woken {
                    let seen = self.seen(now);
                    if self.scaler.wakes(&seen) {
                        self.woken = true;
                        self.plan(now + self.scaler.debounce(), Event::Wake);
                    }
                }
            }
            Event::Ready(pod) => {
                self.pods.ready(pod, now);
                self.claim(now);
            }
            Event::End { job, pod, begun } => {
                let job = self.load.arrivals[job];
                self.kinds[job.kind].end(begun, job.service, now);
                self.pods.release(pod, now);
                self.claim(now);
            }
            Event::Wake => {
                self.woken = false;
                self.look(now, true);
            }
            Event::Tick => {
                self.look(now, false);
                self.steps.push(Step { at: now, replicas: self.pods.len() as u32, waiting: self.waiting() as u32 });
                self.plan(now + TICK, Event::Tick);
            }
        }
    }

    fn waiting(&self) -> usize {
        self.kinds.iter().map(|k| k.waiting.len()).sum()
    }

    fn seen(&mut self, now: f64) -> Seen {
        let mut demand = crate::controller::Demand::default();
        demand.types = self.kinds.iter_mut().map(|k| k.demand(now)).collect();
        Seen { demand, current: self.pods.current(now) }
    }

    fn look(&mut self, now: f64, woken: bool) {
        let seen = self.seen(now);
        let wanted = self.scaler.look(&seen, now, woken);
        let before = self.changes.last().map_or(0, |c| c.1);
        if wanted != before {
            self.changes.push((now, wanted));
        }
        for (at, pod) in self.pods.scale(wanted, self.scaler.drains(), &mut self.random, now) {
            self.plan(at, Event::Ready(pod));
        }
        // What was taken back from draining claims again.
        self.claim(now);
    }

    /// Free slots take what waits, in the order of arrival.
    fn claim(&mut self, now: f64) {
        loop {
            let first = self.kinds.iter().enumerate().filter_map(|(i, k)| Some((k.waiting.front()?.0, i))).min();
            let Some((job, kind)) = first else { return };
            let Some(pod) = self.pods.claim(&mut self.random) else { return };
            let due = self.kinds[kind].waiting.pop_front().map_or(now, |(_, due)| due);
            self.waits[job] = now - due;
            self.kinds[kind].begin(now);
            self.plan(now + self.load.arrivals[job].service, Event::End { job, pod, begun: now });
        }
    }
}
