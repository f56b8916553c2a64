//! The figures of the database, by one call of `rowlock.metrics_v1`.

use std::collections::BTreeMap;

use tokio_postgres::{
    GenericClient, Row,
    types::{ToSql, Type},
};

use crate::{Error, hints::HintArgs};

/// One answer of the database.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    samples: Vec<Sample>,
}

/// One row of the answer. Fields that do not apply are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The figure's name, as `rowlock.metrics_v1` has it.
    pub what: String,
    /// The queue, or the Deployment of a figure that begins with `scaler_`.
    pub queue: String,
    /// The type.
    pub job_type: String,
    /// Status, reason, or the number of a bucket.
    pub label: String,
    /// The value.
    pub value: f64,
}

/// Jobs of one queue and type by how long they took.
pub(super) struct Histogram<'a> {
    pub queue: &'a str,
    pub job_type: &'a str,
    /// Upper bounds and the jobs in each, not added up; the last is infinite.
    pub buckets: Vec<(f64, f64)>,
    /// The sum of all times.
    pub seconds: f64,
}

impl Reading {
    /// Reads all figures.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::Schema`] before `migrate`.
    ///
    /// ```no_run
    /// # async fn f(client: &tokio_postgres::Client) -> Result<(), rowlock::Error> {
    /// let reading = rowlock::metrics::Reading::read(client).await?;
    /// assert!(reading.one("schema").is_some());
    /// # Ok(()) }
    /// ```
    pub async fn read(client: &impl GenericClient) -> Result<Reading, Error> {
        Reading::from_rows(&client.query_typed(Reading::SQL, &Reading::args(&HintArgs::default())).await?)
    }

    pub(crate) const SQL: &str = "SELECT what, coalesce(queue, ''), coalesce(type, ''), coalesce(label, ''), value
         FROM rowlock.metrics_v1($1, $2, $3)";

    /// The arguments of [`Reading::SQL`], for a caller who reads again and again and remembers the first jobs' places.
    pub(crate) fn args(hints: &HintArgs) -> [(&(dyn ToSql + Sync), Type); 3] {
        [(&hints.queues, Type::INT4_ARRAY), (&hints.ranks, Type::INT2_ARRAY), (&hints.after, Type::INT8_ARRAY)]
    }

    /// The answer to [`Reading::SQL`].
    pub(crate) fn from_rows(rows: &[Row]) -> Result<Reading, Error> {
        let sample = |row: &Row| -> Result<Sample, Error> {
            Ok(Sample {
                what: row.try_get(0)?,
                queue: row.try_get(1)?,
                job_type: row.try_get(2)?,
                label: row.try_get(3)?,
                value: row.try_get(4)?,
            })
        };
        Ok(Reading::new(rows.iter().map(sample).collect::<Result<_, _>>()?))
    }

    /// A reading of these samples, put in order: the exposition must not depend on a query plan.
    ///
    /// ```
    /// use rowlock::metrics::{Reading, Sample};
    /// let schema = Sample { what: "schema".into(), value: 8.0, ..Sample::default() };
    /// assert_eq!(Reading::new(vec![schema]).one("schema"), Some(8.0));
    /// ```
    pub fn new(mut samples: Vec<Sample>) -> Reading {
        let key = |s: &Sample| (s.what.clone(), s.queue.clone(), s.job_type.clone(), s.label.clone());
        samples.sort_by(|a, b| key(a).cmp(&key(b)).then(a.value.total_cmp(&b.value)));
        Reading { samples }
    }

    /// The one figure of this name.
    ///
    /// ```
    /// assert_eq!(rowlock::metrics::Reading::default().one("schema"), None);
    /// ```
    pub fn one(&self, what: &str) -> Option<f64> {
        self.of(what).next().map(|s| s.value)
    }

    /// The position up to which each lane was searched: queue, rank, position.
    pub(crate) fn searched(&self) -> impl Iterator<Item = (i32, i16, i64)> {
        self.of("searched").filter_map(|s| Some((s.queue.parse().ok()?, s.label.parse().ok()?, s.value as i64)))
    }

    pub(crate) fn of(&self, what: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| s.what == what)
    }

    pub(super) fn histograms<'a>(&'a self, what: &str) -> impl Iterator<Item = Histogram<'a>> {
        let bounds: Vec<f64> = self.of("bound").map(|s| s.value).chain([f64::INFINITY]).collect();
        let mut all: BTreeMap<(&str, &str), Histogram<'a>> = BTreeMap::new();
        let sums = format!("{what}_seconds");
        for s in self.samples.iter().filter(|s| s.what == what || s.what == sums) {
            let (queue, job_type) = (s.queue.as_str(), s.job_type.as_str());
            let histogram = all.entry((queue, job_type)).or_insert_with(|| Histogram {
                queue,
                job_type,
                buckets: bounds.iter().map(|b| (*b, 0.0)).collect(),
                seconds: 0.0,
            });
            if s.what == sums {
                histogram.seconds = to_microseconds(s.value);
            } else if let Some(bucket) = s.label.parse().ok().and_then(|n: usize| histogram.buckets.get_mut(n)) {
                bucket.1 = s.value;
            }
        }
        all.into_values()
    }
}

/// Times are summed in whole microseconds, but as floats: folding sums adds them in another order, and a total
/// that goes back by its last digit is a restart to Prometheus.
fn to_microseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
