//! `rowlock enqueue` and `rowlock jobs`.

use std::{io::Read, time::Instant};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    args::{Enqueue, Filter, JobsCommand},
    exit::{self, Exit},
    output::{self, Output, Table},
};
use crate::{Job, JobQueue, ListFilter, NewJob, Status, cluster::ClusterOptions};

pub(super) async fn enqueue(queue: &JobQueue, out: &Output, args: Enqueue) -> anyhow::Result<()> {
    let text = match &*args.payload {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| Exit::Usage(format!("payload: standard input: {e}")))?;
            text
        }
        text => text.to_owned(),
    };
    // Read for its mistakes, not into a tree: that would round long numbers.
    let payload: Box<RawValue> =
        serde_json::from_str(&text).map_err(|e| Exit::Usage(format!("payload: expected a JSON object: {e}")))?;
    let mut job = NewJob::new(args.job_type, payload);
    job.queue = args.queue;
    job.priority = args.priority;
    job.max_retries = args.max_retries;
    job.unique_key = args.unique_key;
    job.execute_at = match args.delay {
        Some(delay) => Some(database_time(queue, delay).await?),
        None => args.execute_at,
    };
    let enqueued = queue.enqueue_job(&job).await?;
    if !args.wait {
        return out.one(&enqueued, &enqueued.id.to_string());
    }
    let started = Instant::now();
    let mut pause = std::time::Duration::from_millis(20);
    loop {
        let Some(job) = queue.get_job(enqueued.id).await? else {
            return Err(
                Exit::NotFound(format!("job {} is not kept in history: how it ended is unknown", enqueued.id)).into()
            );
        };
        if job.status.is_terminal() {
            out.one(&job, &job.id.to_string())?;
            return if job.status == Status::Completed { Ok(()) } else { Err(Exit::Failed.into()) };
        }
        let left = args.wait_timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let (id, status) = (enqueued.id, job.status.as_str());
            return Err(
                Exit::TimedOut(format!("job {id} is still {status}; look again with: rowlock jobs get {id}")).into()
            );
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(std::time::Duration::from_secs(1));
    }
}

/// A delay counts from the database's clock, like every time.
async fn database_time(queue: &JobQueue, delay: std::time::Duration) -> anyhow::Result<chrono::DateTime<chrono::Utc>> {
    let delay = delay.as_secs_f64();
    let sql = "SELECT clock_timestamp() + make_interval(secs => LEAST($1, 1e9))";
    let rows = super::rows(queue, sql, &[(&delay, tokio_postgres::types::Type::FLOAT8)]).await?;
    Ok(rows[0].try_get(0)?)
}

pub(super) async fn run(
    queue: &JobQueue,
    out: &Output,
    place: &ClusterOptions,
    command: JobsCommand,
) -> anyhow::Result<()> {
    match command {
        JobsCommand::List { filter, limit } => {
            let jobs = find(queue, &filter, limit).await?;
            let mut table = Table::new(&[
                "id",
                "type",
                "queue",
                "status",
                "priority",
                "attempts",
                "execute_at",
                "finished_at",
                "error",
            ]);
            for j in &jobs {
                let error = j.error.clone().unwrap_or_default();
                let error = if out.wide() {
                    error
                } else {
                    error.lines().next().unwrap_or_default().chars().take(40).collect()
                };
                table.row([
                    j.id.to_string(),
                    j.job_type.clone(),
                    j.queue.clone(),
                    j.status.as_str().to_owned(),
                    j.priority.to_string(),
                    format!("{}/{}", j.attempts, j.max_retries),
                    output::time(Some(j.execute_at)),
                    output::time(j.finished_at),
                    error,
                ]);
            }
            out.list(&jobs, table, |j| j.id.to_string())
        }
        JobsCommand::Get { id } => match queue.get_job(id).await? {
            Some(job) => out.one(&job, &id.to_string()),
            None => Err(Exit::NotFound(format!("no job {id}; it may have left history")).into()),
        },
        JobsCommand::Logs { id, tail } => super::logs::run(queue, out, id, tail, place).await,
        JobsCommand::Retry { ids, filter, delay, yes } => {
            let one = ids.len() == 1;
            let chosen = chosen(queue, ids, filter, yes, "retry", &[Status::Failed]).await?;
            steer(out, chosen, one, async |id| Ok(queue.retry(id, delay).await?)).await
        }
        JobsCommand::Cancel { ids, filter, yes } => {
            let one = ids.len() == 1;
            let chosen = chosen(queue, ids, filter, yes, "cancel", &[Status::Pending, Status::Running]).await?;
            steer(out, chosen, one, async |id| match queue.cancel(id).await? {
                ended @ (Status::Completed | Status::Failed) => {
                    Err(Exit::Refused(format!("job {id} had already {}", ended.as_str())).into())
                }
                status => Ok(status),
            })
            .await
        }
    }
}

