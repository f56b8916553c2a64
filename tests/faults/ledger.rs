//! What the jobs say themselves: a table in another database, to which only their handlers append. Against it is held
//! what the queue says: which run it accepted, and when a worker's lease was over.

use std::{
    collections::{HashMap, HashSet},
    process::Command,
    time::Duration,
};

use rowlock::{JobQueue, NewJob};
use serde_json::json;
use uuid::Uuid;

use crate::{
    fleet::until,
    support::{Db, empty_database},
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
/// Who held which job, and since when, by another one. A worker is named by its process, see `Fleet`.
const CLAIMS: &str = "
    CREATE TABLE public.claim (job uuid, lease text, process text, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION public.note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.claim (job, lease, process) SELECT j.id, NEW.worker || '/' || NEW.id, w.name
        FROM unnest(NEW.jobs) j, rowlock.worker w WHERE w.id = NEW.worker;
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT ON rowlock.lease FOR EACH ROW EXECUTE FUNCTION public.note_claim()";

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
    /// An empty one, and a job type `t` whose jobs write to it: a payload is `{"ms": how long it takes}`.
    pub async fn open(queue: &Db) -> Ledger {
        // On a server that no test of this target kills.
        let db = empty_database().await;
        db.run(LINES).await;
        let config: tokio_postgres::Config = db.url.parse().unwrap();
        let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/handler.py");
        let (port, user, name) =
            (config.get_ports()[0].to_string(), config.get_user().unwrap(), config.get_dbname().unwrap());
        // -I -S: it starts in a few milliseconds.
        let command = json!([python(), "-I", "-S", handler, port, user, name]);
        put_type(queue, json!({"launch": "resident", "command": command, "max_retries": 3})).await;
        queue.run(LEASES).await;
        queue.run(CLAIMS).await;
        Ledger { db }
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
        }
    }
    runs.sort_by_key(|r| r.begin);
    runs
}

/// What the queue says about how a job ended.
pub struct End {
    pub status: String,
    pub reason: Option<String>,
    pub attempts: i16,
    /// Of the run that was accepted.
    pub lease: Option<String>,
    pub at: u64,
}

/// Jobs of `ms` milliseconds each, enqueued in batches.
pub async fn enqueue(q: &JobQueue, jobs: usize, mut ms: impl FnMut(usize) -> usize) -> HashSet<Uuid> {
    let mut ids = HashSet::new();
    let new: Vec<NewJob> = (0..jobs).map(|n| NewJob::new("t", json!({"ms": ms(n)}))).collect();
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

/// Waits until nothing is pending or running.
pub async fn drained(db: &Db) {
    const LEFT: &str = "SELECT EXISTS (SELECT FROM rowlock.ready) OR EXISTS (SELECT FROM rowlock.scheduled)
                            OR EXISTS (SELECT FROM rowlock.lease)";
    until("all jobs have ended", || async { !db.one::<bool>(LEFT, &[]).await }).await;
}

/// Every ended job. A job that ended twice is an error, and so is one whose counted ends are not its ends.
pub async fn ends(db: &Db) -> HashMap<Uuid, End> {
    let sql = "SELECT id, status, reason, attempts, result #>> '{}', (extract(epoch FROM finished_at) * 1e9)::int8 FROM rowlock.history";
    let rows = db.client.query(sql, &[]).await.unwrap();
    let mut ends = HashMap::new();
    for r in &rows {
        let at: i64 = r.get(5);
        let end =
            End { status: r.get(1), reason: r.get(2), attempts: r.get(3), lease: r.get(4), at: at.cast_unsigned() };
        assert!(ends.insert(r.get::<_, Uuid>(0), end).is_none(), "{} ended twice", r.get::<_, Uuid>(0));
    }
    // The counters are written beside history, not from it.
    let counted: i64 = db.one("SELECT sum(completed + failed + cancelled)::int8 FROM rowlock.demand()", &[]).await;
    assert_eq!(counted, i64::try_from(ends.len()).unwrap(), "an end was counted and is not there, or the reverse");
    ends
}

/// When each worker's lease was over.
pub async fn lease_ends(db: &Db) -> HashMap<Uuid, u64> {
    let sql = "SELECT worker, (extract(epoch FROM max(at)) * 1e9)::int8 FROM public.lease_end GROUP BY worker";
    let rows = db.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| (r.get(0), r.get::<_, i64>(1).cast_unsigned())).collect()
}

