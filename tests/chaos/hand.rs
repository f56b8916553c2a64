//! Jobs that a program works by hand, by `JobQueue::dequeue` and its sisters.

use std::{sync::Arc, time::Duration};

use rowlock::{Error, Job, JobQueue};
use serde::Deserialize;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ledger::Ledger,
    support::{Db, connect},
};

/// The library's own, without a setting.
pub const LEASE: Duration = Duration::from_secs(30);
/// A call that is not answered within this time hangs.
const ANSWER: Duration = Duration::from_secs(90);

/// What a job is to do: see [`Ledger::open`].
#[derive(Deserialize)]
pub struct Wish {
    pub ms: u64,
    #[serde(default)]
    pub again: i16,
}

impl Wish {
    pub fn of(job: &Job) -> Wish {
        serde_json::from_str(job.payload.get()).unwrap()
    }
}

/// The receipt in which a job is now.
pub async fn receipt(db: &Db, job: Uuid) -> String {
    db.one("SELECT lease FROM public.claim WHERE job = $1 ORDER BY at DESC LIMIT 1", &[&job]).await
}

/// Hands at work, one on each queue.
pub struct Hands {
    tasks: JoinSet<usize>,
    end: CancellationToken,
}

impl Hands {
    /// They work like `handler.py`, and say everything again until it is answered.
    pub async fn start(queues: Vec<JobQueue>, db: &Db, ledger: &Ledger) -> Hands {
        let (mut tasks, end) = (JoinSet::new(), CancellationToken::new());
        let ledger = Arc::new(ledger.share().await);
        for (n, q) in queues.into_iter().enumerate() {
            let db = Db { url: db.url.clone(), client: connect(&db.url).await };
            let hand = Hand { q, db, ledger: ledger.clone(), fails: n % 2 == 0, refused: 0 };
            tasks.spawn(hand.work(end.clone()));
        }
        Hands { tasks, end }
    }

    /// Ends the test if one of them has panicked.
    pub fn look(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
        }
    }

    /// Answers how many words were refused, of jobs that a hand held.
    pub async fn stop(self) -> usize {
        self.end.cancel();
        self.tasks.join_all().await.into_iter().sum()
    }
}

struct Hand {
    q: JobQueue,
    db: Db,
    ledger: Arc<Ledger>,
    /// A bad attempt fails, or else is to be retried.
    fails: bool,
    refused: usize,
}

impl Hand {
    async fn work(mut self, end: CancellationToken) -> usize {
        while !end.is_cancelled() {
            match answered("dequeue", self.q.dequeue()).await {
                Ok(Some(job)) => self.run(job).await,
                // A pace, not a wait.
                Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => assert!(error.is_transient(), "dequeue: {error:?}"),
            }
        }
        self.refused
    }

    async fn run(&mut self, job: Job) {
        let receipt = receipt(&self.db, job.id).await;
        self.ledger.note("begin", job.id, &receipt).await;
        let wish = Wish::of(&job);
        tokio::time::sleep(Duration::from_millis(wish.ms)).await;
        let q = self.q.clone();
        let refused = if job.attempts >= wish.again {
            self.ledger.note("end", job.id, &receipt).await;
            let result = serde_json::value::to_raw_value(&receipt).unwrap();
            until_answered("complete", || q.complete_with(job.id, Some(result.clone()))).await
        } else {
            self.ledger.note("again", job.id, &receipt).await;
            if self.fails {
                until_answered("fail", || q.fail(job.id, "again")).await
            } else {
                until_answered("retry", || q.retry(job.id, Duration::from_millis(50))).await
            }
        };
        self.refused += usize::from(refused);
    }
}

/// Says it again while the database is away. Whether it was refused.
pub async fn until_answered<T, F: Future<Output = Result<T, Error>>>(what: &str, call: impl Fn() -> F) -> bool {
    loop {
        match answered(what, call()).await {
            Ok(_) => return false,
            // The second: of a retry, when the job is no longer this queue's.
            Err(Error::LeaseLost(_) | Error::WrongStatus(_)) => return true,
            Err(error) => assert!(error.is_transient(), "{what}: {error:?}"),
        }
    }
}

async fn answered<T>(what: &str, call: impl Future<Output = T>) -> T {
    timeout(ANSWER, call).await.unwrap_or_else(|_| panic!("{what} was not answered within {ANSWER:?}"))
}
