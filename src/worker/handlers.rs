//! Jobs as Rust: the registered handlers, and the launcher that runs them in this process.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    context::JobContext,
    launcher::{Ended, Launcher, Outcome, RESULT_BYTES},
    progress::Progress,
    stop::{Step, Stops},
    typed::TypedJob,
};
use crate::{ClaimedJob, Error, Failure, Job, JobQueue, Reason, Session, Status};

type Done = Result<Option<Box<RawValue>>, Failure>;

/// The registered types: which code runs a job.
#[derive(Clone, Default)]
pub struct Handler {
    types: HashMap<String, Registered>,
}

#[derive(Clone)]
struct Registered {
    run: Arc<dyn Fn(Job, JobContext) -> BoxFuture<'static, Done> + Send + Sync>,
    timeout: Option<Duration>,
}

impl Handler {
    /// Adds a type; a later one of the same name replaces it.
    ///
    /// ```
    /// # use rowlock::{Handler, TypedJob, Job};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping {}
    /// # impl TypedJob for Ping { const NAME: &'static str = "ping"; type Output = (); type Error = String;
    /// #   async fn run(self, _: &Job) -> Result<(), String> { Ok(()) } }
    /// let handler = Handler::default().register::<Ping>();
    /// ```
    pub fn register<J: TypedJob>(mut self) -> Self {
        self.add(J::NAME, J::TIMEOUT, |job, _| async move {
            let typed: J = serde_json::from_str(job.payload.get())
                .map_err(|e| Failure::of(Reason::InvalidPayload, false, format!("payload: {e}")))?;
            typed.run(&job).await.map_err(|e| Failure::new(e.to_string()))
        });
        self
    }

    pub(super) fn add<F, R, T, E>(&mut self, name: &str, timeout: Option<Duration>, run: F)
    where
        F: Fn(Job, JobContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Failure>,
    {
        let run = Arc::new(run);
        let boxed = move |job, context| {
            let run = run.clone();
            // The call is inside of the future: also a panic before the first await is the job's.
            async move { run(job, context).await.map_err(Into::into).and_then(|output| stored(&output)) }.boxed()
        };
        self.types.insert(name.to_owned(), Registered { run: Arc::new(boxed), timeout });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The timeout of a type, to be set.
    pub(super) fn timeout_mut(&mut self, name: &str) -> Option<&mut Option<Duration>> {
        self.types.get_mut(name).map(|registered| &mut registered.timeout)
    }

    fn registered(&self, job_type: &str) -> Result<&Registered, Failure> {
        // A later deploy may bring it.
        let unknown = || Failure::of(Reason::UnknownType, true, format!("unknown job type {job_type}"));
        self.types.get(job_type).ok_or_else(unknown)
    }
}

impl Registered {
    /// Runs a job to its end. A panic fails the attempt.
    async fn run(&self, job: Job, context: JobContext) -> Done {
        let running = context.clone().scope((self.run)(job, context));
        let caught = AssertUnwindSafe(running).catch_unwind().await;
        caught.unwrap_or_else(|_| Err(Failure::of(Reason::Panic, true, "the job panicked")))
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types.keys()).finish()
    }
}

/// Runs jobs by their handlers, in this process.
pub(super) struct Handlers {
    handler: Handler,
    /// The worker's name, which is the same for each registration.
    worker: OnceLock<String>,
}

impl Handlers {
    pub(super) fn new(handler: Handler) -> Handlers {
        Handlers { handler, worker: OnceLock::new() }
    }
}

impl Launcher for Handlers {
    async fn start(&self, session: &Arc<Session>, _: usize) -> Result<(), Error> {
        self.worker.get_or_init(|| session.options().name.clone());
        Ok(())
    }

    async fn run(&self, job: &ClaimedJob, mut stops: Stops, progress: &Arc<Progress>) -> Ended {
        let registered = match self.handler.registered(&job.job_type) {
            Ok(registered) => registered,
            Err(failure) => return Outcome::Failed(failure).into(),
        };
        stops.start_timeout(job.timeout().or(registered.timeout));
        let worker = self.worker.get().map_or("", String::as_str);
        let context = JobContext::new(job, progress.clone(), stops.timeout_at());
        let mut running = pin!(registered.run(Job::running(job, worker), context.clone()));
        let done = loop {
            tokio::select! {
                biased;
                done = &mut running => break Some(done),
                step = stops.step(true) => match (step, stops.reason()) {
                    (Step::Kill, _) => break None,
                    (Step::Notify | Step::Terminate, Some(reason)) => context.stop(reason),
                    (Step::Notify | Step::Terminate, None) => {}
                },
            }
        };
        // A handler that has done its work has done it, also if somebody wanted it to stop meanwhile.
        match (done, stops.reason()) {
            (Some(Ok(result)), _) => Outcome::Completed(result),
            (Some(Err(failure)), None) => Outcome::Failed(failure),
            (Some(Err(_)) | None, Some(reason)) => Outcome::of_stop(reason, stops.timeout()),
            (None, None) => Outcome::Released,
        }
        .into()
    }
}

impl JobQueue {
    /// Runs a job that `dequeue` gave out, and completes or fails it by what its type returned. A panic
    /// fails the attempt; a type that is not registered does as well, so that a later deploy catches up.
    /// Answers the job's new status.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]; a failure of the job itself is not an error.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue, handler: rowlock::Handler) -> Result<(), rowlock::Error> {
    /// while let Some(job) = queue.dequeue().await? {
    ///     let status = queue.execute_job(&handler, job).await?;
    ///     println!("{}", status.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn execute_job(&self, handler: &Handler, job: Job) -> Result<Status, Error> {
        let (queue, registered) = (self.clone(), handler.registered(&job.job_type).cloned());
        // A task of its own: a caller that drops the future must not leave a job that runs for ever.
        let task = tokio::spawn(async move {
            let id = job.id;
            let done = match registered {
                Ok(registered) => registered.run(job, JobContext::by_hand()).await,
                Err(failure) => Err(failure),
            };
            queue.end_attempt(id, done.map_or_else(Outcome::Failed, Outcome::Completed)).await
        });
        task.await.unwrap_or_else(|_| Err(Error::Pool("the runtime ended while the job ran".into())))
    }
}

/// The result as it is stored. A handler that returns nothing has none.
fn stored(output: &impl Serialize) -> Done {
    let result = serde_json::value::to_raw_value(output)
        .map_err(|e| Failure::of(Reason::InvalidResult, true, format!("result: expected JSON: {e}")))?;
    if result.get().len() > RESULT_BYTES {
        let error = format!("result: expected at most {RESULT_BYTES} bytes");
        return Err(Failure::of(Reason::OutputTooLarge, true, error));
    }
    Ok((result.get() != "null").then_some(result))
}
