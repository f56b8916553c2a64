//! The client. Its rooms: `enqueue` in, `admin`: look at jobs and steer them, `manual`: jobs worked by hand,
//! which `manual_worker` carries out.

mod admin;
mod builder;
mod enqueue;
mod manual;
mod manual_request;
mod manual_worker;
mod registration;

use std::sync::{Arc, Mutex};

use deadpool_postgres::Pool;
use tokio::sync::mpsc;

pub use self::{admin::ListFilter, builder::Enqueue};
use crate::{
    Error, Session, SessionOptions, Target,
    migrate::{self, Applied, MigrationStatus},
};

/// The job queue of one database. Cheap to clone, and safe to call from many tasks at once.
///
/// ```no_run
/// # async fn f() -> Result<(), rowlock::Error> {
/// let queue = rowlock::JobQueue::connect("postgres://localhost/app").await?;
/// let id = queue.enqueue("send_email", serde_json::json!({"to": "a@example.com"})).priority(9).await?.id;
/// let job = queue.dequeue().await?.expect("it is due");
/// assert_eq!(job.id, id);
/// queue.complete(id).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JobQueue {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    pool: Pool,
    /// The queues `dequeue` serves.
    queues: Vec<String>,
    /// The way to the background task behind `dequeue`, once it has been started.
    manual: Mutex<Option<mpsc::UnboundedSender<manual_request::Request>>>,
}

const POOL_SIZE: usize = 16;

impl JobQueue {
    /// Connects; `dequeue` serves the queue `default`.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL that cannot be read, [`Error::Database`] if nobody answers.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::Error> {
    /// let queue = rowlock::JobQueue::connect("postgres://localhost/app?sslmode=verify-full").await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(url: &str) -> Result<JobQueue, Error> {
        JobQueue::connect_to(url, &["default"], POOL_SIZE).await
    }

    /// Connects, with the queues that `dequeue` serves and the most connections to use.
    ///
    /// # Errors
    /// As [`JobQueue::connect`].
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::Error> {
    /// let queue = rowlock::JobQueue::connect_to("postgres://localhost/app", &["mail"], 4).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect_to(url: &str, queues: &[&str], connections: usize) -> Result<JobQueue, Error> {
        JobQueue::connect_target(Target::parse(url)?, queues, connections).await
    }

    /// As [`JobQueue::connect_to`], where the URL was read already.
    ///
    /// # Errors
    /// [`Error::Database`] if nobody answers.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::Error> {
    /// let target = rowlock::Target::parse("postgres://localhost/app")?;
    /// let queue = rowlock::JobQueue::connect_target(target, &["mail"], 4).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect_target(target: Target, queues: &[&str], connections: usize) -> Result<JobQueue, Error> {
        let queue = JobQueue::of_target(target, queues, connections)?;
        drop(queue.pool().get().await?);
        Ok(queue)
    }

    /// As [`JobQueue::connect_target`], but nobody is asked yet: the database may be away, and the first call connects.
    ///
    /// # Errors
    /// [`Error::Pool`] if no pool can be made.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), rowlock::Error> {
    /// let target = rowlock::Target::parse("postgres://localhost:1/app")?;
    /// let queue = rowlock::JobQueue::of_target(target, &["mail"], 4)?;
    /// assert!(queue.enqueue("send_email", serde_json::json!({})).await.is_err_and(|error| error.is_transient()));
    /// # Ok(()) }
    /// ```
    pub fn of_target(target: Target, queues: &[&str], connections: usize) -> Result<JobQueue, Error> {
        let pool = target.pool(connections)?;
        Ok(JobQueue {
            shared: Arc::new(Shared {
                target,
                pool,
                queues: queues.iter().map(ToString::to_string).collect(),
                manual: Mutex::default(),
            }),
        })
    }

    /// The connections. Behind PgBouncer in transaction mode use only `query_typed` on them.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), Box<dyn std::error::Error>> {
    /// let rows = queue.pool().get().await?.query_typed("SELECT queue, pending FROM rowlock.queues", &[]).await?;
    /// # Ok(()) }
    /// ```
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Where the queue is, to connect once more.
    ///
    /// ```no_run
    /// # fn f(queue: rowlock::JobQueue) {
    /// let target: rowlock::Target = queue.target().clone();
    /// # }
    /// ```
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// Applies what is missing of the schema: see [`migrate::up`].
    ///
    /// # Errors
    /// As [`migrate::up`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// if queue.migrate().await?.is_empty() {
    ///     println!("the schema is up to date");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn migrate(&self) -> Result<Applied, Error> {
        migrate::up(&mut *self.shared.pool.get().await?).await
    }

    /// The state of the schema: see [`migrate::status`].
    ///
    /// # Errors
    /// As [`migrate::status`].
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let ready = queue.migration_status().await?.iter().all(|m| m.state == "applied");
    /// # Ok(()) }
    /// ```
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, Error> {
        migrate::status(&**self.shared.pool.get().await?).await
    }

    /// Registers a worker for batches: the way to work fast.
    ///
    /// # Errors
    /// [`Error::Refused`] for an option out of range, [`Error::Schema`] before `migrate`.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let session = queue.session(rowlock::SessionOptions::default()).await?;
    /// let mut done = Vec::new();
    /// loop {
    ///     // One round trip ends the last batch and takes the next.
    ///     let (jobs, refused) = session.work(std::mem::take(&mut done), 100).await?;
    ///     if jobs.is_empty() {
    ///         break;
    ///     }
    ///     done.extend(jobs.into_iter().map(|job| (job, None)));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::register(self.shared.pool.clone(), options).await
    }
}
