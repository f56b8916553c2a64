//! The job types a worker knows: read at the start, and again now and then or when it meets a new one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Error, JobQueue};

/// What a worker needs to know to run a type.
pub(super) struct JobType {
    pub launch: String,
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    pub timeout: Option<Duration>,
    pub no_retry_exit_codes: Vec<i32>,
    /// Compiled once; an invalid one is an error text for every job of the type.
    pub schema: Option<Result<jsonschema::Validator, String>>,
}

pub(super) struct Catalog {
    types: HashMap<String, Arc<JobType>>,
    read_at: Instant,
}

const FRESH: Duration = Duration::from_secs(5);
/// A burst of unknown types must not become a burst of reads.
const MISS_EVERY: Duration = Duration::from_millis(500);

impl Catalog {
    pub(super) async fn load(queue: &JobQueue) -> Result<Catalog, Error> {
        let client = queue.pool().get().await?;
        let rows = client.query_typed("SELECT * FROM rowlock.job_types_v1()", &[]).await?;
        let mut types = HashMap::new();
        for row in &rows {
            let command: Vec<String> = row.try_get("command")?;
            let args: Vec<String> = row.try_get("args")?;
            let env: serde_json::Value = row.try_get("env")?;
            let schema: Option<serde_json::Value> = row.try_get("payload_schema")?;
            let job_type = JobType {
                launch: row.try_get("launch")?,
                command: [command, args].concat(),
                env: env
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                    .collect(),
                timeout: row
                    .try_get::<_, Option<f64>>("timeout_seconds")?
                    .and_then(|s| Duration::try_from_secs_f64(s).ok()),
                no_retry_exit_codes: row.try_get("no_retry_exit_codes")?,
                schema: schema.map(|s| jsonschema::validator_for(&s).map_err(|e| e.to_string())),
            };
            types.insert(row.try_get("name")?, Arc::new(job_type));
        }
        Ok(Catalog { types, read_at: Instant::now() })
    }

    pub(super) async fn get(&mut self, queue: &JobQueue, name: &str) -> Result<Option<Arc<JobType>>, Error> {
        let age = self.read_at.elapsed();
        if age > FRESH || (age > MISS_EVERY && !self.types.contains_key(name)) {
            match Catalog::load(queue).await {
                Ok(new) => *self = new,
                // What is known serves until the database is back.
                Err(error) if error.is_transient() => tracing::warn!(%error, "job types not read again"),
                Err(error) => return Err(error),
            }
        }
        Ok(self.types.get(name).cloned())
    }
}
