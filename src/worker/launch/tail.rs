//! The last of what a process says on stderr: bounded, whatever it writes.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::ERROR_BYTES;

/// What a process that has ended may still have to say. Grandchildren may hold its stderr open; what was written is
/// enough.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Reads to the end of the stream, whoever holds it open.
    pub(super) async fn fill(&self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            self.push(&chunk[..n]);
        }
    }

    pub(super) fn push(&self, more: &[u8]) {
        let mut kept = self.kept();
        kept.extend_from_slice(more);
        if kept.len() > 2 * ERROR_BYTES {
            let surplus = kept.len() - ERROR_BYTES;
            kept.drain(..surplus);
        }
    }

    /// What is said from now on is another job's.
    pub(super) fn clear(&self) {
        self.kept().clear();
    }

    pub(super) fn text(&self) -> String {
        let kept = self.kept();
        String::from_utf8_lossy(&kept[kept.len().saturating_sub(ERROR_BYTES)..]).into_owned()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept_and_no_more() {
        let tail = Tail::default();
        let mut long = vec![b'a'; 100_000];
        long.extend_from_slice(b"the end");
        tail.fill(&long[..]).await;
        assert!(tail.text().ends_with("aathe end"));
        assert_eq!(tail.text().len(), ERROR_BYTES);
        assert!(tail.kept().len() <= 2 * ERROR_BYTES);
    }
}
