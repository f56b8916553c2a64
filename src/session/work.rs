//! Claims and completions: one call for both.

use std::time::Instant;

use serde_json::value::RawValue;
use tokio_postgres::{
    Row,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{Session, end, keys, read::CLAIM_COLUMNS};
use crate::{ClaimedJob, Error, hints::HintArgs};

/// The claim that a call makes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub max: usize,
    /// Suspects, too: nothing runs beside them.
    pub alone: bool,
    /// If there is nothing to claim, the worker is subscribed in the same commit: it is about to sleep.
    pub subscribe: bool,
}

impl Wanted {
    /// By hand nobody can keep jobs apart.
    pub(crate) fn by_hand(max: usize) -> Wanted {
        Wanted { max, alone: true, subscribe: false }
    }
}

impl Session {
    /// Claims up to `max` jobs, in order of claim.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the worker's lease has expired: register anew.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// for job in session.claim(10).await? {
    ///     println!("{}", job.job_type);
    ///     session.complete(vec![(job, None)]).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn claim(&self, max: usize) -> Result<Vec<ClaimedJob>, Error> {
        Ok(self.work(Vec::new(), max).await?.0)
    }

    /// Completes jobs with their results. Answers the ids that were refused because the lease is lost.
    ///
    /// # Errors
    /// [`Error::Database`]; whether the jobs ended is then unknown until it is asked again.
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let done = session.claim(10).await?.into_iter().map(|job| (job, None)).collect();
    /// for id in session.complete(done).await? {
    ///     println!("{id} belongs to another worker now");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn complete(&self, done: Vec<(ClaimedJob, Option<Box<RawValue>>)>) -> Result<Vec<Uuid>, Error> {
        Ok(self.work(done, 0).await?.1)
    }

    /// Completes some jobs and claims others in one round trip and one commit: the fastest way to work.
    /// Answers the new jobs and the ids that were refused.
    ///
    /// # Errors
    /// As [`Session::claim`].
    ///
    /// ```no_run
    /// # async fn f(session: rowlock::Session) -> Result<(), rowlock::Error> {
    /// let mut jobs = session.claim(10).await?;
    /// while !jobs.is_empty() {
    ///     let done = jobs.into_iter().map(|job| (job, None)).collect();
    ///     (jobs, _) = session.work(done, 10).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn work(
        &self,
        done: Vec<(ClaimedJob, Option<Box<RawValue>>)>,
        max: usize,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let answer = self.try_work(&done, Wanted::by_hand(max)).await?;
        end(done.into_iter().map(|(job, _)| job));
        Ok(answer)
    }

    /// [`Session::work`] for a caller that repeats the call when the database was away. A repetition may find jobs
    /// refused that the first call did complete: then its answer was lost, not its effect. The caller ends the jobs'
    /// holds when it has the answer.
    pub(crate) async fn try_work(
        &self,
        done: &[(ClaimedJob, Option<Box<RawValue>>)],
        wanted: Wanted,
    ) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let (receipts, ids) = keys(done.iter().map(|(j, _)| j));
        let results: Option<Vec<Option<Json<&RawValue>>>> =
            done.iter().any(|(_, r)| r.is_some()).then(|| done.iter().map(|(_, r)| r.as_deref().map(Json)).collect());
        let Wanted { max, alone, subscribe } = wanted;
        let max = i32::try_from(max.min(1000)).expect("at most 1000");
        let mut started = Instant::now();
        let mut args = if max > 0 { self.hints().args(started) } else { HintArgs::default() };
        let work = format!(
            "SELECT refused, {CLAIM_COLUMNS} FROM rowlock.work_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        );
        let sql = if subscribe { or_subscribe(&work) } else { work };
        loop {
            // Under way until its jobs are held: a heartbeat beside it must not put them back.
            let claim = self.holds.begin_claim();
            let rows = self
                .call(
                    &sql,
                    &[
                        (&self.id, Type::UUID),
                        (&receipts, Type::INT8_ARRAY),
                        (&ids, Type::UUID_ARRAY),
                        (&results, Type::JSONB_ARRAY),
                        (&self.options.queues, Type::TEXT_ARRAY),
                        (&max, Type::INT4),
                        (&args.queues, Type::INT4_ARRAY),
                        (&args.ranks, Type::INT2_ARRAY),
                        (&args.after, Type::INT8_ARRAY),
                        (&claim.number(), Type::INT8),
                        (&alone, Type::BOOL),
                    ],
                )
                .await?;
            let now = Instant::now();
            let subscribed = subscribe && is_subscription(&rows)?;
            self.set_subscribed(self.is_subscribed() || subscribed);
            if args.sweep {
                self.hints().swept(started, now);
            }
            let (jobs, refused) = self.read(if subscribed { &[] } else { &rows }, now)?;
            claim.answered();
            // Nothing behind the hints: look from the start, if that is allowed again.
            if jobs.is_empty() && max > 0 && !args.sweep && done.is_empty() && self.hints().sweep_due(now) {
                started = now;
                args = self.hints().args(now);
                continue;
            }
            return Ok((jobs, refused));
        }
    }
}

/// The same, and a subscription if it answers no row, in one commit. The subscription is answered by a row of nulls.
fn or_subscribe(work: &str) -> String {
    format!(
        "WITH w AS MATERIALIZED ({work}), s AS MATERIALIZED (
           SELECT rowlock.subscribe_v1($1, $5) FROM (SELECT count(*) AS n FROM w) c WHERE c.n = 0)
         SELECT * FROM w UNION ALL SELECT w.* FROM s LEFT JOIN w ON false"
    )
}

fn is_subscription(rows: &[Row]) -> Result<bool, Error> {
    let Some(row) = rows.first() else { return Ok(false) };
    Ok(row.try_get::<_, Option<Uuid>>(0)?.is_none() && row.try_get::<_, Option<i64>>(1)?.is_none())
}
