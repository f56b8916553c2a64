//! The job types a worker knows: read at the start, and again now and then or when it meets a new one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::spec::{Kind, Parts, SecretValue, Spec};
use crate::{
    Error, JobQueue,
    catalog::{self, EnvValue},
};

/// The part of a type that a worker needs to run its jobs.
pub(super) struct JobType {
    /// How and what, or why not: a sentence for every job of the type.
    pub launch: Result<(Kind, Arc<Spec>), NoLaunch>,
    pub timeout: Option<Duration>,
    pub no_retry_exit_codes: Vec<i32>,
    pub stops_with_the_lease: bool,
    /// Compiled once; an invalid one is an error text for every job of the type.
    pub schema: Option<Result<jsonschema::Validator, String>>,
}

/// The reason for which a type cannot be launched here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoLaunch {
    /// By no worker of this kind.
    Unsupported(String),
    NoCommand,
    NoImage,
    /// Its row holds a value that this version cannot use.
    Unusable(String),
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

    /// Whether a type is known to run in Pods of its own.
    pub(super) fn is_pod(&self, name: &str) -> bool {
        self.known().types.get(name).is_some_and(|found| matches!(found.launch, Ok((Kind::Pod, _))))
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
        let sql = "SELECT t.name, to_jsonb(t) FROM rowlock.job_types_v1() t";
        let rows = client.query_typed(sql, &[]).await?;
        let types = rows.iter().map(|row| Ok((row.try_get(0)?, Arc::new(JobType::from_row(row.try_get(1)?)))));
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
    /// A type from its row. One whose row this version cannot use is out of use, with the reason, and no other.
    fn from_row(row: Value) -> JobType {
        let kind = row["launch"].as_str().map(str::to_owned);
        let read = match kind.filter(|kind| kind.parse::<Kind>().is_err()) {
            Some(unknown) => Err(NoLaunch::Unsupported(unknown)),
            None => catalog::JobType::from_row(row).map_err(NoLaunch::Unusable),
        };
        match read {
            Ok(read) => JobType {
                timeout: read.timeout,
                no_retry_exit_codes: read.no_retry_exit_codes.iter().copied().map(i32::from).collect(),
                stops_with_the_lease: read.on_lost_lease == Some(catalog::OnLostLease::Stop),
                schema: read.payload_schema.as_ref().map(|s| jsonschema::validator_for(s).map_err(|e| e.to_string())),
                launch: launch(read),
            },
            Err(why) => JobType {
                launch: Err(why),
                timeout: None,
                no_retry_exit_codes: Vec::new(),
                stops_with_the_lease: false,
                schema: None,
            },
        }
    }
}

fn launch(read: catalog::JobType) -> Result<(Kind, Arc<Spec>), NoLaunch> {
    let (kind, mut env, mut secrets) = (read.launch, Vec::new(), Vec::new());
    for (variable, value) in read.env {
        match value {
            EnvValue::Constant(text) => env.push((variable, text)),
            EnvValue::Secret(secret) => secrets.push(SecretValue { variable, name: secret.name, key: secret.key }),
        }
    }
    let mut words = read.command.into_iter().chain(read.args);
    let program = words.next().ok_or(NoLaunch::NoCommand)?;
    let pod = match kind {
        Kind::Pod => Some(Parts {
            image: read.image.ok_or(NoLaunch::NoImage)?,
            secrets,
            resources: read.resources,
            service_account: read.service_account,
            template: read.pod_template,
        }),
        Kind::Process | Kind::Resident => None,
    };
    Ok((kind, Arc::new(Spec { program, args: words.collect(), env, pod })))
}
