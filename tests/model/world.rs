//! The queue as it is: the same calls, made to the SQL functions of a real database.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use uuid::Uuid;

use crate::{
    call::{Answer, Call, Claim, Claimed, DEFAULTS, Grant, KEYS, KINDS, QUEUES, UNIT, error_text, reason, result},
    ends::worker_name,
    seen::LOOK,
    tables::TABLES,
    words::{ADVANCE, CLAIM, COMPLETE, COMPLETE_SETTLED, ENQUEUE, ENQUEUE_MANY, SETTLED, WORK, as_json, opts, seconds},
};

pub struct World {
    pub client: Client,
    statements: HashMap<&'static str, Statement>,
    jobs: Vec<Uuid>,
    leases: Vec<i64>,
    workers: Vec<Uuid>,
    /// How far a worker took a lane, by the worker, the queue's id and the rank.
    hints: BTreeMap<(usize, i32, i16), i64>,
    keeper: Uuid,
    /// Complete by settle, not by complete_v1.
    settles: bool,
    /// By worker: the number of its next claim, the numbers of those under way, the leases it knows of.
    claims: BTreeMap<usize, (i64, Vec<i64>, Vec<i64>)>,
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl World {
    /// A database with the schema, and nothing else in it.
    pub async fn open(client: Client) -> World {
        // For what is looked at here; the functions say for themselves.
        client.batch_execute("SET jit = off").await.unwrap();
        for kind in KINDS {
            let keep = if kind.kept { None } else { Some("0") };
            let put = json!({"name": kind.name, "command": ["true"], "queue": kind.queue.map(|q| QUEUES[q]), "priority": kind.priority,
                "max_retries": kind.max_retries, "keep_completed": keep, "keep_failed": keep,
                "backoff": {"base": kind.backoff.0 * UNIT, "factor": 2, "max": kind.backoff.1 * UNIT}});
            client.execute("SELECT rowlock.put_job_type($1)", &[&put]).await.unwrap();
        }
        for (queue, (priority, retries)) in QUEUES.into_iter().zip(DEFAULTS) {
            client.execute("SELECT rowlock.configure_queue($1, $2, $3)", &[&queue, &priority, &retries]).await.unwrap();
        }
        World {
            client,
            statements: HashMap::new(),
            jobs: Vec::new(),
            leases: Vec::new(),
            workers: Vec::new(),
            hints: BTreeMap::new(),
            keeper: Uuid::now_v7(),
            settles: false,
            claims: BTreeMap::new(),
        }
    }

    /// From now on jobs are completed by way of settle.
    pub async fn settle(&mut self) {
        self.client.batch_execute(SETTLED).await.unwrap();
        self.settles = true;
    }

    /// Forgets everything but the catalogue.
    pub async fn reset(&mut self, vacuum: bool) {
        let mut sql: String = TABLES.map(|t| format!("DELETE FROM rowlock.{t};")).concat();
        sql.push_str(
            "UPDATE rowlock.queue SET paused = false WHERE paused;
             UPDATE rowlock.keeper SET holder = NULL, held_until = '-infinity', folded_at = '-infinity', swept_at = '-infinity'",
        );
        self.client.batch_execute(&sql).await.unwrap();
        if vacuum {
            let tables = TABLES.map(|t| format!("rowlock.{t}")).join(", ");
            self.client.batch_execute(&format!("VACUUM {tables}, rowlock.keeper, rowlock.queue")).await.unwrap();
        }
        (self.jobs, self.leases, self.workers) = Default::default();
        self.hints.clear();
        self.claims.clear();
    }

    /// What there is to see.
    pub async fn look(&mut self) -> Value {
        let (jobs, leases, workers) = (self.jobs.clone(), self.leases.clone(), self.workers.clone());
        self.rows(LOOK, &[&jobs, &leases, &workers]).await.unwrap()[0].get(0)
    }

    /// Err is the SQLSTATE of a refusal; anything else that goes wrong ends the test.
    async fn rows(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, String> {
        let statement = match self.statements.get(sql) {
            Some(s) => s.clone(),
            None => self.client.prepare(sql).await.unwrap(),
        };
        self.statements.insert(sql, statement.clone());
        match self.client.query(&statement, params).await {
            Ok(rows) => Ok(rows),
            Err(e) => match e.code().map(|c| c.code().to_owned()) {
                Some(code) if code.starts_with("RL") => Err(code),
                _ => panic!("{sql}: {e:?}"),
            },
        }
    }

    pub async fn apply(&mut self, call: &Call) -> Answer {
        self.ask(call).await.unwrap_or_else(Answer::Error)
    }

    async fn ask(&mut self, call: &Call) -> Result<Answer, String> {
        Ok(match call {
            Call::Enqueue(new) => {
                let (delay, key) = (new.delay.map(seconds), new.key.map(|k| KEYS[k]));
                let (kind, queue) = (KINDS[new.kind].name, new.queue.map(|q| QUEUES[q]));
                let rows = self
                    .rows(ENQUEUE, &[&kind, &queue, &new.priority, &new.max_retries, &delay, &key, &opts(new)])
                    .await?;
                self.enqueued(&rows)
            }
            Call::EnqueueMany(all) => {
                let all: Value = all.iter().map(as_json).collect();
                let rows = self.rows(ENQUEUE_MANY, &[&all]).await?;
                self.enqueued(&rows)
            }
            Call::Register { lease } => {
                let name = worker_name(self.workers.len());
                let sql = "SELECT rowlock.register_worker_v1($1, $1 || '/identity', $2, 10, $3)";
                let id = self.rows(sql, &[&name, &QUEUES.as_slice(), &seconds(*lease)]).await?[0].get(0);
                self.workers.push(id);
                Answer::Registered(self.workers.len() - 1)
            }
            Call::Extend { worker, lease, drain, knows } => self.extend(*worker, *lease, *drain, *knows).await?,
            Call::Stop { worker } => {
                let id = self.workers[*worker];
                self.rows("SELECT rowlock.stop_worker_v1($1)", &[&id]).await?;
                Answer::Done
            }
            Call::Claim { worker, claim } => self.work(*worker, None, Some(claim), true).await?,
            Call::Lose { worker, claim, pending } => {
                let answer = self.work(*worker, None, Some(claim), false).await?;
                let (next, under_way, _) = self.claims.entry(*worker).or_default();
                under_way.extend(pending.then_some(*next - 1));
                answer
            }
            Call::Complete { worker, grants, claim } => self.work(*worker, Some(grants), claim.as_ref(), true).await?,
            Call::Fail { worker, grants, retryable } => self.fail(*worker, grants, retryable).await?,
            Call::Release { worker, grants, delay, retried } => {
                let (leases, ids) = self.split(grants);
                let delays = delay.map(|d| vec![seconds(d); ids.len()]);
                let sql = "SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, NULL, $5)";
                let id = self.workers[*worker];
                let rows = self.rows(sql, &[&id, &leases, &ids, &delays, retried]).await?;
                Answer::Refused(self.numbers(rows.iter().map(|r| r.get(0))))
            }
            Call::Progress { worker, grant, done } => {
                let sql = "SELECT rowlock.progress_v1($1, $2, $3, jsonb_build_object('done', $4::int8))";
                let (worker, lease, id) = (self.workers[*worker], self.leases[grant.0], self.jobs[grant.1]);
                Answer::Stored(self.rows(sql, &[&worker, &lease, &id, done]).await?[0].get(0))
            }
            Call::Cancel(job) => {
                let id = self.id(*job);
                Answer::Status(self.rows("SELECT rowlock.cancel($1)", &[&id]).await?[0].get(0))
            }
            Call::Retry { job, delay } => {
                let id = self.id(*job);
                Answer::Status(self.rows("SELECT rowlock.retry($1, $2)", &[&id, &seconds(*delay)]).await?[0].get(0))
            }
            Call::Pause(queue) => {
                self.rows("SELECT rowlock.pause_queue($1)", &[&QUEUES[*queue]]).await?;
                Answer::Done
            }
            Call::Resume(queue) => {
                self.rows("SELECT rowlock.resume_queue($1)", &[&QUEUES[*queue]]).await?;
                Answer::Done
            }
            Call::Advance(units) => {
                self.client.batch_execute(&ADVANCE.replace("$1", &(units * UNIT).to_string())).await.unwrap();
                Answer::Done
            }
            Call::Keep => {
                let keeper = self.keeper;
                let row = &self.rows("SELECT promoted, rescued FROM rowlock.maintain_v1($1)", &[&keeper]).await?[0];
                Answer::Kept { promoted: count(row, 0), rescued: count(row, 1) }
            }
        })
    }

    fn enqueued(&mut self, rows: &[Row]) -> Answer {
        let mut answer = Vec::new();
        for row in rows {
            let (id, inserted): (Uuid, bool) = (row.get(0), row.get(1));
            if inserted {
                self.jobs.push(id);
            }
            answer.push((self.number(id), inserted));
        }
        Answer::Enqueued(answer)
    }

    async fn extend(&mut self, worker: usize, lease: i64, drain: bool, knows: bool) -> Result<Answer, String> {
        let id = self.workers[worker];
        let (next, pending, holds) = self.claims.get(&worker).cloned().unwrap_or_default();
        let (holds, below) = (knows.then_some(holds), knows.then_some(next));
        let sql = "SELECT ceil(extract(epoch FROM lease_until - clock_timestamp()) / 100)::int8, draining, cancelled, returned
                     FROM rowlock.extend_v1($1, $2, $3, $4, $5, $6)";
        let row = &self.rows(sql, &[&id, &seconds(lease), &drain, &holds, &pending, &below]).await?[0];
        let cancelled: Vec<Uuid> = row.get(2);
        let cancelled = self.numbers(cancelled.into_iter());
        Ok(Answer::Extended { lease: row.get(0), draining: row.get(1), cancelled, returned: count(row, 3) })
    }

    async fn work(
        &mut self,
        worker: usize,
        done: Option<&Vec<Grant>>,
        claim: Option<&Claim>,
        answered: bool,
    ) -> Result<Answer, String> {
        let id = self.workers[worker];
        let grants = done.map(Vec::as_slice).unwrap_or_default();
        let (leases, ids) = self.split(grants);
        let results: Vec<Value> = grants.iter().enumerate().map(|(n, g)| result(*g, n)).collect();
        let Some(claim) = claim else {
            let complete = if self.settles { COMPLETE_SETTLED } else { COMPLETE };
            let rows = self.rows(complete, &[&id, &leases, &ids, &results]).await?;
            return Ok(Answer::Worked(self.numbers(rows.iter().map(|r| r.get(0))), None));
        };
        let queues: Vec<&str> = claim.queues.iter().map(|q| QUEUES[*q]).collect();
        let max = i32::try_from(claim.max).unwrap();
        let (mut lanes, mut ranks, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for ((_, queue, rank), pos) in self.hints.iter().filter(|(k, _)| claim.hints && k.0 == worker) {
            lanes.push(*queue);
            ranks.push(*rank);
            after.push(*pos);
        }
        let number = self.claims.entry(worker).or_default().0;
        self.claims.entry(worker).or_default().0 += 1;
        let rows = match done {
            None => self.rows(CLAIM, &[&id, &queues, &max, &lanes, &ranks, &after, &number]).await?,
            Some(_) => {
                let params: Params<'_> =
                    &[&id, &leases, &ids, &results, &queues, &max, &lanes, &ranks, &after, &number];
                self.rows(WORK, params).await?
            }
        };
        if answered {
            let leases = rows.iter().filter_map(|r| r.get::<_, Option<i64>>("lease"));
            self.claims.entry(worker).or_default().2.extend(leases);
        }
        let refused = self.numbers(rows.iter().filter_map(|r| r.get("refused")));
        Ok(Answer::Worked(refused, Some(self.claimed(worker, claim, &rows))))
    }

    fn claimed(&mut self, worker: usize, claim: &Claim, rows: &[Row]) -> Claimed {
        let mut jobs = Vec::new();
        let mut lease = None;
        for row in rows.iter().filter(|r| r.get::<_, Option<i64>>("lease").is_some()) {
            lease = Some(row.get::<_, i64>("lease"));
            let (queue, rank, pos): (&str, i16, i64) = (row.get("queue"), row.get("lane_rank"), row.get("pos"));
            let nth = claim.queues.iter().position(|q| QUEUES[*q] == queue);
            let hint = self.hints.entry((worker, row.get("lane_queue"), rank)).or_default();
            *hint = pos.max(*hint);
            let tagged = row.get::<_, Option<Value>>("opts").is_some();
            let (kind, priority): (&str, i16) = (row.get("type"), row.get("priority"));
            let (attempts, max): (i16, i16) = (row.get("attempts"), row.get("max_retries"));
            let text = format!("{kind} {queue} {priority} {attempts}/{max} {tagged}");
            jobs.push(((rank, nth, pos), (self.number(row.get("id")), text)));
        }
        jobs.sort();
        let lease = lease.map(|real| {
            self.leases.push(real);
            self.leases.len() - 1
        });
        Claimed { lease, jobs: jobs.into_iter().map(|(_, job)| job).collect() }
    }

    async fn fail(&mut self, worker: usize, grants: &[Grant], retryable: &[bool]) -> Result<Answer, String> {
        let (leases, ids) = self.split(grants);
        let errors: Vec<String> = grants.iter().enumerate().map(|(n, g)| error_text(*g, n)).collect();
        let reasons: Vec<Option<&str>> = (0..grants.len()).map(reason).collect();
        let id = self.workers[worker];
        let sql = "SELECT id, status FROM rowlock.fail_v1($1, $2, $3, $4, $5, $6)";
        let rows = self.rows(sql, &[&id, &leases, &ids, &errors, &retryable, &reasons]).await?;
        let mut answers: Vec<_> = rows.iter().map(|r| (self.number(r.get(0)), r.get(1))).collect();
        answers.sort_unstable();
        Ok(Answer::Failed(answers))
    }

    /// The id of a job, or one that no job has.
    fn id(&self, job: usize) -> Uuid {
        self.jobs.get(job).copied().unwrap_or_else(Uuid::now_v7)
    }

    fn split(&self, grants: &[Grant]) -> (Vec<i64>, Vec<Uuid>) {
        grants.iter().map(|(lease, job)| (self.leases[*lease], self.jobs[*job])).unzip()
    }

    fn number(&self, id: Uuid) -> usize {
        self.jobs.iter().position(|j| *j == id).unwrap_or(usize::MAX)
    }

    fn numbers(&self, ids: impl Iterator<Item = Uuid>) -> Vec<usize> {
        let mut all: Vec<_> = ids.map(|id| self.number(id)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn count(row: &Row, column: usize) -> usize {
    usize::try_from(row.get::<_, i32>(column)).unwrap()
}
