//! The leader's ticks: schedules planned, and their jobs enqueued when they are due.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    lead::Reign,
    store::{DueSchedule, Store},
};
use crate::{
    Error,
    schedule::{CatchUp, Schedule},
};

/// How far ahead it looks, and the longest it rests.
const AHEAD: Duration = Duration::from_secs(1);
/// A schedule whose tick fails, by its name, is left alone for so long.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// Until `end`, whenever this controller leads.
pub(super) async fn tick(store: Store, mut reign: watch::Receiver<Option<Reign>>, end: CancellationToken) {
    let mut ticks = Ticks { store, failed: HashMap::new() };
    loop {
        let leads = *reign.borrow_and_update();
        let wait = match leads.filter(Reign::lasts) {
            Some(leads) => ticks.round(leads.epoch).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "schedules cannot be looked at");
                AHEAD
            }),
            None => AHEAD,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = reign.changed(), if leads.is_none() => if changed.is_err() { return },
            () = end.cancelled() => return,
        }
    }
}

struct Ticks {
    store: Store,
    failed: HashMap<String, tokio::time::Instant>,
}

impl Ticks {
    /// Does what is due, and answers when to look again.
    async fn round(&mut self, epoch: i64) -> Result<Duration, Error> {
        let asked = tokio::time::Instant::now();
        let due = self.store.due_schedules(AHEAD).await?;
        self.failed.retain(|_, at| at.elapsed() < FAILED_FOR);
        let mut wait = AHEAD;
        for schedule in &due {
            if self.failed.contains_key(&schedule.name) {
                continue;
            }
            if let Some(at) = schedule.next_at.filter(|at| *at > schedule.now) {
                wait = wait.min((at - schedule.now).to_std().unwrap_or_default());
                continue;
            }
            match self.one(epoch, schedule).await {
                Ok(Some(next)) => wait = wait.min((next - schedule.now).to_std().unwrap_or_default()),
                Ok(None) => {}
                Err(error) if error.code() == Some("RL030") || error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::error!(schedule = schedule.name, %error, "a tick failed");
                    self.failed.insert(schedule.name.clone(), tokio::time::Instant::now());
                }
            }
        }
        // By the clock of the database, read when it was asked.
        Ok(wait.saturating_sub(asked.elapsed()).max(Duration::from_millis(2)))
    }

    /// Plans it or does its ticks; the next one.
    async fn one(&self, epoch: i64, row: &DueSchedule) -> Result<Option<DateTime<Utc>>, Error> {
        let schedule = match read(row) {
            Ok(schedule) => schedule,
            Err(fault) => {
                tracing::error!(schedule = row.name, fault, "a schedule cannot run; correct and apply it");
                self.store.plan(epoch, row, None, Some(&fault)).await?;
                return Ok(None);
            }
        };
        let next = schedule.next(row.now);
        let fault = next.is_none().then_some("it has no more ticks");
        let Some(due) = row.next_at else {
            self.store.plan(epoch, row, next, fault).await?;
            return Ok(next);
        };
        let ticks = schedule.due(due, row.now, CatchUp::named(&row.catch_up));
        let jobs = self.store.tick(epoch, row, &ticks, next, fault).await?;
        tracing::debug!(schedule = row.name, %due, jobs = jobs.len(), "tick");
        Ok(next)
    }
}

fn read(row: &DueSchedule) -> Result<Schedule, String> {
    match (&row.cron, row.every) {
        (Some(cron), _) => Schedule::cron(cron, &row.timezone),
        (None, Some(every)) => Schedule::every(every),
        (None, None) => Err("cron, every: expected one of the two".into()),
    }
}
