//! The end of a process's stderr: bounded, whatever the process writes.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The most bytes of an error's text; with how the command ended before it, the text stays below the 8 KiB that are
/// kept.
pub(super) const ERROR_BYTES: usize = 8 * 1024 - 64;

/// How long to read the stderr of a process that has ended. Grandchildren may hold it open; only the text that was
/// written is wanted.
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

    /// From now on the text is another job's.
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
