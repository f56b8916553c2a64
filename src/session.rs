//! A worker's side of the queue: it claims jobs and ends them. Its rooms: `registration`, the worker's own row; `work`,
//! claims and completions; `settle`, every other end; `read`, from rows to jobs; `options`, the arguments and answers;
//! `call`, one question on one connection; `heartbeat`, which keeps the lease; `outcome`, `report` and
//! `unanswered`, which tell the database every end. Only `registration`, `work` and `settle` call the worker's SQL.

mod call;
pub(crate) mod heartbeat;
mod options;
pub(crate) mod outcome;
mod read;
mod registration;
pub(crate) mod report;
mod settle;
mod unanswered;
mod work;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use deadpool_postgres::Pool;
use tokio_postgres::Row;
use uuid::Uuid;

use self::call::{Arg, call};
pub use self::options::{Failure, HeartbeatAnswer, Maintained, SessionOptions};
pub(crate) use self::work::Wanted;
use crate::{ClaimedJob, Error, hints::Hints, job::holds::Holds};

/// A registered worker. Shared by reference between the tasks of one process.
#[derive(Debug)]
pub struct Session {
    pool: Pool,
    id: Uuid,
    options: SessionOptions,
    /// Locked for moments only, never across a query: claims of one session run side by side.
    hints: Mutex<Hints>,
    /// Everything that this worker holds, for the heartbeat to say.
    holds: Arc<Holds>,
    /// When the lease ends by the monotonic clock, counted from before it was asked for.
    lease_until: Mutex<Instant>,
    /// Whether the database may have a subscription of this worker.
    subscribed: AtomicBool,
}

impl Session {
    /// The worker's id.
    ///
    /// ```no_run
    /// # fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// println!("{}", session.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The options with which the worker was registered.
    ///
    /// ```no_run
    /// # fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// assert!(session.options().slots > 0);
    /// # Ok(()) }
    /// ```
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// One call on a connection of the pool. A connection that has not answered in half of the lease is dead: the call
    /// can be said again while the lease holds.
    async fn call(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>, Error> {
        call(&self.pool, self.options.lease / 2, sql, args).await
    }

    /// When the lease ends, unless it is extended: never later than the database thinks.
    pub(crate) fn lease_until(&self) -> Instant {
        *self.lease_until.lock().expect("no code panics while it holds this lock")
    }

    /// Whether it holds no job, so that a heartbeat brings nothing but the lease.
    pub(crate) fn is_idle(&self) -> bool {
        self.holds.is_idle()
    }

    /// Whether the database may have a subscription of this worker; a wake by name takes it away.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_subscribed(&self, subscribed: bool) {
        self.subscribed.store(subscribed, Ordering::Relaxed);
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().expect("no code panics while it holds this lock")
    }
}

/// The database has answered for these jobs.
fn end(jobs: impl Iterator<Item = ClaimedJob>) {
    jobs.for_each(|job| job.hold.end());
}

fn keys<'a>(jobs: impl Iterator<Item = &'a ClaimedJob>) -> (Vec<i64>, Vec<Uuid>) {
    jobs.map(|j| (j.receipt(), j.id)).unzip()
}
