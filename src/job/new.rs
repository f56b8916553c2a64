//! A job on its way in.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::Error;

/// A job to be enqueued. Whatever is not set follows the type's default, then the queue's, then the
/// built-in one.
///
/// ```
/// use rowlock::NewJob;
/// let job = NewJob::new("send_email", serde_json::json!({"to": "a@example.com"}))
///     .queue("mail")
///     .priority(9)
///     .unique_key("welcome-42");
/// ```
#[derive(Debug, Clone)]
pub struct NewJob {
    pub(crate) job_type: String,
    /// Written once, here: it is sent as it stands. Why it has no JSON form, if it has none, is said when
    /// the job is enqueued.
    payload: Result<Box<RawValue>, String>,
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<i32>,
    pub(crate) max_retries: Option<i32>,
    pub(crate) execute_at: Option<DateTime<Utc>>,
    pub(crate) unique_key: Option<String>,
    pub(crate) opts: Option<Value>,
}

impl NewJob {
    /// A job of this type with this payload, which must be a JSON object: `json!({…})`, a struct, or a
    /// [`RawValue`], whose text goes to Postgres as it is. [`Value`] rounds numbers of more than 64 bits and
    /// decimals to what an `f64` holds; the other two keep every digit, and so does Postgres.
    ///
    /// ```
    /// use rowlock::NewJob;
    /// use serde_json::value::RawValue;
    /// # fn f() -> Result<(), serde_json::Error> {
    /// let job = NewJob::new("pay", serde_json::json!({"cents": 1250}));
    /// let exact: Box<RawValue> = serde_json::from_str(r#"{"wei": 123456789012345678901234567890}"#)?;
    /// let job = NewJob::new("pay", exact);
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    pub fn new(job_type: impl Into<String>, payload: impl Serialize) -> Self {
        NewJob {
            job_type: job_type.into(),
            payload: serde_json::value::to_raw_value(&payload).map_err(|e| e.to_string()),
            queue: None,
            priority: None,
            max_retries: None,
            execute_at: None,
            unique_key: None,
            opts: None,
        }
    }

    pub(crate) fn payload(&self) -> Result<&RawValue, Error> {
        self.payload.as_deref().map_err(|why| Error::Json {
            what: "payload",
            source: <serde_json::Error as serde::ser::Error>::custom(why),
        })
    }

    /// The queue to wait in.
    ///
    /// ```
    /// let job = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).queue("slow");
    /// ```
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// −32768 to 32767, higher first.
    ///
    /// ```
    /// let urgent = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).priority(100);
    /// ```
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// How often it may be retried, 0 to 32767.
    ///
    /// ```
    /// let once = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).max_retries(0);
    /// ```
    pub fn max_retries(mut self, max_retries: i32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }

    /// Not before this time.
    ///
    /// ```
    /// let tomorrow = chrono::Utc::now() + chrono::Duration::days(1);
    /// let job = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).execute_at(tomorrow);
    /// ```
    pub fn execute_at(mut self, at: DateTime<Utc>) -> Self {
        self.execute_at = Some(at);
        self
    }

    /// At most one pending or running job has this key, 1 to 512 bytes.
    ///
    /// ```
    /// let job = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).unique_key("report-11");
    /// ```
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// `tags`, `headers`, `timeout_seconds`.
    ///
    /// ```
    /// let opts = serde_json::json!({"tags": ["monthly"], "timeout_seconds": 600});
    /// let job = rowlock::NewJob::new("report", serde_json::json!({"month": 11})).opts(opts);
    /// ```
    pub fn opts(mut self, opts: Value) -> Self {
        self.opts = Some(opts);
        self
    }
}
