//! The job types a worker knows: read at the start, and again now and then or when it meets a new one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_postgres::Row;

use super::launch::{
    Kind, Spec,
    pod::{Parts, SecretValue},
};
use crate::{Error, JobQueue};

/// What a worker needs to know to run a type.
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

pub(super) struct Catalog {
    types: HashMap<String, Arc<JobType>>,
    read_at: Instant,
}

const FRESH: Duration = Duration::from_secs(5);

impl Catalog {
    pub(super) async fn load(queue: &JobQueue) -> Result<Catalog, Error> {
        let read_at = Instant::now();
        let client = queue.pool().get().await?;
        let rows = client.query_typed("SELECT * FROM rowlock.job_types_v1()", &[]).await?;
        let types = rows.iter().map(|row| Ok((row.try_get("name")?, Arc::new(JobType::from_row(row)?))));
        Ok(Catalog { types: types.collect::<Result<_, Error>>()?, read_at })
    }

    /// The type of a job that was claimed no later than `claimed`. One that was there before the job is never missed,
    /// and unknown types cost a read per claim, however many they are.
    pub(super) async fn get(
        &mut self,
        queue: &JobQueue,
        name: &str,
        claimed: Instant,
    ) -> Result<Option<Arc<JobType>>, Error> {
        if self.read_at.elapsed() > FRESH || (self.read_at < claimed && !self.types.contains_key(name)) {
            match Catalog::load(queue).await {
                Ok(new) => *self = new,
                // What is known serves until the database is back.
                Err(error) if error.may_pass() => tracing::warn!(%error, "job types not read again"),
                Err(error) => return Err(error),
            }
        }
        Ok(self.types.get(name).cloned())
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

/// What only Pods have; none without an image.
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
