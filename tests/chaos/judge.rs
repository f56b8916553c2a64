//! The judge: what the queue says of each job, held against what the jobs say themselves.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    ledger::{Ledger, Run},
    support::Db,
};

/// What the queue says about how a job ended.
pub struct End {
    status: String,
    reason: Option<String>,
    pub attempts: i16,
    /// Of the run that was accepted.
    pub lease: Option<String>,
    pub at: u64,
}

/// Every ended job. A job that ended twice is an error, and so is one whose counted ends are not its ends.
pub async fn ends(db: &Db) -> HashMap<Uuid, End> {
    let sql = "SELECT id, status, reason, attempts, result #>> '{}', (extract(epoch FROM finished_at) * 1e9)::int8
                 FROM rowlock.history";
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
