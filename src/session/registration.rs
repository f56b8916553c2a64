//! A worker's registration: it is made, extended by heartbeats, subscribed to queues, and ended.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    HeartbeatAnswer, Maintained, Session, SessionOptions,
    call::{Arg, call},
};
use crate::Error;

/// A registration waits no longer for its answer: a connection from before may be dead.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to say that a worker lives whose lease is over, and for how long it tries.
const OUTLIVE_RETRY: Duration = Duration::from_secs(1);
const OUTLIVE_TIMEOUT: Duration = Duration::from_secs(600);

impl Session {
    /// Registers a worker and starts its lease.
    ///
    /// # Errors
    /// [`Error::Refused`] for an option out of range, [`Error::Schema`] before `migrate`.
    pub(crate) async fn register(pool: Pool, options: SessionOptions) -> Result<Session, Error> {
        let lease_until = Instant::now() + options.lease;
        let rows = call(
            &pool,
            REGISTER_TIMEOUT,
            "SELECT rowlock.register_worker_v1($1, $2, $3, $4, $5, $6)",
            &[
                (&options.name, Type::TEXT),
                (&options.identity, Type::TEXT),
                (&options.queues, Type::TEXT_ARRAY),
                (&options.slots, Type::INT4),
                (&options.lease.as_secs_f64(), Type::FLOAT8),
                (&env!("CARGO_PKG_VERSION"), Type::TEXT),
            ],
        )
        .await?;
        let id = rows[0].try_get(0)?;
        Ok(Session {
            pool,
            id,
            options,
            hints: Mutex::default(),
            holds: Arc::default(),
            lease_until: Mutex::new(lease_until),
            subscribed: AtomicBool::default(),
        })
    }

    /// The heartbeat: one row, however many jobs. With `drain` the worker claims no more.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if it came too late: stop the jobs.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let beat = session.extend(false).await?;
    /// for id in beat.cancelled {
    ///     println!("stop {id}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn extend(&self, drain: bool) -> Result<HeartbeatAnswer, Error> {
        self.hand_back_dropped().await?;
        let (asked, known) = (Instant::now(), self.holds.known());
        let rows = self
            .call(
                "SELECT draining, cancelled, returned FROM rowlock.extend_v1($1, $2, $3, $4, $5, $6)",
                &[
                    (&self.id, Type::UUID),
                    (&self.options.lease.as_secs_f64(), Type::FLOAT8),
                    (&drain, Type::BOOL),
                    (&known.receipts, Type::INT8_ARRAY),
                    (&known.pending, Type::INT8_ARRAY),
                    (&known.below, Type::INT8),
                ],
            )
            .await?;
        self.holds.told(known.below);
        let returned: i32 = rows[0].try_get(2)?;
        if returned > 0 {
            tracing::warn!(returned, "the answer to a claim was lost; its jobs went back to the queue");
            self.hints().put_back();
        }
        let deadline = asked + self.options.lease;
        *self.lease_until.lock().expect("no code panics while it holds this lock") = deadline;
        Ok(HeartbeatAnswer { deadline, draining: rows[0].try_get(0)?, cancelled: rows[0].try_get(1)? })
    }

    /// Asks to be woken by NOTIFY on channel `rowlock`, with this worker's id as the payload, when a job comes. Claim
    /// once more before waiting. A wake ends the subscription.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// session.subscribe().await?;
    /// let jobs = session.claim(10).await?; // one may have come just before
    /// if jobs.is_empty() {
    ///     // wait for NOTIFY, or poll
    /// }
    /// session.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub async fn subscribe(&self) -> Result<(), Error> {
        let args: [Arg<'_>; 2] = [(&self.id, Type::UUID), (&self.options.queues, Type::TEXT_ARRAY)];
        self.call("SELECT rowlock.subscribe_v1($1, $2)", &args).await?;
        self.set_subscribed(true);
        Ok(())
    }

    /// Ends [`Session::subscribe`].
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// session.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub async fn unsubscribe(&self) -> Result<(), Error> {
        self.call("SELECT rowlock.unsubscribe_v1($1)", &[(&self.id, Type::UUID)]).await?;
        self.set_subscribed(false);
        Ok(())
    }

    /// One round of keeping: due jobs become ready, lost ones are rescued, totals are folded. Only one
    /// worker at a time does it; the others are told that they are not the keeper.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let done = session.maintain().await?;
    /// if done.keeper {
    ///     println!("{} jobs became due, {} were rescued", done.promoted, done.rescued);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn maintain(&self) -> Result<Maintained, Error> {
        let rows = self.call(Maintained::SQL, &[(&self.id, Type::UUID)]).await?;
        let done = Maintained::read(&rows[0])?;
        if done.rescued > 0 {
            self.hints().put_back();
        }
        Ok(done)
    }

    /// Ends the worker's life. Release its jobs first; what it still holds is rescued.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// session.stop().await?;
    /// # Ok(()) }
    /// ```
    pub async fn stop(&self) -> Result<(), Error> {
        self.call("SELECT rowlock.stop_worker_v1($1)", &[(&self.id, Type::UUID)]).await?;
        Ok(())
    }

    /// Tells the database that the worker lives though its lease is over, so that none of its jobs is blamed for its
    /// end; and what it holds goes back at once. Repeated while the database is away, within bounds.
    pub(crate) async fn outlive(self: Arc<Session>) {
        let told = async {
            while self.stop().await.is_err_and(|error| error.may_pass()) {
                tokio::time::sleep(OUTLIVE_RETRY).await;
            }
        };
        if timeout(OUTLIVE_TIMEOUT, told).await.is_err() {
            tracing::debug!(worker = %self.id, "the database was not told that this worker outlived its lease");
        }
    }

    /// Jobs that were dropped without an end go back to their old places, and no attempt is consumed.
    async fn hand_back_dropped(&self) -> Result<(), Error> {
        let dropped = self.holds.dropped();
        if dropped.is_empty() {
            return Ok(());
        }
        let (receipts, ids): (Vec<i64>, Vec<Uuid>) = dropped.iter().copied().unzip();
        let args: [Arg<'_>; 3] = [(&self.id, Type::UUID), (&receipts, Type::INT8_ARRAY), (&ids, Type::UUID_ARRAY)];
        self.call("SELECT refused FROM rowlock.release_v1($1, $2, $3)", &args).await?;
        self.holds.returned(&dropped);
        self.hints().put_back();
        Ok(())
    }
}
