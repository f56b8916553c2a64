//! The simulation: events in the order of their time, one scaler, one load.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::{
    load::Load,
    observation::{KindState, Observation},
    options::Options,
    pods::Pods,
    random::Random,
    scaler::Scaler,
    step::Step,
};
use crate::controller::Demand;

/// After the last job every scaler is watched for this time: it pays for the replicas that it keeps.
const WATCHED_AFTER_SECONDS: f64 = 600.0;
const TICK_SECONDS: f64 = 1.0;

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
    /// The wait of each job; infinite until the job began.
    pub waits: Vec<f64>,
    /// One step for every second.
    pub steps: Vec<Step>,
    /// The times at which the wanted number changed, and the new numbers.
    pub changes: Vec<(f64, u32)>,
    until: f64,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(load: &'a Load, options: &Options, scaler: Box<dyn Scaler>) -> Simulation<'a> {
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
            until: load.duration + WATCHED_AFTER_SECONDS,
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

    pub(super) fn run(mut self) -> Self {
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
                // The first job that waits wakes the scaler; while more wait, the tick is soon enough.
                if !waited && self.waiting() > 0 && !self.woken {
                    let seen = self.seen(now);
                    let habits = self.scaler.habits();
                    if habits.wakes.now(&seen) {
                        self.woken = true;
                        self.plan(now + habits.debounce, Event::Wake);
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
                self.reconcile(now, true);
            }
            Event::Tick => {
                self.reconcile(now, false);
                self.steps.push(Step { at: now, replicas: self.pods.len() as u32, waiting: self.waiting() as u32 });
                self.plan(now + TICK_SECONDS, Event::Tick);
            }
        }
    }

    fn waiting(&self) -> usize {
        self.kinds.iter().map(|k| k.waiting.len()).sum()
    }

    fn seen(&mut self, now: f64) -> Observation {
        let types = self.kinds.iter_mut().map(|k| k.demand(now)).collect();
        let demand = Demand { types, ..Demand::default() };
        Observation { demand, current: self.pods.current(now) }
    }

    fn reconcile(&mut self, now: f64, woken: bool) {
        let seen = self.seen(now);
        let drains = self.scaler.habits().drains;
        let wanted = self.scaler.decide(&seen, now, woken);
        let before = self.changes.last().map_or(0, |c| c.1);
        if wanted != before {
            self.changes.push((now, wanted));
        }
        for (at, pod) in self.pods.scale(wanted, drains, &mut self.random, now) {
            self.plan(at, Event::Ready(pod));
        }
        // A replica that was taken back from draining claims again.
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
