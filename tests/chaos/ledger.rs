//! What the jobs say themselves: a table in another database, to which only their handlers append. Against it is held
//! what the queue says: which run it accepted, and when a worker's lease was over.

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
    /// An empty one, and a job type `t` whose jobs write to it: a payload is `{"ms": how long it takes, "again": how many
    /// attempts are to fail}`.
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

/// What the queue says about how a job ended.
pub struct End {
    status: String,
    reason: Option<String>,
    pub attempts: i16,
    /// Of the run that was accepted.
    pub lease: Option<String>,
    pub at: u64,
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
async fn lease_ends(db: &Db) -> HashMap<Uuid, u64> {
    let sql = "SELECT worker, (extract(epoch FROM max(at)) * 1e9)::int8 FROM public.lease_end GROUP BY worker";
    let rows = db.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| (r.get(0), r.get::<_, i64>(1).cast_unsigned())).collect()
}

/// When whoever ran a job had no right to it any more.
struct Fates<'a> {
    lease_ends: HashMap<Uuid, u64>,
    /// When jobs left the receipts that they were in.
    gone: HashMap<(Uuid, String), u64>,
    /// When processes ended.
    dead: &'a HashMap<u32, u64>,
}

impl Fates<'_> {
    async fn read<'a>(db: &Db, dead: &'a HashMap<u32, u64>) -> Fates<'a> {
        Fates { lease_ends: lease_ends(db).await, gone: moments(db, "gone").await, dead }
    }

    /// From when on another may run the job.
    fn free(&self, run: &Run) -> u64 {
        let gone = self.gone.get(&(run.job, run.lease.clone())).copied().unwrap_or(u64::MAX);
        gone.min(self.lost(run)).min(self.dead.get(&run.worker).copied().unwrap_or(u64::MAX))
    }

    fn lost(&self, run: &Run) -> u64 {
        self.lease_ends.get(&run.worker_id()).copied().unwrap_or(u64::MAX)
    }

    /// Whether the job was taken from a worker that held its lease and ran the job.
    fn robbed(&self, run: &Run) -> bool {
        let gone = self.gone.get(&(run.job, run.lease.clone())).copied().unwrap_or(u64::MAX);
        gone < self.lost(run) && gone < run.end.unwrap_or(run.begin)
    }
}

/// The moments of one of the two tables of receipts, by job and receipt.
async fn moments(db: &Db, table: &str) -> HashMap<(Uuid, String), u64> {
    let sql = format!("SELECT job, lease, (extract(epoch FROM at) * 1e9)::int8 FROM public.{table}");
    let rows = db.client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|r| ((r.get(0), r.get(1)), r.get::<_, i64>(2).cast_unsigned())).collect()
}

/// A job that was in a receipt while nobody ran it: before its run began, or after that had ended.
#[derive(Debug)]
pub struct Hold {
    pub job: Uuid,
    pub lasted: Duration,
}

/// Each receipt of each job. If no run began, the hold lasts for all of the receipt's time.
pub async fn idle_holds(db: &Db, ledger: &Ledger) -> Vec<Hold> {
    let (claims, gone, runs) = (moments(db, "claim").await, moments(db, "gone").await, ledger.runs().await);
    let runs: HashMap<_, _> = runs.into_iter().map(|r| ((r.job, r.lease.clone()), r)).collect();
    let idle = claims.iter().map(|(held, claimed)| {
        let gone = *gone.get(held).unwrap_or_else(|| panic!("{held:?} is held still"));
        let run = runs.get(held);
        let before = run.map_or(gone, |r| r.begin).saturating_sub(*claimed);
        let after = run.and_then(|r| r.end).map_or(0, |end| gone.saturating_sub(end));
        Hold { job: held.0, lasted: Duration::from_nanos(before.max(after)) }
    });
    idle.collect()
}

