//! A database to try the functions in. Everything is asked and answered as text, so that a scenario reads as
//! what one would type.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{
    support::{PATIENCE, connect},
    tables::TABLES,
};

/// What is not as a scenario expects it.
pub type Outcome<T = ()> = Result<T, String>;

pub struct Lab {
    pub client: Client,
    url: String,
}

#[derive(Debug, Clone)]
pub struct Held {
    pub lease: String,
    pub id: String,
    pub attempts: String,
}

impl Lab {
    /// No statement waits for long: a mutant may wait for ever.
    pub async fn open(url: &str) -> Outcome<Lab> {
        let lab = Lab { client: connect(url).await, url: url.to_owned() };
        lab.ask("SET lock_timeout = '3s'; SET statement_timeout = '10s'").await?;
        Ok(lab)
    }

    /// Another connection to the same database.
    pub async fn other(&self) -> Outcome<Lab> {
        Lab::open(&self.url).await
    }

    pub async fn reset(&self) -> Outcome {
        let mut sql: String = TABLES.iter().chain(&["job_type"]).map(|t| format!("DELETE FROM rowlock.{t};")).collect();
        sql.push_str("UPDATE rowlock.queue SET paused = false");
        self.ask(&sql).await.map(drop)
    }

    /// Columns are separated by a space, rows by a comma; null is nothing. A refusal is its SQLSTATE, what
    /// else goes wrong is an error.
    pub async fn ask(&self, sql: &str) -> Outcome<String> {
        match self.client.simple_query(sql).await {
            Ok(messages) => Ok(messages.iter().filter_map(line).collect::<Vec<_>>().join(",")),
            Err(e) => match e.code().map(|c| c.code().to_owned()) {
                Some(code) if code.starts_with("RL") || code == "40001" => Ok(code),
                Some(code) => Err(format!("{code} {sql}: {}", e.as_db_error().map_or("", |d| d.message()))),
                None => Err(format!("{sql}: {e}")),
            },
        }
    }

    /// Asks, and is content with one answer only.
    pub async fn is(&self, sql: &str, expected: &str) -> Outcome {
        same(sql, &self.ask(sql).await?, expected)
    }

    pub async fn status(&self, id: &str, expected: &str) -> Outcome {
        self.is(&format!("SELECT status FROM rowlock.get_job('{id}')"), expected).await
    }

    /// With more of enqueue's arguments, or none.
    pub async fn enqueue(&self, more: &str) -> Outcome<String> {
        let comma = if more.is_empty() { "" } else { ", " };
        self.ask(&format!("SELECT id FROM rowlock.enqueue('t'{comma}{more})")).await
    }

    /// A worker for the queue `default` with a lease of a minute.
    pub async fn worker(&self) -> Outcome<String> {
        self.ask("SELECT rowlock.register_worker_v1('w', 'host/1', '{default}', 10, 60)").await
    }

    /// Its lease has just ended.
    pub async fn expire(&self, worker: &str) -> Outcome {
        self.ask(&format!(
            "UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 s' WHERE id = '{worker}'"
        ))
        .await
        .map(drop)
    }

    /// A round of keeping by somebody who becomes the keeper.
    pub async fn keep(&self) -> Outcome {
        self.ask(
            "UPDATE rowlock.keeper SET held_until = '-infinity', swept_at = '-infinity';
             SELECT FROM rowlock.maintain_v1(gen_random_uuid())",
        )
        .await
        .map(drop)
    }

    /// In order of claim.
    pub async fn claim(&self, worker: &str, max: u32) -> Outcome<Vec<Held>> {
        let sql = format!(
            "SELECT lease, id, attempts FROM rowlock.claim_v1('{worker}', '{{default}}', {max}) ORDER BY lane_rank, pos"
        );
        let answer = self.ask(&sql).await?;
        answer.split(',').filter(|row| !row.is_empty()).map(|row| held(row).ok_or(format!("{sql}: {answer}"))).collect()
    }

    /// The next one.
    pub async fn claim_one(&self, worker: &str) -> Outcome<Held> {
        self.claim(worker, 1).await?.pop().ok_or_else(|| "a claim of one: got none".to_owned())
    }

    /// A new job in the hands of a worker.
    pub async fn claim_new(&self, worker: &str, more: &str) -> Outcome<Held> {
        let id = self.enqueue(more).await?;
        let job = self.claim_one(worker).await?;
        same("a claim", &job.id, &id)?;
        Ok(job)
    }

    /// Two new jobs of one receipt.
    pub async fn claim_two_new(&self, worker: &str) -> Outcome<(Held, Held)> {
        self.enqueue("").await?;
        self.enqueue("").await?;
        let mut jobs = self.claim(worker, 2).await?.into_iter();
        jobs.next().zip(jobs.next()).ok_or_else(|| "a claim of two: got fewer".to_owned())
    }

    /// `expected` is what is refused.
    pub async fn complete(&self, worker: &str, jobs: &[&Held], expected: &str) -> Outcome {
        let sql = format!("SELECT * FROM rowlock.complete_v1('{worker}', {})", arrays(jobs));
        self.is(&sql, expected).await
    }

    /// `expected` is the new status.
    pub async fn fail(&self, worker: &str, job: &Held, retryable: bool, expected: &str) -> Outcome {
        let jobs = arrays(&[job]);
        let sql = format!("SELECT status FROM rowlock.fail_v1('{worker}', {jobs}, '{{wrong}}', '{{{retryable}}}')");
        self.is(&sql, expected).await
    }

    /// `expected` is what is refused.
    pub async fn release(&self, worker: &str, job: &Held, expected: &str) -> Outcome {
        self.is(&format!("SELECT * FROM rowlock.release_v1('{worker}', {})", arrays(&[job])), expected).await
    }

    /// `expected`: t or f.
    pub async fn progress(&self, worker: &str, job: &Held, expected: &str) -> Outcome {
        let sql = format!("SELECT rowlock.progress_v1('{worker}', {}, '{}', '1')", job.lease, job.id);
        self.is(&sql, expected).await
    }

    pub async fn cancel(&self, id: &str, expected: &str) -> Outcome {
        self.is(&format!("SELECT rowlock.cancel('{id}')"), expected).await
    }

    /// What the worker is told to stop.
    pub async fn told(&self, worker: &str, expected: &str) -> Outcome {
        let sql = format!("SELECT array_to_string(cancelled, ' ') FROM rowlock.extend_v1('{worker}', 60)");
        self.is(&sql, expected).await
    }

    /// Until somebody waits for a lock in this database.
    pub async fn until_somebody_waits(&self) -> Outcome {
        let started = std::time::Instant::now();
        let sql =
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while self.ask(sql).await? != "t" {
            if started.elapsed() > PATIENCE {
                return Err("waited in vain until somebody waits for a lock".into());
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

pub fn same(what: &str, got: &str, expected: &str) -> Outcome {
    if got == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

/// The arguments leases and ids.
pub fn arrays(jobs: &[&Held]) -> String {
    let join = |of: fn(&Held) -> &str| jobs.iter().map(|j| of(j)).collect::<Vec<_>>().join(",");
    format!("'{{{}}}', '{{{}}}'", join(|j| &j.lease), join(|j| &j.id))
}

fn held(row: &str) -> Option<Held> {
    let mut fields = row.split(' ').map(str::to_owned);
    Some(Held { lease: fields.next()?, id: fields.next()?, attempts: fields.next()? })
}

fn line(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or_default()).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    }
}
