//! The replicas of the simulation: ordered, starting, ready, draining, stopping, gone.

use std::collections::{BTreeMap, VecDeque};

use super::random::Random;
use crate::controller::Current;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Starting,
    Ready,
    /// It claims nothing any more and goes when it is idle; it may be taken back.
    Draining,
    /// It was told to stop: it goes when it is idle, and cannot be taken back.
    Stopping,
}

#[derive(Debug, Clone, Copy)]
struct Pod {
    state: State,
    ordered: f64,
    running: u32,
}

pub(super) struct Pods {
    pods: BTreeMap<u64, Pod>,
    next: u64,
    slots: u32,
    start_mean: f64,
    /// The last starts.
    starts: VecDeque<f64>,
    /// Replica-seconds so far, and since when the present number holds.
    pub charged: f64,
    counted: f64,
    pub told_busy: u32,
}

impl Pods {
    pub(super) fn new(slots: u32, start_mean: f64) -> Pods {
        Pods {
            pods: BTreeMap::new(),
            next: 0,
            slots,
            start_mean,
            starts: VecDeque::new(),
            charged: 0.0,
            counted: 0.0,
            told_busy: 0,
        }
    }

    /// The number of replicas that are charged for.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn count(&mut self, now: f64) {
        self.charged += self.pods.len() as f64 * (now - self.counted);
        self.counted = now;
    }

    fn live(&self) -> u32 {
        self.pods.values().filter(|p| matches!(p.state, State::Starting | State::Ready)).count() as u32
    }

    pub(super) fn current(&self, now: f64) -> Current {
        let starting = self.pods.values().filter(|p| p.state == State::Starting);
        let mut starts: Vec<f64> = self.starts.iter().copied().collect();
        starts.sort_by(f64::total_cmp);
        Current {
            replicas: self.live(),
            ready: self.pods.values().filter(|p| p.state == State::Ready).count() as u32,
            starting_seconds: starting.map(|p| now - p.ordered).collect(),
            start_seconds: starts.get(starts.len() * 9 / 10).copied(),
            ..Current::default()
        }
    }

    /// Changes the number of replicas; answers those ordered, with the time at which each is ready.
    pub(super) fn scale(&mut self, wanted: u32, drains: bool, random: &mut Random, now: f64) -> Vec<(f64, u64)> {
        self.count(now);
        let live = self.live();
        for _ in wanted..live {
            self.remove_one(drains);
        }
        let mut missing = wanted.saturating_sub(live);
        for pod in self.pods.values_mut().filter(|p| p.state == State::Draining) {
            if missing > 0 {
                (pod.state, missing) = (State::Ready, missing - 1);
            }
        }
        let mut ordered = Vec::new();
        for _ in 0..missing {
            self.next += 1;
            self.pods.insert(self.next, Pod { state: State::Starting, ordered: now, running: 0 });
            ordered.push((now + self.start_mean * random.between(0.75, 1.25), self.next));
        }
        ordered
    }

    /// Chooses as a ReplicaSet does: first those that start, then the newest. Where replicas drain, the idlest go
    /// first.
    fn remove_one(&mut self, drains: bool) {
        let starting = self.pods.iter().rev().find(|(_, p)| p.state == State::Starting).map(|(id, _)| *id);
        let ready = self.pods.iter().rev().filter(|(_, p)| p.state == State::Ready);
        let ready = if drains { ready.min_by_key(|(_, p)| p.running) } else { ready.take(1).next() };
        let Some(id) = starting.or(ready.map(|(id, _)| *id)) else { return };
        let Some(pod) = self.pods.get_mut(&id) else { return };
        if pod.running == 0 {
            self.pods.remove(&id);
        } else {
            pod.state = if drains { State::Draining } else { State::Stopping };
            self.told_busy += u32::from(!drains);
        }
    }

    pub(super) fn ready(&mut self, id: u64, now: f64) {
        if let Some(pod) = self.pods.get_mut(&id) {
            pod.state = State::Ready;
            self.starts.push_back(now - pod.ordered);
            if self.starts.len() > 20 {
                self.starts.pop_front();
            }
        }
    }

    /// Takes a slot of any ready replica that has one free: workers race for jobs.
    pub(super) fn claim(&mut self, random: &mut Random) -> Option<u64> {
        let free = |p: &Pod| p.state == State::Ready && p.running < self.slots;
        let count = self.pods.values().filter(|p| free(p)).count();
        if count == 0 {
            return None;
        }
        let chosen = random.below(count);
        let slots = self.slots;
        let free = |p: &Pod| p.state == State::Ready && p.running < slots;
        let (id, pod) = self.pods.iter_mut().filter(|(_, p)| free(p)).nth(chosen)?;
        pod.running += 1;
        Some(*id)
    }

    /// Gives a slot back: a job has ended.
    pub(super) fn release(&mut self, id: u64, now: f64) {
        let Some(pod) = self.pods.get_mut(&id) else { return };
        pod.running -= 1;
        if pod.running == 0 && matches!(pod.state, State::Draining | State::Stopping) {
            self.count(now);
            self.pods.remove(&id);
        }
    }
}