#[derive(serde::Serialize)]
struct Steered {
    id: Uuid,
    status: Status,
}

/// One after the other; one that was named is printed as itself, all else as a list. A job that refuses does not keep the others from their turn; a database that is
/// away does.
async fn steer(
    out: &Output,
    ids: Vec<Uuid>,
    one: bool,
    act: impl AsyncFn(Uuid) -> anyhow::Result<Status>,
) -> anyhow::Result<()> {
    if let ([id], true) = (&*ids, one) {
        return out.one(&Steered { id: *id, status: act(*id).await? }, &id.to_string());
    }
    let (mut done, mut failed) = (Vec::new(), None);
    for id in ids {
        match act(id).await {
            Ok(status) => done.push(Steered { id, status }),
            Err(error) => {
                let fatal = !matches!(exit::code(&error), 3 | 4);
                if let Some(earlier) = failed.replace(error) {
                    output::message(&format!("error: {}", exit::explain(&earlier).unwrap_or_default()));
                }
                if fatal {
                    break;
                }
            }
        }
    }
    let mut table = Table::new(&["id", "status"]);
    for d in &done {
        table.row([d.id.to_string(), d.status.as_str().to_owned()]);
    }
    out.list(&done, table, |d| d.id.to_string())?;
    failed.map_or(Ok(()), Err)
}

async fn find(queue: &JobQueue, filter: &Filter, limit: i32) -> Result<Vec<Job>, crate::Error> {
    let filter = filter.clone();
    queue
        .list(&ListFilter { status: filter.status, queue: filter.queue, job_type: filter.job_type, limit, after: None })
        .await
}

/// The most jobs that one bulk command takes.
const BULK: i32 = 10_000;

/// The ids named, or those a filter finds: then only with --yes, and by itself only in the statuses for
/// which it makes sense.
async fn chosen(
    queue: &JobQueue,
    ids: Vec<Uuid>,
    filter: Filter,
    yes: bool,
    verb: &str,
    usual: &[Status],
) -> anyhow::Result<Vec<Uuid>> {
    let filtered = filter.status.is_some() || filter.queue.is_some() || filter.job_type.is_some();
    match (ids.is_empty(), filtered) {
        (false, false) => return Ok(ids),
        (true, true) => {}
        _ => {
            return Err(Exit::Usage(format!("{verb}: give either ids, or a filter (--status, --queue, --type)")).into());
        }
    }
    let statuses = filter.status.map_or_else(|| usual.to_vec(), |s| vec![s]);
    let mut found = Vec::new();
    for status in statuses {
        let limit = BULK - i32::try_from(found.len())?;
        let jobs = find(queue, &Filter { status: Some(status), ..filter.clone() }, limit).await?;
        found.extend(jobs.into_iter().map(|j| j.id));
    }
    let more = if found.len() == BULK as usize { ", and maybe more: run it again for those" } else { "" };
    output::message(&format!("{} jobs to {verb}{more}", found.len()));
    if !yes && !found.is_empty() {
        return Err(Exit::Refused(format!("nothing done: add --yes to {verb} them")).into());
    }
    Ok(found)
}
