//! The leader's ticks: schedules planned, and their jobs enqueued when they are due.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    lead::LeaderTerm,
    store::{DueSchedule, Store},
};
use crate::{
    Error,
    schedule::{CatchUp, Schedule},
};

/// Schedules are read this far ahead, and at least this often.
const LOOK_AHEAD: Duration = Duration::from_secs(1);
/// A schedule whose tick has failed is left alone for this time.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// The database answers so many schedules at most (`due_schedules_v1`); there may be more.
const MAX_DUE: usize = 500;

/// Does the ticks while this controller leads, until `end`.
pub(super) async fn tick(store: Store, mut term: watch::Receiver<Option<LeaderTerm>>, end: CancellationToken) {
    let mut ticks = Ticks { store, failed: HashMap::new() };
    loop {
        let leads = *term.borrow_and_update();
        let wait = match leads.filter(LeaderTerm::lasts) {
            Some(leads) => ticks.round(leads.epoch).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "schedules cannot be read");
                LOOK_AHEAD
            }),
            None => LOOK_AHEAD,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = term.changed(), if leads.is_none() => if changed.is_err() { return },
            () = end.cancelled() => return,
        }
    }
}

struct Ticks {
    store: Store,
    failed: HashMap<String, tokio::time::Instant>,
}

impl Ticks {
    /// Does the ticks that are due, and answers the time until the next ones.
    async fn round(&mut self, epoch: i64) -> Result<Duration, Error> {
        let asked = tokio::time::Instant::now();
        self.failed.retain(|_, at| at.elapsed() < FAILED_PAUSE);
        // Not asked for, rather than left out of the answer: they must not take the places of others.
        let failed: Vec<&str> = self.failed.keys().map(String::as_str).collect();
        let due = self.store.due_schedules(LOOK_AHEAD, &failed).await?;
        let mut wait = LOOK_AHEAD;
        let mut tried = 0;
        for schedule in &due {
            if let Some(at) = schedule.next_at.filter(|at| *at > schedule.now) {
                wait = wait.min((at - schedule.now).to_std().unwrap_or_default());
                continue;
            }
            tried += 1;
            match self.one(epoch, schedule).await {
                Ok(next) => {
                    let next = next.map(|next| (next - schedule.now).to_std().unwrap_or_default());
                    wait = wait.min(next.unwrap_or(LOOK_AHEAD));
                }
                Err(error) if error.code() == Some("RL030") || error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::error!(schedule = schedule.name, %error, "a tick failed");
                    self.failed.insert(schedule.name.clone(), tokio::time::Instant::now());
                }
            }
        }
        if due.len() >= MAX_DUE && tried > 0 {
            // The bound has cut off others that are due as well.
            wait = Duration::ZERO;
        }
        // The times are on the clock of the database, which was read when it was asked.
        Ok(wait.saturating_sub(asked.elapsed()).max(Duration::from_millis(2)))
    }

    /// Plans a schedule or does its ticks; answers the next one.
    async fn one(&self, epoch: i64, row: &DueSchedule) -> Result<Option<DateTime<Utc>>, Error> {
        let schedule = match read(row) {
            Ok(schedule) => schedule,
            Err(problem) => {
                tracing::error!(schedule = row.name, problem, "a schedule cannot run; correct and apply it");
                self.store.plan(epoch, row, None, Some(&problem)).await?;
                return Ok(None);
            }
        };
        let next = schedule.next(row.now);
        let problem = next.is_none().then_some("it has no more ticks");
        let Some(due) = row.next_at else {
            self.store.plan(epoch, row, next, problem).await?;
            return Ok(next);
        };
        let ticks = schedule.due(due, row.now, CatchUp::named(&row.catch_up));
        let jobs = self.store.tick(epoch, row, &ticks, next, problem).await?;
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