/// What both sides say together.
#[derive(Debug, Default)]
pub struct Verdict {
    pub completed: usize,
    pub crash_loops: usize,
    pub extra_runs: usize,
    /// For each job that a process held when it died: until it ran again.
    pub recoveries: Vec<Duration>,
}

/// Holds both against each other: no job is lost, none accepted but for a run that ended, none begun again after
/// that, and none begun while an earlier run's lease held and its process lived. `dead` says when processes
/// ended.
pub async fn judge(db: &Db, ledger: &Ledger, jobs: &HashSet<Uuid>, dead: &HashMap<u32, u64>) -> Verdict {
    let (ends, lease_ends, runs) = (ends(db).await, lease_ends(db).await, ledger.runs().await);
    let mut verdict = Verdict::default();
    let mut of: HashMap<Uuid, Vec<&Run>> = HashMap::new();
    runs.iter().for_each(|r| of.entry(r.job).or_default().push(r));
    assert_eq!(ends.len(), jobs.len(), "as many ends as jobs");
    for job in jobs {
        let (end, runs) =
            (ends.get(job).unwrap_or_else(|| panic!("{job} is lost")), of.remove(job).unwrap_or_default());
        match (&*end.status, end.reason.as_deref()) {
            ("completed", _) => {
                verdict.completed += 1;
                let accepted = runs.iter().position(|r| Some(&r.lease) == end.lease.as_ref());
                let at = accepted.unwrap_or_else(|| panic!("{job}: the accepted run is not in the ledger: {runs:?}"));
                assert!(runs[at].end.is_some_and(|e| e <= end.at), "{job} was accepted before it ended: {runs:?}");
                assert_eq!(at + 1, runs.len(), "{job} ran again after it was accepted: {runs:?}");
            }
            ("failed", Some("crash_loop")) => verdict.crash_loops += 1,
            other => panic!("{job} ended as {other:?}"),
        }
        assert_eq!(end.attempts, 0, "{job}: an attempt was counted against it");
        verdict.extra_runs += runs.len().saturating_sub(1);
        for pair in runs.windows(2) {
            let lease_end = lease_ends.get(&pair[0].worker_id()).copied().unwrap_or(u64::MAX);
            let free = lease_end.min(dead.get(&pair[0].worker).copied().unwrap_or(u64::MAX));
            assert!(pair[1].begin >= free, "{job} began {} ns too early: {pair:?}", free.saturating_sub(pair[1].begin));
        }
    }
    verdict.recoveries = recoveries(db, &runs, dead).await;
    assert!(of.is_empty(), "the ledger has jobs that nobody enqueued: {:?}", of.keys());
    verdict
}

/// From each death under a job to its next run. If the next to hold it died as well, before a run began, that one's
/// claim is the end of the first recovery, and its death the begin of another.
async fn recoveries(db: &Db, runs: &[Run], dead: &HashMap<u32, u64>) -> Vec<Duration> {
    let begins: HashMap<(Uuid, &str), u64> = runs.iter().map(|r| ((r.job, &*r.lease), r.begin)).collect();
    let sql = "SELECT job, lease, process, (extract(epoch FROM at) * 1e9)::int8 FROM public.claim ORDER BY job, at";
    let claims = db.client.query(sql, &[]).await.unwrap();
    let pairs = claims.windows(2).filter(|pair| pair[0].get::<_, Uuid>(0) == pair[1].get::<_, Uuid>(0));
    let recovery = |pair: &[tokio_postgres::Row]| {
        let died = *dead.get(&pair[0].get::<_, &str>(2).parse().unwrap())?;
        let claimed = pair[1].get::<_, i64>(3).cast_unsigned();
        let again = begins.get(&(pair[1].get(0), pair[1].get(1))).copied().unwrap_or(claimed);
        // A worker that lost its lease before it died had given the job back by then.
        (died < claimed).then(|| Duration::from_nanos(again - died))
    };
    pairs.filter_map(recovery).collect()
}
