//! From the rows of a claim to jobs, and to hints for the next claim.

use std::{collections::BTreeMap, time::Instant};

use tokio_postgres::Row;
use uuid::Uuid;

use super::Session;
use crate::{ClaimedJob, Error, job::raw};

pub(super) const CLAIM_COLUMNS: &str = "lease, id, type, queue, payload, priority, attempts, max_retries, created_at, \
    execute_at, opts, lane_queue, lane_rank, pos, claimed_at, unique_key, error, suspect";

impl Session {
    pub(super) fn read(&self, rows: &[Row], now: Instant) -> Result<(Vec<ClaimedJob>, Vec<Uuid>), Error> {
        let mut refused = Vec::new();
        let mut jobs = Vec::with_capacity(rows.len());
        let mut top = BTreeMap::new();
        for row in rows {
            if let Some(id) = row.try_get::<_, Option<Uuid>>(0)? {
                refused.push(id);
                continue;
            }
            let (queue, rank, pos): (i32, i16, i64) = (row.try_get(12)?, row.try_get(13)?, row.try_get(14)?);
            let highest = top.entry((queue, rank)).or_insert(pos);
            *highest = pos.max(*highest);
            jobs.push((rank, pos, self.claimed(row)?));
        }
        for ((queue, rank), pos) in top {
            self.hints().took(queue, rank, pos, now);
        }
        jobs.sort_by_key(|(rank, pos, _)| (*rank, *pos));
        Ok((jobs.into_iter().map(|(_, _, job)| job).collect(), refused))
    }

    /// By number: a look-up by name compares every column's, for every job.
    fn claimed(&self, row: &Row) -> Result<ClaimedJob, Error> {
        let (receipt, id) = (row.try_get(1)?, row.try_get(2)?);
        Ok(ClaimedJob {
            id,
            job_type: row.try_get(3)?,
            queue: row.try_get(4)?,
            payload: raw(row, 5)?.expect("payload is not null"),
            priority: row.try_get(6)?,
            attempts: row.try_get(7)?,
            max_retries: row.try_get(8)?,
            created_at: row.try_get(9)?,
            execute_at: row.try_get(10)?,
            opts: row.try_get(11)?,
            claimed_at: row.try_get(15)?,
            unique_key: row.try_get(16)?,
            error: row.try_get(17)?,
            suspect: row.try_get::<_, Option<bool>>(18)?.is_some(),
            worker: self.id,
            hold: self.holds.hold(receipt, id),
        })
    }
}
