//! The form of the exposition: families of samples with their labels.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Line, MetricFamily, MetricType};

/// A metric's name, its kind and its help.
pub struct Metric {
    /// As Prometheus knows it; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricType::GAUGE, help }
}

pub(super) const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricType::COUNTER, help }
}

pub(super) const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricType::HISTOGRAM, help }
}

/// The samples of one metric.
pub(super) struct Family<'a> {
    metric: &'a Metric,
    lines: Vec<Line>,
}

impl Family<'_> {
    pub(super) fn of(metric: &Metric) -> Family<'_> {
        Family { metric, lines: Vec::new() }
    }

    /// A sample of a gauge or a counter. A label without a name is left out.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut line = Line::from_label(pairs(labels));
        if self.metric.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            line.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            line.set_gauge(gauge);
        }
        self.lines.push(line);
    }

    /// A histogram: the number in each bucket, with the upper bound of the bucket; the last has none.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], buckets: &[(f64, f64)], sum: f64) {
        let mut so_far = 0.0;
        let mut lines = Vec::new();
        for (bound, n) in buckets {
            so_far += n;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(so_far as u64);
            if bound.is_finite() {
                lines.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(lines);
        histogram.set_sample_count(so_far as u64);
        histogram.set_sample_sum(sum);
        let mut line = Line::from_label(pairs(labels));
        line.set_histogram(histogram);
        self.lines.push(line);
    }

    /// The finished family; none without a sample, since an empty family is an error to the encoder.
    pub(super) fn done(self) -> Option<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(self.metric.kind);
        let any = !self.lines.is_empty();
        family.set_metric(self.lines);
        any.then_some(family)
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let named = labels.iter().filter(|(name, _)| !name.is_empty());
    named
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}