/// All that happened to a job, in order, in seconds since its first claim: for a test that fails.
pub async fn story(db: &Db, ledger: &Ledger, job: Uuid) -> String {
    let of_job = |moments: HashMap<(Uuid, String), u64>, what: &'static str| {
        let of_job = moments.into_iter().filter(move |((id, _), _)| *id == job);
        of_job.map(move |((_, lease), at)| (at, what, lease))
    };
    let mut events: Vec<_> = of_job(moments(db, "claim").await, "claimed").collect();
    events.extend(of_job(moments(db, "gone").await, "gone"));
    for run in ledger.runs().await.into_iter().filter(|r| r.job == job) {
        events.push((run.begin, "begins", run.lease.clone()));
        events.extend(run.end.map(|end| (end, if run.again { "fails" } else { "ends" }, run.lease.clone())));
    }
    for (worker, at) in lease_ends(db).await {
        let mine = events.iter().any(|(_, _, lease)| lease.starts_with(&worker.to_string()));
        events.extend(mine.then(|| (at, "its worker's lease is over", worker.to_string())));
    }
    events.sort();
    let first = events.first().map_or(0, |(at, ..)| *at);
    let line = |(at, what, lease): &(u64, &str, String)| {
        format!("\n  {:.3} {what} {}", Duration::from_nanos(at - first).as_secs_f64(), &lease[24..])
    };
    format!("{job}: {}", events.iter().map(line).collect::<String>())
}

/// What both sides say together.
#[derive(Debug, Default)]
pub struct Verdict {
    pub completed: usize,
    /// Jobs that failed because their workers were lost too often.
    pub crash_loops: Vec<Uuid>,
    pub extra_runs: usize,
    /// For each job that a process held when it died: until it ran again.
    pub recoveries: Vec<Duration>,
}

/// Holds both against each other: no job is lost, none accepted but for a run that ended, none begun again after
/// that, none begun while an earlier run's lease held and its process lived, and none taken from who ran it. `dead`
/// says when processes ended.
pub async fn judge(db: &Db, ledger: &Ledger, jobs: &HashSet<Uuid>, dead: &HashMap<u32, u64>) -> Verdict {
    let (ends, fates, runs) = (ends(db).await, Fates::read(db, dead).await, ledger.runs().await);
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
                let accepted = match &end.lease {
                    Some(lease) => runs.iter().position(|r| r.lease == *lease),
                    // It was completed without a result.
                    None => runs.iter().rposition(|r| r.end.is_some() && !r.again),
                };
                let at = accepted.unwrap_or_else(|| panic!("{job}: the accepted run is not in the ledger: {runs:?}"));
                assert!(runs[at].end.is_some_and(|e| e <= end.at), "{job} was accepted before it ended: {runs:?}");
                assert_eq!(at + 1, runs.len(), "{job} ran again after it was accepted: {runs:?}");
            }
            ("failed", Some("crash_loop")) => verdict.crash_loops.push(*job),
            other => panic!("{job} ended as {other:?}"),
        }
        let failed = runs.iter().filter(|r| r.again).count();
        let counted = usize::from(end.attempts.cast_unsigned());
        assert!(counted <= failed, "{job}: {counted} attempts were counted and {failed} failed: {runs:?}");
        verdict.extra_runs += runs.len().saturating_sub(1 + failed);
        for pair in runs.windows(2) {
            let free = fates.free(pair[0]);
            assert!(pair[1].begin >= free, "{job} began {} ns too early: {pair:?}", free.saturating_sub(pair[1].begin));
        }
        assert!(!runs.iter().any(|r| fates.robbed(r)), "{job} was taken from who ran it: {runs:?}");
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
        // Who works by hand has another name, and does not die.
        let died = *dead.get(&pair[0].get::<_, &str>(2).parse().ok()?)?;
        let claimed = pair[1].get::<_, i64>(3).cast_unsigned();
        let again = begins.get(&(pair[1].get(0), pair[1].get(1))).copied().unwrap_or(claimed);
        // A worker that lost its lease before it died had given the job back by then.
        (died < claimed).then(|| Duration::from_nanos(again - died))
    };
    pairs.filter_map(recovery).collect()
}
