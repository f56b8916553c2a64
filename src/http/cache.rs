//! Readings of the database: one at a time, none hangs, and each serves everybody who asks within a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{Error, JobQueue, hints::Hints, metrics::Reading, statement};

/// A reading is reused for this time.
const REUSED_FOR: Duration = Duration::from_secs(1);
/// Without an answer in this time the database counts as down, and the server cancels the query. Prometheus gives a
/// scrape ten seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// The last reading of the database.
#[derive(Debug, Clone)]
pub(super) struct LastReading {
    at: Instant,
    pub reading: Result<Reading, String>,
    /// The time of the last successful reading, by the clock of the database, in Unix time.
    pub last_read: Option<f64>,
}

pub(super) struct ReadingCache {
    queue: JobQueue,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    last: Option<LastReading>,
    /// The places of the first jobs, so that an old transaction does not make readings dear.
    hints: Hints,
}

impl ReadingCache {
    pub(super) fn new(queue: JobQueue) -> ReadingCache {
        ReadingCache { queue, memory: Mutex::default() }
    }

    /// The last reading, or a new one if that is too old.
    pub(super) async fn reading(self: &Arc<Self>) -> LastReading {
        // It is a task of its own: the caller may go away, and the next must not ask the database beside it.
        let cache = self.clone();
        match tokio::spawn(async move { cache.fresh().await }).await {
            Ok(reading) => reading,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    async fn fresh(&self) -> LastReading {
        let Memory { last, hints } = &mut *self.memory.lock().await;
        if let Some(reading) = last.as_ref().filter(|l| l.at.elapsed() < REUSED_FOR) {
            return reading.clone();
        }
        let reading = self.read(hints).await;
        if let (Err(why), None | Some(LastReading { reading: Ok(_), .. })) = (&reading, &*last) {
            tracing::warn!(error = why, "the metrics cannot be read");
        }
        let read_at = reading.as_ref().ok().and_then(|r| r.one("read_at"));
        let last_read = read_at.or_else(|| last.as_ref().and_then(|l| l.last_read));
        last.insert(LastReading { at: Instant::now(), reading, last_read }).clone()
    }

    async fn read(&self, hints: &mut Hints) -> Result<Reading, String> {
        let started = Instant::now();
        let args = hints.args(started);
        let rows = statement::query(self.queue.pool(), QUERY_TIMEOUT, Reading::SQL, &Reading::args(&args)).await;
        let reading = rows.and_then(|rows| Reading::from_rows(&rows)).map_err(|e| text(&e));
        let now = Instant::now();
        if args.sweep {
            hints.swept(started, now);
        }
        for (queue, rank, after) in reading.iter().flat_map(Reading::searched) {
            hints.took(queue, rank, after, now);
        }
        reading
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
impl LastReading {
    pub(super) fn of(reading: Result<Reading, String>) -> LastReading {
        LastReading { at: Instant::now(), reading, last_read: None }
    }
}
