//! A job's progress on its way to the database: the latest only, and not too often.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Notify;

use crate::{ClaimedJob, Session};

/// Between two writes of one job's progress.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// The end of a job waits no longer for its last progress.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one progress, as the database has it.
pub(crate) const BYTES: usize = 8192;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    latest: Mutex<Option<Value>>,
    news: Notify,
    closed: AtomicBool,
    closing: Notify,
}

impl Progress {
    /// Takes a line, JSON or text.
    pub(crate) fn line(&self, line: &str) {
        let line = line.trim();
        if !line.is_empty() {
            self.value(serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.replace('\0', "\u{fffd}"))));
        }
    }

    pub(crate) fn value(&self, value: Value) {
        *self.latest() = Some(value);
        self.news.notify_one();
    }

    /// Waits until something came.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The last value, if nobody has taken it yet.
    pub(crate) fn take(&self) -> Option<Value> {
        self.latest().take()
    }

    /// Stores each new value, until [`Progress::finish`].
    pub(crate) async fn store(&self, session: &Session, job: &ClaimedJob) {
        loop {
            let closed = self.closed.load(Ordering::Relaxed);
            if self.latest().is_some() {
                self.store_latest(session, job).await;
                tokio::select! {
                    () = tokio::time::sleep(WRITE_INTERVAL) => {}
                    () = self.closing.notified() => {}
                }
            } else if closed {
                return;
            } else {
                tokio::select! {
                    () = self.news.notified() => {}
                    () = self.closing.notified() => {}
                }
            }
        }
    }

    /// Waits for `storing` to store the last value: nobody can once the job has ended. The write under way is not
    /// dropped for a newer one: the older of two could arrive last.
    pub(crate) async fn finish(&self, storing: impl Future<Output = ()>) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_one();
        if tokio::time::timeout(LAST_WRITE_TIMEOUT, storing).await.is_err() {
            tracing::warn!("a job's last progress was not stored in time");
        }
    }

    async fn store_latest(&self, session: &Session, job: &ClaimedJob) {
        let Some(value) = self.latest().take() else { return };
        if value.to_string().len() > BYTES {
            tracing::warn!(job = %job.id, "progress of more than {BYTES} bytes is not stored");
        } else if let Err(error) = session.progress(job, &value).await {
            // A courtesy: without it the job goes on, and a lost lease is the heartbeat's to notice.
            tracing::warn!(job = %job.id, %error, "progress was not stored");
        }
    }

    fn latest(&self) -> MutexGuard<'_, Option<Value>> {
        self.latest.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_json_or_text_and_the_last_one_counts() {
        let progress = Progress::default();
        progress.line("half way");
        assert_eq!(*progress.latest(), Some(json!("half way")));
        progress.line(" {\"done\": 3}\r");
        progress.line("  ");
        assert_eq!(*progress.latest(), Some(json!({"done": 3})));
    }
}
