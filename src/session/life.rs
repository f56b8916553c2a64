//! A worker's own life: registered, kept alive, asleep, the keeper for a while, stopped.

use std::{sync::Mutex, time::Instant};

use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use super::{Heartbeat, Kept, Session, SessionOptions};
use crate::Error;

impl Session {
    /// Registers a worker and starts its lease.
    ///
    /// # Errors
    /// [`Error::Refused`] for an option out of range, [`Error::Schema`] before `migrate`.
    pub(crate) async fn register(pool: Pool, options: SessionOptions) -> Result<Session, Error> {
        let client = pool.get().await?;
        let rows = client
            .query_typed(
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
        drop(client);
        Ok(Session { pool, id, options, hints: Mutex::default() })
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
    pub async fn extend(&self, drain: bool) -> Result<Heartbeat, Error> {
        let client = self.pool.get().await?;
        let asked = Instant::now();
        let rows = client
            .query_typed(
                "SELECT draining, cancelled FROM rowlock.extend_v1($1, $2, $3)",
                &[(&self.id, Type::UUID), (&self.options.lease.as_secs_f64(), Type::FLOAT8), (&drain, Type::BOOL)],
            )
            .await?;
        Ok(Heartbeat {
            deadline: asked + self.options.lease,
            draining: rows[0].try_get(0)?,
            cancelled: rows[0].try_get(1)?,
        })
    }

    /// Asks to be woken by NOTIFY on channel `rowlock` when a job comes. Claim once more before waiting.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// session.sleep().await?;
    /// let jobs = session.claim(10).await?; // one may have come just before
    /// if jobs.is_empty() {
    ///     // wait for NOTIFY, or poll
    /// }
    /// session.wake().await?;
    /// # Ok(()) }
    /// ```
    pub async fn sleep(&self) -> Result<(), Error> {
        let client = self.pool.get().await?;
        client
            .query_typed(
                "SELECT rowlock.subscribe_v1($1, $2)",
                &[(&self.id, Type::UUID), (&self.options.queues, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(())
    }

    /// Ends [`Session::sleep`].
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// session.wake().await?;
    /// # Ok(()) }
    /// ```
    pub async fn wake(&self) -> Result<(), Error> {
        self.pool.get().await?.query_typed("SELECT rowlock.unsubscribe_v1($1)", &[(&self.id, Type::UUID)]).await?;
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
    /// let kept = session.keep().await?;
    /// if kept.keeper {
    ///     println!("{} jobs became due, {} were rescued", kept.promoted, kept.rescued);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn keep(&self) -> Result<Kept, Error> {
        let rows = self.pool.get().await?.query_typed(Kept::SQL, &[(&self.id, Type::UUID)]).await?;
        let kept = Kept::read(&rows[0])?;
        if kept.rescued > 0 {
            self.hints().put_back();
        }
        Ok(kept)
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
        self.pool.get().await?.query_typed("SELECT rowlock.stop_worker_v1($1)", &[(&self.id, Type::UUID)]).await?;
        Ok(())
    }
}
