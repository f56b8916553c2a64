//! What the jobs say themselves: the begin and the end of each run, told over a connection that closes when the job's
//! process is gone. Held against what the queue says.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::lab::Lab;

/// One run of a job, as its process told it.
#[derive(Debug, Clone)]
pub struct Run {
    pub job: Uuid,
    pub lease: String,
    pub begin: Instant,
    pub end: Option<Instant>,
    /// When its process ended before its run did.
    pub died: Option<Instant>,
}

type Runs = Arc<Mutex<Vec<Run>>>;

pub struct Ledger {
    pub address: SocketAddr,
    runs: Runs,
    _task: AbortOnDropHandle<()>,
}

impl Ledger {
    /// An empty one, at an address that Pods reach.
    pub async fn open(host: &str) -> Ledger {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let (address, runs) = (listener.local_addr().unwrap(), Runs::default());
        let kept = runs.clone();
        let task = tokio::spawn(async move {
            while let Ok((job, _)) = listener.accept().await {
                tokio::spawn(listen(job, kept.clone()));
            }
        });
        Ledger { address, runs, _task: AbortOnDropHandle::new(task) }
    }

    /// Every run, in order of begin.
    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    pub fn runs_of(&self, job: Uuid) -> Vec<Run> {
        self.runs().into_iter().filter(|r| r.job == job).collect()
    }

    /// Asserts that as many jobs have completed as were enqueued, none of them at the cost of an attempt; that each ran to
    /// its end once, and no other job did; and that no run began while an earlier one of its job
    /// lived, nor under the same lease.
    pub async fn judge(&self, lab: &Lab, enqueued: i64) {
        // Jobs in Pods of their own are not told here.
        let sql = "SELECT h.id, h.status, h.attempts FROM rowlock.history h JOIN rowlock.job_types t ON t.name = h.type
                    WHERE t.launch <> 'pod'";
        let rows = lab.sql.query(sql, &[]).await.unwrap();
        let mut completed = HashSet::new();
        for row in &rows {
            let (id, status, attempts): (Uuid, &str, i16) = (row.get(0), row.get(1), row.get(2));
            assert_eq!((status, attempts), ("completed", 0), "{id}");
            assert!(completed.insert(id), "{id} completed twice");
        }
        let runs = self.runs();
        let mut of: HashMap<Uuid, Vec<&Run>> = HashMap::new();
        runs.iter().for_each(|r| of.entry(r.job).or_default().push(r));
        let lost: Vec<&Uuid> = completed.iter().filter(|id| !of.contains_key(id)).collect();
        let ended = |runs: &[&Run]| runs.iter().filter(|r| r.end.is_some()).count();
        let early = |pair: &[&Run]| pair[0].end.or(pair[0].died).is_none_or(|over| over > pair[1].begin);
        let leases = |runs: &[&Run]| runs.iter().map(|r| r.lease.clone()).collect::<HashSet<_>>().len();
        let is_odd = |id: &Uuid, runs: &[&Run]| {
            !completed.contains(id) || ended(runs) != 1 || leases(runs) != runs.len() || runs.windows(2).any(early)
        };
        let odd: Vec<_> = of.iter().filter(|(id, runs)| is_odd(id, runs)).collect();
        println!(
            "ledger: {enqueued} jobs enqueued, {} completed, {} runs; {} lost, {} doubled",
            completed.len(),
            runs.len(),
            lost.len() as i64 + enqueued - completed.len() as i64,
            odd.len()
        );
        assert_eq!(i64::try_from(completed.len()).unwrap(), enqueued);
        assert!(lost.is_empty(), "completed, and never ran: {lost:?}");
        assert!(odd.is_empty(), "{odd:#?}");
    }
}

/// A process of one job, or a handler of many, one after the other.
async fn listen(job: TcpStream, runs: Runs) {
    let (read, mut write) = job.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut open = None;
    while let Ok(Some(line)) = lines.next_line().await {
        note(&mut runs.lock().unwrap(), &mut open, &line);
        if write.write_all(b"\n").await.is_err() {
            break;
        }
    }
    if let Some(run) = open {
        runs.lock().unwrap()[run].died = Some(Instant::now());
    }
}

fn note(runs: &mut Vec<Run>, open: &mut Option<usize>, line: &str) {
    let [what, job, lease] = line.split(' ').collect::<Vec<_>>().try_into().expect("what, job and lease");
    let job = job.parse().expect("a job's id");
    match (what, open.take()) {
        ("begin", None) => {
            *open = Some(runs.len());
            runs.push(Run { job, lease: lease.to_owned(), begin: Instant::now(), end: None, died: None });
        }
        ("end", Some(run)) if runs[run].job == job => runs[run].end = Some(Instant::now()),
        other => panic!("{line} after {other:?}"),
    }
}
