//! The only file that calls the controller's SQL functions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use serde_json::Value;
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};
use uuid::Uuid;

use super::{ending::Ending, scaler_error::ScalerError};
use crate::{
    Error, JobQueue,
    hints::HintArgs,
    session::Maintained,
    statement::{self, Args},
};

/// A query takes at most this time. A leader that cannot answer must stop leading.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer of `lead_v1`.
pub(super) struct Led {
    /// The number of the term; none if another controller leads.
    pub epoch: Option<i64>,
    pub leader: String,
    pub left: Duration,
}

/// A schedule that has to be planned, or is due.
pub(super) struct DueSchedule {
    pub name: String,
    pub cron: Option<String>,
    pub every: Option<Duration>,
    pub timezone: String,
    pub catch_up: String,
    pub next_at: Option<DateTime<Utc>>,
    pub seen: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

#[derive(Clone)]
pub(super) struct Store {
    pool: Pool,
    /// Ends the controller when its login is refused for good.
    ending: Ending,
}

impl Store {
    pub(super) fn new(queue: &JobQueue, ending: Ending) -> Store {
        Store { pool: queue.pool().clone(), ending }
    }

    async fn rows(&self, sql: &str, args: &Args<'_>) -> Result<Vec<Row>, Error> {
        match statement::query(&self.pool, QUERY_TIMEOUT, sql, args).await {
            Err(error) if error.needs_another_start() => {
                let told = error.to_caller();
                // Whichever call meets it: the connections of the others only live on until they break.
                self.ending.because(error);
                Err(told)
            }
            answer => answer,
        }
    }

    /// Ends the controller.
    pub(super) fn give_up(&self, error: Error) {
        self.ending.because(error);
    }

    async fn one<T: for<'a> FromSql<'a>>(&self, sql: &str, args: &Args<'_>) -> Result<T, Error> {
        Ok(self.rows(sql, args).await?[0].try_get(0)?)
    }

    async fn list<T: for<'a> FromSql<'a>>(&self, sql: &str, args: &Args<'_>) -> Result<Vec<T>, Error> {
        self.rows(sql, args).await?.iter().map(|r| Ok(r.try_get(0)?)).collect()
    }

