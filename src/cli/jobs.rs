//! `rowlock enqueue` and `rowlock jobs`.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    args::{Enqueue, Filter, JobsCommand},
    exit::{self, Exit},
    output::{self, Output, Table},
};
use crate::{Error, Job, JobQueue, ListFilter, NewJob, Status, cluster::ClusterOptions};

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
    let id = enqueued.id;
    match wait(queue, out, id, args.wait_timeout).await {
        Err(error) if exit::is_denied(&error) => {
            // The job is there: who does not learn its id would enqueue it again.
            out.one(&enqueued, &id.to_string())?;
            Err(error.context(format!("job {id} is enqueued, but this user may not see how it ends")))
        }
        Err(error) if !error.is::<Exit>() => {
            Err(error.context(format!("job {id} is enqueued, but how it ends is unknown")))
        }
        ended => ended,
    }
}

/// How a job is, for whoever knows its id.
#[derive(serde::Serialize)]
struct JobStatus {
    id: Uuid,
    status: Status,
    attempts: i16,
    finished_at: Option<chrono::DateTime<chrono::Utc>>,
    result: Option<Box<RawValue>>,
}

async fn status_of(queue: &JobQueue, id: Uuid) -> Result<Option<JobStatus>, Error> {
    // As text: a tree would round long numbers.
    let sql = "SELECT status, attempts::int2, finished_at, result::text FROM rowlock.job_status($1)";
    let rows = match super::query::rows(queue, sql, &[(&id, Type::UUID)]).await {
        // An older schema has only the whole job.
        Err(Error::Schema(_)) => {
            let Job { status, attempts, finished_at, result, .. } = match queue.get_job(id).await? {
                Some(job) => job,
                None => return Ok(None),
            };
            return Ok(Some(JobStatus { id, status, attempts, finished_at, result }));
        }
        rows => rows?,
    };
    let Some(row) = rows.first().filter(|row| row.get::<_, Option<&str>>(0).is_some()) else { return Ok(None) };
    let result: Option<String> = row.try_get(3)?;
    Ok(Some(JobStatus {
        id,
        status: row.try_get::<_, &str>(0)?.parse()?,
        attempts: row.try_get(1)?,
        finished_at: row.try_get(2)?,
        result: result.map(RawValue::from_string).transpose()?,
    }))
}

/// Until the job has ended. A database that is away for a moment is asked again.
async fn wait(queue: &JobQueue, out: &Output, id: Uuid, timeout: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let now = match status_of(queue, id).await {
            Ok(Some(job)) if job.status.is_terminal() => return ended(queue, out, &job).await,
            Ok(Some(job)) => job.status.as_str(),
            Ok(None) => {
                let text = format!("job {id} is not kept in history: how it ended is unknown");
                return Err(Exit::NotFound(text).into());
            }
            Err(error) if error.is_transient() && !left.is_zero() => "unknown",
            Err(error) => return Err(error.into()),
        };
        if left.is_zero() {
            let text = format!("job {id} is still {now}; look again with: rowlock jobs get {id}");
            return Err(Exit::TimedOut(text).into());
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}

/// Prints the whole job, or as much as this user may see of it.
async fn ended(queue: &JobQueue, out: &Output, job: &JobStatus) -> anyhow::Result<()> {
    let name = job.id.to_string();
    match queue.get_job(job.id).await {
        Ok(Some(whole)) => out.one(&whole, &name)?,
        Err(error) if error.code() != Some("42501") => return Err(error.into()),
        _ => out.one(job, &name)?,
    }
    if job.status == Status::Completed { Ok(()) } else { Err(Exit::Failed.into()) }
}

/// A delay counts from the database's clock, like every time.
async fn database_time(queue: &JobQueue, delay: Duration) -> anyhow::Result<chrono::DateTime<chrono::Utc>> {
    let delay = delay.as_secs_f64();
    let sql = "SELECT clock_timestamp() + make_interval(secs => LEAST($1, 1e9))";
    let rows = super::query::rows(queue, sql, &[(&delay, Type::FLOAT8)]).await?;
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

/// One after the other; one that was named is printed as itself, all else as a list. A job that refuses does not keep
/// the others from their turn; a database that is
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
