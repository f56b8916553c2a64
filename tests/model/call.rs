//! What is asked of the queue and of the model, and what they answer. Jobs, leases and workers have the
//! numbers in which they came; times are in units of 100 seconds, so that no test is slow enough to see one pass.

/// Seconds in a unit of time.
pub const UNIT: i64 = 100;
pub const QUEUES: [&str; 3] = ["default", "second", "third"];
pub const KEYS: [&str; 3] = ["a key", "another key", "a third"];

/// The types of the catalogue and what it says of them.
pub struct Kind {
    pub name: &'static str,
    pub queue: Option<usize>,
    pub priority: Option<i32>,
    pub max_retries: Option<i32>,
    /// Base and highest wait before a retry; the factor is 2.
    pub backoff: (i64, i64),
    /// Whether history keeps its jobs.
    pub kept: bool,
}

pub const KINDS: [Kind; 2] = [
    Kind { name: "steady", queue: None, priority: None, max_retries: None, backoff: (1, 3), kept: true },
    Kind { name: "brief", queue: Some(1), priority: Some(7), max_retries: Some(1), backoff: (0, 3), kept: false },
];

/// The defaults of the queues: priority, max_retries.
pub const DEFAULTS: [(Option<i32>, Option<i32>); 3] = [(None, None), (Some(2), Some(0)), (None, Some(2))];

#[derive(Debug, Clone, Default)]
pub struct New {
    pub kind: usize,
    pub queue: Option<usize>,
    pub priority: Option<i32>,
    pub max_retries: Option<i32>,
    /// None: no execute_at. Negative: in the past.
    pub delay: Option<i64>,
    pub key: Option<usize>,
    pub tag: bool,
}

/// A lease and a job, which may or may not have been given out together.
pub type Grant = (usize, usize);

#[derive(Debug, Clone)]
pub struct Claim {
    pub queues: Vec<usize>,
    pub max: usize,
    /// Start behind what this worker took before.
    pub hints: bool,
}

#[derive(Debug, Clone)]
pub enum Call {
    Enqueue(New),
    EnqueueMany(Vec<New>),
    Register {
        lease: i64,
    },
    Extend {
        worker: usize,
        lease: i64,
        drain: bool,
        /// The worker says which receipts it holds: others go back.
        knows: bool,
    },
    Stop {
        worker: usize,
    },
    Claim {
        worker: usize,
        claim: Claim,
    },
    /// A claim whose answer the worker does not get: not yet, or never.
    Lose {
        worker: usize,
        claim: Claim,
        pending: bool,
    },
    Complete {
        worker: usize,
        grants: Vec<Grant>,
        claim: Option<Claim>,
    },
    Fail {
        worker: usize,
        grants: Vec<Grant>,
        retryable: Vec<bool>,
    },
    Release {
        worker: usize,
        grants: Vec<Grant>,
        delay: Option<i64>,
        retried: bool,
    },
    Progress {
        worker: usize,
        grant: Grant,
        done: i64,
    },
    Cancel(usize),
    Retry {
        job: usize,
        delay: i64,
    },
    Pause(usize),
    Resume(usize),
    /// Time passes.
    Advance(i64),
    Keep,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    /// The SQLSTATE.
    Error(String),
    /// The job's number, and whether it is new.
    Enqueued(Vec<(usize, bool)>),
    Registered(usize),
    Extended {
        lease: i64,
        draining: bool,
        cancelled: Vec<usize>,
        returned: usize,
    },
    /// What complete refused, then what was claimed.
    Worked(Vec<usize>, Option<Claimed>),
    Failed(Vec<(usize, String)>),
    Refused(Vec<usize>),
    Stored(bool),
    Status(String),
    Kept {
        promoted: usize,
        rescued: usize,
    },
}

/// None: nothing was there. The jobs in order of claim, each as the worker sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    pub lease: Option<usize>,
    pub jobs: Vec<(usize, String)>,
}

/// The error that the n-th job of a call reports.
pub fn error_text(grant: Grant, n: usize) -> String {
    format!("error {n} of lease {}", grant.0)
}

/// Every other job gives no reason.
pub fn reason(n: usize) -> Option<&'static str> {
    (n % 2 == 1).then_some("timeout")
}

pub fn result(grant: Grant, n: usize) -> serde_json::Value {
    serde_json::json!({"lease": grant.0, "nth": n})
}
