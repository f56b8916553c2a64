//! Looks at the database: one at a time, none hangs, and each serves all who ask within a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::Object;
use tokio::sync::Mutex;

use crate::{
    Error, JobQueue,
    hints::{HintArgs, Hints},
    metrics::Reading,
};

/// How long a look is good for all.
const FRESH: Duration = Duration::from_secs(1);
/// Then the database counts as down. Prometheus gives a scrape ten seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Look {
    at: Instant,
    pub reading: Result<Reading, String>,
    /// When the database was last read, by its clock, in Unix time.
    pub last_read: Option<f64>,
}

pub(super) struct Looks {
    queue: JobQueue,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    last: Option<Look>,
    /// Where the first jobs were, so that an old transaction does not make looks dear.
    hints: Hints,
}

impl Looks {
    pub(super) fn new(queue: JobQueue) -> Looks {
        Looks { queue, memory: Mutex::default() }
    }

    /// The last look, or a new one if that is too old.
    pub(super) async fn look(self: &Arc<Self>) -> Look {
        // A task of its own: whoever asked may go away, and the next must not ask the database beside it.
        let looks = self.clone();
        match tokio::spawn(async move { looks.fresh().await }).await {
            Ok(look) => look,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    async fn fresh(&self) -> Look {
        let Memory { last, hints } = &mut *self.memory.lock().await;
        if let Some(look) = last.as_ref().filter(|l| l.at.elapsed() < FRESH) {
            return look.clone();
        }
        let reading = self.read(hints).await;
        if let (Err(why), None | Some(Look { reading: Ok(_), .. })) = (&reading, &*last) {
            tracing::warn!(error = why, "the metrics cannot be read");
        }
        let read_at = reading.as_ref().ok().and_then(|r| r.one("read_at"));
        let last_read = read_at.or_else(|| last.as_ref().and_then(|l| l.last_read));
        last.insert(Look { at: Instant::now(), reading, last_read }).clone()
    }

    async fn read(&self, hints: &mut Hints) -> Result<Reading, String> {
        let started = Instant::now();
        let args = hints.args(started);
        let reading = self.read_from(&args, started).await;
        let now = Instant::now();
        if args.sweep {
            hints.swept(started, now);
        }
        for (queue, rank, after) in reading.iter().flat_map(Reading::searched) {
            hints.took(queue, rank, after, now);
        }
        reading
    }

    async fn read_from(&self, args: &HintArgs, started: Instant) -> Result<Reading, String> {
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        let client = tokio::time::timeout(PATIENCE, self.queue.pool().get()).await.map_err(late)?;
        let client = client.map_err(|e| text(&e.into()))?;
        let left = PATIENCE.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, Reading::read_from(&**client, args)).await {
            Ok(reading) => reading.map_err(|e| text(&e)),
            Err(elapsed) => {
                // Its answer may still come: the connection must not go back to the pool.
                drop(Object::take(client));
                Err(late(elapsed))
            }
        }
    }
}

/// An error and its sources, in one line. The library's errors hold no URL and no payload.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(s) = source {
        text.push_str(": ");
        text.push_str(&s.to_string());
        source = s.source();
    }
    text
}

#[cfg(test)]
impl Look {
    pub(super) fn of(reading: Result<Reading, String>) -> Look {
        Look { at: Instant::now(), reading, last_read: None }
    }
}