    pub(super) async fn lead(&self, holder: Uuid, name: &str, lease: Duration) -> Result<Led, Error> {
        let rows = self
            .rows(
                "SELECT epoch, leader, left_seconds FROM rowlock.lead_v1($1, $2, $3)",
                &[(&holder, Type::UUID), (&name, Type::TEXT), (&lease.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        Ok(Led {
            epoch: rows[0].try_get(0)?,
            leader: rows[0].try_get(1)?,
            left: Duration::try_from_secs_f64(rows[0].try_get(2)?).unwrap_or_default(),
        })
    }

    pub(super) async fn resign(&self, epoch: i64) -> Result<(), Error> {
        self.rows("SELECT rowlock.resign_v1($1)", &[(&epoch, Type::INT8)]).await.map(drop)
    }

    /// Does one round of maintenance.
    pub(super) async fn maintain(&self, holder: Uuid) -> Result<Maintained, Error> {
        Maintained::read(&self.rows(Maintained::SQL, &[(&holder, Type::UUID)]).await?[0])
    }

    pub(super) async fn observe(
        &self,
        queues: &[String],
        after: Option<DateTime<Utc>>,
        soon: f64,
        hints: &HintArgs,
    ) -> Result<Value, Error> {
        self.one(
            "SELECT rowlock.observe_v1($1, $2, $3, $4, $5, $6)",
            &[
                (&queues, Type::TEXT_ARRAY),
                (&after, Type::TIMESTAMPTZ),
                (&soon, Type::FLOAT8),
                (&hints.queues, Type::INT4_ARRAY),
                (&hints.ranks, Type::INT2_ARRAY),
                (&hints.after, Type::INT8_ARRAY),
            ],
        )
        .await
    }

    /// Asks for a NOTIFY of enqueues to these queues, and to no others.
    pub(super) async fn subscribe(&self, epoch: i64, queues: &[String]) -> Result<(), Error> {
        self.rows("SELECT rowlock.subscribe_queues_v1($1, $2)", &[(&epoch, Type::INT8), (&queues, Type::TEXT_ARRAY)])
            .await
            .map(drop)
    }

    /// Stores decisions.
    pub(super) async fn record(&self, epoch: i64, decisions: &Value) -> Result<(), Error> {
        self.rows("SELECT rowlock.record_decisions_v1($1, $2)", &[(&epoch, Type::INT8), (decisions, Type::JSONB)])
            .await
            .map(drop)
    }

    /// Counts an act that failed, for the metrics.
    pub(super) async fn count_error(&self, epoch: i64, deployment: &str, failed: ScalerError) -> Result<(), Error> {
        self.rows(
            "SELECT rowlock.scaler_error_v1($1, $2, $3)",
            &[(&epoch, Type::INT8), (&deployment, Type::TEXT), (&failed.name(), Type::TEXT)],
        )
        .await
        .map(drop)
    }

    /// The highest need of the last `window`, in slots, by the stored decisions.
    pub(super) async fn highest_need(&self, deployment: &str, window: Duration) -> Result<Option<f64>, Error> {
        self.one(
            "SELECT max((inputs ->> 'need_slots')::float8) FROM rowlock.decisions
              WHERE deployment = $1 AND at > clock_timestamp() - make_interval(secs => $2)",
            &[(&deployment, Type::TEXT), (&window.as_secs_f64(), Type::FLOAT8)],
        )
        .await
    }

    /// Marks the idle ones of these workers as draining; answers which.
    pub(super) async fn drain(&self, epoch: i64, workers: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let args: &Args<'_> = &[(&epoch, Type::INT8), (&workers, Type::UUID_ARRAY)];
        self.list("SELECT worker FROM rowlock.drain_v1($1, $2)", args).await
    }

    /// Answers which of the marked workers are still idle; the others drain no longer.
    pub(super) async fn confirm_drained(&self, epoch: i64, workers: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let args: &Args<'_> = &[(&epoch, Type::INT8), (&workers, Type::UUID_ARRAY)];
        self.list("SELECT worker FROM rowlock.confirm_drained_v1($1, $2)", args).await
    }

    /// Ends the leases of replicas that have ended, and puts their jobs back; answers how many jobs.
    pub(super) async fn end_replicas(&self, epoch: i64, replicas: &[String]) -> Result<i32, Error> {
        self.one("SELECT rowlock.end_replicas_v1($1, $2)", &[(&epoch, Type::INT8), (&replicas, Type::TEXT_ARRAY)]).await
    }

    /// Loads the entries of one source of the catalogue, and removes those that it no longer holds; false if some of
    /// these have to stay for now. Entries of the `former` sources, which are gone, may move to this one.
    pub(super) async fn sync_catalog(
        &self,
        epoch: i64,
        source: &str,
        digest: &str,
        types: &Value,
        schedules: &Value,
        former: &[String],
    ) -> Result<bool, Error> {
        self.one(
            "SELECT rowlock.sync_catalog_v1($1, $2, $3, $4, $5, $6)",
            &[
                (&epoch, Type::INT8),
                (&source, Type::TEXT),
                (&digest, Type::TEXT),
                (types, Type::JSONB),
                (schedules, Type::JSONB),
                (&former, Type::TEXT_ARRAY),
            ],
        )
        .await
    }

    /// The sources of the catalogue that were loaded before and are not among these.
    pub(super) async fn other_catalog_sources(&self, prefix: &str, there: &[String]) -> Result<Vec<String>, Error> {
        let args: &Args<'_> = &[(&prefix, Type::TEXT), (&there, Type::TEXT_ARRAY)];
        self.list(
            "SELECT source FROM rowlock.catalog_sources_v1() WHERE starts_with(source, $1) AND source <> ALL ($2)",
            args,
        )
        .await
    }

    /// The schedules that are due soon, but for those of these names.
    pub(super) async fn due_schedules(&self, within: Duration, skip: &[&str]) -> Result<Vec<DueSchedule>, Error> {
        let rows = self
            .rows(
                "SELECT name, cron, every_seconds, timezone, catch_up, next_at, updated_at, now FROM \
                 rowlock.due_schedules_v1($1, $2)",
                &[(&within.as_secs_f64(), Type::FLOAT8), (&skip, Type::TEXT_ARRAY)],
            )
            .await?;
        let read = |r: &Row| {
            Ok(DueSchedule {
                name: r.try_get(0)?,
                cron: r.try_get(1)?,
                every: r.try_get::<_, Option<f64>>(2)?.and_then(|s| Duration::try_from_secs_f64(s).ok()),
                timezone: r.try_get(3)?,
                catch_up: r.try_get(4)?,
                next_at: r.try_get(5)?,
                seen: r.try_get(6)?,
                now: r.try_get(7)?,
            })
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn plan(
        &self,
        epoch: i64,
        schedule: &DueSchedule,
        next: Option<DateTime<Utc>>,
        problem: Option<&str>,
    ) -> Result<(), Error> {
        self.rows(
            "SELECT rowlock.plan_schedule_v1($1, $2, $3, $4, $5)",
            &[
                (&epoch, Type::INT8),
                (&schedule.name, Type::TEXT),
                (&schedule.seen, Type::TIMESTAMPTZ),
                (&next, Type::TIMESTAMPTZ),
                (&problem, Type::TEXT),
            ],
        )
        .await
        .map(drop)
    }

    /// Enqueues the jobs of these ticks; answers their ids.
    pub(super) async fn tick(
        &self,
        epoch: i64,
        schedule: &DueSchedule,
        ticks: &[DateTime<Utc>],
        next: Option<DateTime<Utc>>,
        problem: Option<&str>,
    ) -> Result<Vec<Uuid>, Error> {
        self.list(
            "SELECT * FROM rowlock.fire_schedule_v1($1, $2, $3, $4, $5, $6, $7)",
            &[
                (&epoch, Type::INT8),
                (&schedule.name, Type::TEXT),
                (&schedule.seen, Type::TIMESTAMPTZ),
                (&schedule.next_at, Type::TIMESTAMPTZ),
                (&ticks, Type::TIMESTAMPTZ_ARRAY),
                (&next, Type::TIMESTAMPTZ),
                (&problem, Type::TEXT),
            ],
        )
        .await
    }
}
