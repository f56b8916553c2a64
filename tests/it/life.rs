//! What becomes of a job.

use crate::support::database;

#[tokio::test]
async fn pausing_or_configuring_a_new_queue_makes_it_and_takes_effect() {
    let db = database().await;
    db.run("SELECT rowlock.pause_queue('first')").await;
    db.run("SELECT rowlock.configure_queue('second', 9, 1)").await;
    let paused: i64 = db.one("SELECT count(*) FROM rowlock.queue WHERE name = 'first' AND paused", &[]).await;
    let configured: i64 = db.one("SELECT count(*) FROM rowlock.queue WHERE name = 'second' AND priority = 9 AND max_retries = 1", &[]).await;
    assert_eq!((paused, configured), (1, 1));
}
