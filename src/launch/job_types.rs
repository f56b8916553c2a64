//! The job types a worker knows: read at the start, and again now and then or when it meets a new one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio_postgres::Row;

use super::spec::{Kind, Parts, SecretValue, Spec};
use crate::{Error, JobQueue};

/// The part of a type that a worker needs to run its jobs.
pub(super) struct JobType {
    /// How and what, or why not: a sentence for every job of the type.
    pub launch: Result<(Kind, Arc<Spec>), NoLaunch>,
    pub timeout: Option<Duration>,
    pub no_retry_exit_codes: Vec<i32>,
    /// Compiled once; an invalid one is an error text for every job of the type.
    pub schema: Option<Result<jsonschema::Validator, String>>,
}

/// Why a type cannot be launched here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoLaunch {
    /// By no worker of this kind.
    Unsupported(String),
    NoCommand,
    NoImage,
}

/// The types that are known, and how old that knowledge is.
pub(super) struct JobTypes {
    known: Mutex<Known>,
    /// One reads, the others wait for what it finds.
    reading: tokio::sync::Mutex<()>,
}

struct Known {
    types: HashMap<String, Arc<JobType>>,
    /// Before the question was sent.
    read_at: Instant,
    /// The last attempt to read them, if it failed.
    failed: Option<(Instant, String)>,
}

/// Nobody can say whether the type exists: its job goes back for a while.
#[derive(Debug)]
pub(super) struct Unknown {
    pub after: Duration,
    pub error: String,
}

type Answer = Result<Option<Arc<JobType>>, Unknown>;

/// For how long the types are not read again.
const FRESH_FOR: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A job whose type could not be looked up is not tried again sooner.
const UNKNOWN_RETRY: Duration = Duration::from_secs(1);

impl JobTypes {
    pub(super) async fn load(queue: &JobQueue) -> Result<JobTypes, Error> {
        Ok(JobTypes { known: Mutex::new(Known::read(queue).await?), reading: tokio::sync::Mutex::default() })
    }

    /// The type of a claimed job. One that was there before the job is never missed, and unknown types cost a read or
    /// two per claim, however many they are. While the database is away the known types serve.
    pub(super) async fn get(&self, queue: &JobQueue, name: &str) -> Answer {
        let asked = Instant::now();
        if let Some(answer) = self.known().answer(name, asked) {
            return answer;
        }
        let _reading = self.reading.lock().await;
        if let Some(answer) = self.known().answer(name, asked) {
            return answer;
        }
        let started = Instant::now();
        let no_answer = |_| Err(Error::Pool(format!("no answer within {READ_TIMEOUT:?}")));
        match tokio::time::timeout(READ_TIMEOUT, Known::read(queue)).await.unwrap_or_else(no_answer) {
            Ok(new) => *self.known() = new,
            Err(error) => {
                tracing::warn!(%error, "job types not read again");
                self.known().failed = Some((started, error.to_string()));
            }
        }
        self.known().answer(name, asked).unwrap_or(Ok(None))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds this lock")
    }
}

impl Known {
    async fn read(queue: &JobQueue) -> Result<Known, Error> {
        let read_at = Instant::now();
        let client = queue.pool().get().await?;
        let rows = client.query_typed("SELECT * FROM rowlock.job_types_v1()", &[]).await?;
        let types = rows.iter().map(|row| Ok((row.try_get("name")?, Arc::new(JobType::from_row(row)?))));
        Ok(Known { types: types.collect::<Result<_, Error>>()?, read_at, failed: None })
    }

    /// The answer for a job that asked at that time; none if the types have to be read first.
    fn answer(&self, name: &str, asked: Instant) -> Option<Answer> {
        let tried_at = self.failed.as_ref().map_or(self.read_at, |(at, _)| *at);
        if tried_at.elapsed() > FRESH_FOR {
            return None;
        }
        match (self.types.get(name), &self.failed) {
            (Some(job_type), _) => Some(Ok(Some(job_type.clone()))),
            (None, _) if tried_at < asked => None,
            (None, None) => Some(Ok(None)),
            (None, Some((_, why))) => {
                let error = format!("job type {name} is not known here, and the types cannot be read: {why}");
                Some(Err(Unknown { after: UNKNOWN_RETRY, error }))
            }
        }
    }
}

impl JobType {
    fn from_row(row: &Row) -> Result<JobType, Error> {
        let schema: Option<serde_json::Value> = row.try_get("payload_schema")?;
        Ok(JobType {
            launch: launch(row)?,
            timeout: row
                .try_get::<_, Option<f64>>("timeout_seconds")?
                .and_then(|s| Duration::try_from_secs_f64(s).ok()),
            no_retry_exit_codes: row.try_get("no_retry_exit_codes")?,
            schema: schema.map(|s| jsonschema::validator_for(&s).map_err(|e| e.to_string())),
        })
    }
}

fn launch(row: &Row) -> Result<Result<(Kind, Arc<Spec>), NoLaunch>, Error> {
    let kind: String = row.try_get("launch")?;
    let command: Vec<String> = row.try_get("command")?;
    let args: Vec<String> = row.try_get("args")?;
    let env: serde_json::Value = row.try_get("env")?;
    let constants = env.as_object().into_iter().flatten();
    let constants = constants.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
    let mut words = command.into_iter().chain(args);
    Ok(match (kind.parse(), words.next()) {
        (Err(_), _) => Err(NoLaunch::Unsupported(kind)),
        (Ok(_), None) => Err(NoLaunch::NoCommand),
        (Ok(kind), Some(program)) => {
            let pod = if kind == Kind::Pod { parts(row, &env)? } else { None };
            if kind == Kind::Pod && pod.is_none() {
                return Ok(Err(NoLaunch::NoImage));
            }
            Ok((kind, Arc::new(Spec { program, args: words.collect(), env: constants, pod })))
        }
    })
}

/// The settings that only Pods have; none without an image.
fn parts(row: &Row, env: &serde_json::Value) -> Result<Option<Parts>, Error> {
    let Some(image) = row.try_get("image")? else { return Ok(None) };
    let secret = |(variable, value): (&String, &serde_json::Value)| {
        let of = |at: &str| Some(value.get("from_secret")?.get(at)?.as_str()?.to_owned());
        Some(SecretValue { variable: variable.clone(), name: of("name")?, key: of("key")? })
    };
    Ok(Some(Parts {
        image,
        secrets: env.as_object().into_iter().flatten().filter_map(secret).collect(),
        resources: row.try_get("resources")?,
        service_account: row.try_get("service_account")?,
        template: row.try_get("pod_template")?,
    }))
}
