//! Pods on their way out: they go when the database knows how their jobs ended, and their slots are free when they are
//! gone.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::{
    WorkerOptions,
    launch::{
        self, Slot,
        pod::{Pods, Remains},
    },
};
use crate::Error;

#[derive(Default)]
pub(super) struct Leaving {
    /// Whose ends are not stored yet.
    waiting: Vec<(Slot, Remains)>,
    going: JoinSet<Slot>,
}

impl Leaving {
    /// Keeps a slot whose Pod is to go; answers one that is free at once.
    pub(super) fn keep(&mut self, slot: Slot, pod: Option<Remains>) -> Option<Slot> {
        let Some(pod) = pod else { return Some(slot) };
        self.waiting.push((slot, pod));
        None
    }

    /// All ends are stored: away with them.
    pub(super) fn go(&mut self, pods: Option<&Arc<Pods>>) {
        for (slot, pod) in self.waiting.drain(..) {
            let pods = pods.cloned();
            self.going.spawn(async move {
                if let Some(pods) = pods {
                    pods.remove(&pod, false).await;
                }
                slot
            });
        }
    }

    /// The next slot that is free; none if none is on its way.
    pub(super) async fn next(&mut self) -> Option<Slot> {
        match self.going.join_next().await? {
            Ok(slot) => Some(slot),
            // A bug, as with a job's own task.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Waits for all, within a bound.
    pub(super) async fn all(&mut self, patience: Duration) -> Vec<Slot> {
        let mut slots = Vec::new();
        let gone = async {
            while let Some(slot) = self.next().await {
                slots.push(slot);
            }
        };
        if timeout(patience, gone).await.is_err() {
            tracing::warn!("some Pods are left to the next sweep");
        }
        slots
    }
}

/// Begins to watch Pods, if they are accepted.
pub(super) fn pods(options: &WorkerOptions) -> Result<Option<Arc<Pods>>, Error> {
    options.check()?;
    let cluster = options.cluster.as_ref().filter(|_| options.launch.contains(&launch::Kind::Pod));
    Ok(cluster.map(|cluster| Pods::start(cluster.clone(), options.pods.clone())))
}
