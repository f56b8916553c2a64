//! A job's progress on its way to the database: the latest only, and not too often.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Notify;

use crate::{ClaimedJob, Session};

/// Between two writes of one job's progress.
const EVERY: Duration = Duration::from_secs(1);
/// The end of a job waits no longer for its last progress.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one progress, as the database has it.
const BYTES: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Progress {
    latest: Mutex<Option<Value>>,
    news: Notify,
}

impl Progress {
    /// Takes a line, JSON or text.
    pub(super) fn line(&self, line: &str) {
        let line = line.trim();
        if !line.is_empty() {
            self.value(serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.replace('\0', "\u{fffd}"))));
        }
    }

    pub(super) fn value(&self, value: Value) {
        *self.latest() = Some(value);
        self.news.notify_one();
    }

    /// Stores what comes, as long as it is polled.
    pub(super) async fn store(&self, session: &Session, job: &ClaimedJob) {
        loop {
            self.news.notified().await;
            self.store_latest(session, job).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Stores what is left: nobody can when the job has ended.
    pub(super) async fn finish(&self, session: &Session, job: &ClaimedJob) {
        if tokio::time::timeout(PATIENCE, self.store_latest(session, job)).await.is_err() {
            tracing::warn!(job = %job.id, "its last progress was not stored in time");
        }
    }

    async fn store_latest(&self, session: &Session, job: &ClaimedJob) {
        let Some(value) = self.latest().clone() else { return };
        if value.to_string().len() > BYTES {
            tracing::warn!(job = %job.id, "progress of more than {BYTES} bytes is not stored");
        } else if let Err(error) = session.progress(job, &value).await {
            // A courtesy: without it the job goes on, and a lost lease is the heartbeat's to notice.
            tracing::warn!(job = %job.id, %error, "progress was not stored");
        }
        // Not before: this may be dropped half-way, and finished later.
        self.latest().take_if(|latest| *latest == value);
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
