//! What the jobs say themselves: a table in another database, to which only their handlers append. Triggers note beside
//! it what the queue forgets: the ends of leases, and who held which job. See `judge`.

use std::{
    collections::{HashMap, HashSet},
    process::Command,
    time::{Duration, Instant},
};

use rowlock::{JobQueue, NewJob};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{
    fleet::{PATIENCE, now},
    support::{Db, connect, empty_database},
    work::put_type,
};

/// The ends of leases, seen by a trigger of the test's: the queue forgets workers.
const LEASES: &str = "
    CREATE TABLE public.lease_end (worker uuid, at timestamptz);
    CREATE FUNCTION public.note_lease_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF OLD.lease_until > '-infinity' AND (TG_OP = 'DELETE' OR NEW.lease_until = '-infinity') THEN
        INSERT INTO public.lease_end VALUES (OLD.id, LEAST(OLD.lease_until, clock_timestamp()));
      END IF;
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER UPDATE OF lease_until OR DELETE ON rowlock.worker
      FOR EACH ROW EXECUTE FUNCTION public.note_lease_end()";
/// Who held which job, from when to when, by two others. A worker is named by its process, see `Fleet`.
const CLAIMS: &str = "
    CREATE TABLE public.claim (job uuid, lease text, process text, at timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON public.claim (job);
    CREATE FUNCTION public.note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.claim (job, lease, process) SELECT j.id, NEW.worker || '/' || NEW.id, w.name
        FROM unnest(NEW.jobs) j, rowlock.worker w WHERE w.id = NEW.worker;
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT ON rowlock.lease FOR EACH ROW EXECUTE FUNCTION public.note_claim();
    CREATE TABLE public.gone (job uuid, lease text, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION public.note_gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.gone (job, lease) SELECT j, OLD.worker || '/' || OLD.id
        FROM unnest(CASE WHEN TG_OP = 'UPDATE' THEN NEW.done ELSE ARRAY(SELECT id FROM unnest(OLD.jobs)) END) j
       WHERE j <> ALL (OLD.done);
      RETURN NULL;
    END $$;
    CREATE TRIGGER gone AFTER UPDATE OF done OR DELETE ON rowlock.lease
      FOR EACH ROW EXECUTE FUNCTION public.note_gone()";

/// One run of a job, as its handler saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub job: Uuid,
    /// The worker's id and the receipt.
    pub lease: String,
    /// Which of the test's processes.
    pub worker: u32,
    pub begin: u64,
    pub end: Option<u64>,
    /// It ended so that another attempt is to follow.
    pub again: bool,
}

impl Run {
    pub fn worker_id(&self) -> Uuid {
        self.lease.split('/').next().unwrap().parse().unwrap()
    }
}

/// In order of time for each run.
const LINES: &str = "
    CREATE TABLE line (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL, job uuid NOT NULL,
      lease text NOT NULL, worker int4 NOT NULL, at int8 NOT NULL, UNIQUE (job, lease, what))";

pub struct Ledger {
    db: Db,
}

impl Ledger {
    /// An empty one, and a job type `t` whose jobs write to it: a payload is `{"ms": how long it takes, "again": how
    /// many attempts are to fail}`.
    pub async fn open(queue: &Db) -> Ledger {
        // On a server that no test of this target kills.
        let db = empty_database().await;
        db.run(LINES).await;
        let config: tokio_postgres::Config = db.url.parse().unwrap();
        let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/handler.py");
        let (port, user, name) =
            (config.get_ports()[0].to_string(), config.get_user().unwrap(), config.get_dbname().unwrap());
        // -I -S: it starts in a few milliseconds.
        let command = json!([python(), "-I", "-S", handler, port, user, name]);
        let backoff = json!({"base": 0.05, "factor": 1});
        put_type(queue, json!({"launch": "resident", "command": command, "max_retries": 3, "backoff": backoff})).await;
        queue.run(LEASES).await;
        queue.run(CLAIMS).await;
        Ledger { db }
    }

    /// Another connection to it.
    pub async fn share(&self) -> Ledger {
        Ledger { db: Db { url: self.db.url.clone(), client: connect(&self.db.url).await } }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.db.url
    }

    /// Adds a line, for jobs that a test works by hand: its process is number 0.
    pub async fn note(&self, what: &str, job: Uuid, lease: &str) {
        let sql = "INSERT INTO line (what, job, lease, worker, at) VALUES ($1, $2, $3, 0, $4)";
        let args: [&(dyn ToSql + Sync); 4] = [&what, &job, &lease, &now().cast_signed()];
        self.db.client.execute(sql, &args).await.unwrap_or_else(|e| panic!("{what} of {job} by {lease}: {e:?}"));
    }

    /// How many lines there are, about: enough to choose a moment by.
    pub async fn lines(&self) -> usize {
        let last: i64 = self.db.one("SELECT coalesce(max(n), 0) FROM line", &[]).await;
        usize::try_from(last).unwrap()
    }

    /// Every run, in order of begin.
    pub async fn runs(&self) -> Vec<Run> {
        self.read("SELECT what, job, lease, worker, at FROM line ORDER BY n").await
    }

    /// The runs that began on a worker's process and did not end, looking only at the last of it.
    pub async fn open_runs(&self, worker: u32) -> Vec<Run> {
        self.last().await.into_iter().filter(|r| r.worker == worker && r.end.is_none()).collect()
    }

    /// The processes of workers that run something, looking only at the last of it.
    pub async fn busy(&self) -> HashSet<u32> {
        self.last().await.into_iter().filter(|r| r.end.is_none()).map(|r| r.worker).collect()
    }

    /// When each worker's process began its first run after `since`, looking only at the last of it.
    pub async fn begun(&self, since: u64) -> HashMap<u32, u64> {
        let mut first = HashMap::new();
        for run in self.last().await.into_iter().filter(|r| r.begin > since) {
            first.entry(run.worker).or_insert(run.begin);
        }
        first
    }

    async fn last(&self) -> Vec<Run> {
        self.read(
            "SELECT what, job, lease, worker, at FROM (SELECT * FROM line ORDER BY n DESC LIMIT 600) l ORDER BY n",
        )
        .await
    }

    async fn read(&self, sql: &str) -> Vec<Run> {
        let rows = self.db.client.query(sql, &[]).await.unwrap();
        let lines = rows.iter().map(|r| {
            let (worker, at): (i32, i64) = (r.get(3), r.get(4));
            let run = Run {
                job: r.get(1),
                lease: r.get(2),
                worker: worker.cast_unsigned(),
                begin: at.cast_unsigned(),
                end: None,
                again: r.get::<_, &str>(0) == "again",
            };
            (r.get::<_, &str>(0) == "begin", run)
        });
        runs(lines)
    }
}

/// Not a version manager's script, which takes longer to start than the handler.
fn python() -> String {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let output = output.expect("python3 is installed: the handler of these tests is written in it");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// From lines, which are begins or ends, to runs. An end without its begin (which was cut off) is passed over.
fn runs(lines: impl Iterator<Item = (bool, Run)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open = HashMap::new();
    for (begins, line) in lines {
        let key = (line.job, line.lease.clone());
        if begins {
            open.insert(key, runs.len());
            runs.push(line);
        } else if let Some(run) = open.get(&key) {
            runs[*run].end = Some(line.begin);
            runs[*run].again = line.again;
        }
    }
    runs.sort_by_key(|r| r.begin);
    runs
}

/// Jobs of `ms` milliseconds each, enqueued in batches.
pub async fn enqueue(q: &JobQueue, jobs: usize, mut ms: impl FnMut(usize) -> usize) -> HashSet<Uuid> {
    enqueue_like(q, jobs, |n| json!({"ms": ms(n)})).await
}

/// Jobs of these payloads, enqueued in batches.
pub async fn enqueue_like(q: &JobQueue, jobs: usize, payload: impl FnMut(usize) -> Value) -> HashSet<Uuid> {
    let mut ids = HashSet::new();
    let new: Vec<NewJob> = (0..jobs).map(payload).map(|payload| NewJob::new("t", payload)).collect();
    for batch in new.chunks(1000) {
        ids.extend(q.enqueue_many(batch).await.unwrap().iter().map(|e| e.id));
    }
    ids
}

/// The same while connections are cut off: asks again, and what is told in the end is what counts.
pub async fn enqueue_anew(q: &JobQueue, jobs: usize, mut ms: impl FnMut(usize) -> usize) -> HashSet<Uuid> {
    let new: Vec<NewJob> = (0..jobs).map(|n| NewJob::new("t", json!({"ms": ms(n)}))).collect();
    loop {
        match q.enqueue_many(&new).await {
            Ok(enqueued) => return enqueued.iter().map(|e| e.id).collect(),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

/// Waits until nothing is pending or running. In vain, it says what is left and who holds it.
pub async fn drained(db: &Db) {
    const LEFT: &str = "SELECT EXISTS (SELECT FROM rowlock.ready) OR EXISTS (SELECT FROM rowlock.scheduled)
                            OR EXISTS (SELECT FROM rowlock.lease)";
    let started = Instant::now();
    while db.one::<bool>(LEFT, &[]).await {
        if started.elapsed() > PATIENCE {
            panic!("waited in vain until all jobs have ended: {}", left(db).await);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn left(db: &Db) -> String {
    let sql =
        "SELECT format('%s jobs wait; %s are running, of which %s with workers whose lease holds, for up to %s s',
          (SELECT count(*) FROM rowlock.ready) + (SELECT count(*) FROM rowlock.scheduled),
          sum(l.remaining), sum(l.remaining) FILTER (WHERE w.lease_until > clock_timestamp()),
          round(extract(epoch FROM clock_timestamp() - min(l.claimed_at))))
        FROM rowlock.lease l LEFT JOIN rowlock.worker w ON w.id = l.worker";
    db.one(sql, &[]).await
}
