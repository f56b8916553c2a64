//! A worker Deployment's annotations as a type.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// Every annotation of Rowlock begins with this text.
pub const PREFIX: &str = "rowlock.dev/";

/// A ready job waits no longer than this where no annotation says otherwise.
pub const DEFAULT_TARGET_WAIT: Duration = Duration::from_secs(5);

/// The highest recent need holds this long where no annotation says otherwise.
pub const DEFAULT_SCALE_DOWN_DELAY: Duration = Duration::from_secs(60);

/// A replica has so many slots where neither an annotation nor a worker says.
pub const DEFAULT_SLOTS: u32 = 10;

/// The rule by which replicas follow from demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// There are so many replicas that a ready job waits no longer than this.
    TargetWait(Duration),
    /// There is one replica for so many pending and running jobs.
    JobsPerReplica(u32),
}

/// The settings of a Deployment, by its annotations.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The queues its workers serve.
    pub queues: Vec<String>,
    /// There are never fewer replicas.
    pub min_replicas: u32,
    /// There are never more.
    pub max_replicas: u32,
    /// A replica runs so many jobs at once; by default its workers report the number.
    pub slots: Option<u32>,
    /// The rule by which replicas follow from demand.
    pub rule: Rule,
    /// The highest recent need holds this long.
    pub scale_down_delay: Duration,
    /// The size is fixed, whatever the demand and the bounds.
    pub pin_replicas: Option<u32>,
    /// The controller decides and records, and does not act.
    pub dry_run: bool,
}

impl Limits {
    /// The default settings of a Deployment with these queues.
    pub fn new(queues: Vec<String>) -> Limits {
        Limits {
            queues,
            min_replicas: 0,
            max_replicas: 10,
            slots: None,
            rule: Rule::TargetWait(DEFAULT_TARGET_WAIT),
            scale_down_delay: DEFAULT_SCALE_DOWN_DELAY,
            pin_replicas: None,
            dry_run: false,
        }
    }

    /// Reads annotations; those of others are passed over.
    ///
    /// # Errors
    /// Every annotation that is wrong, with what was expected.
    ///
    /// # Example
    /// ```
    /// # use std::collections::BTreeMap;
    /// let mut annotations = BTreeMap::from([("rowlock.dev/queues".to_owned(), "mail,default".to_owned())]);
    /// assert_eq!(rowlock::controller::Limits::read(&annotations).unwrap().max_replicas, 10);
    /// annotations.insert("rowlock.dev/max-replicas".to_owned(), "many".to_owned());
    /// let error = rowlock::controller::Limits::read(&annotations).unwrap_err().to_string();
    /// assert!(error.starts_with("annotation rowlock.dev/max-replicas: expected a number"), "{error}");
    /// ```
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Limits, InvalidLimits> {
        let mut read = Reader { annotations, wrong: Vec::new() };
        let mut limits = Limits::new(read.get("queues", "the names of queues, separated by commas", queues));
        if limits.queues.is_empty() && read.wrong.is_empty() {
            read.refuse("queues", "the names of queues, separated by commas; it is required");
        }
        const COUNT: &str = "a number from 0 to 10000";
        limits.min_replicas = read.or("min-replicas", COUNT, number(0, 10_000), limits.min_replicas);
        limits.max_replicas = read.or("max-replicas", COUNT, number(0, 10_000), limits.max_replicas);
        if limits.min_replicas > limits.max_replicas && read.wrong.is_empty() {
            let max = limits.max_replicas;
            read.refuse("min-replicas", &format!("no more than max-replicas, which is {max}"));
        }
        limits.slots = read.get("slots", "a number from 1 to 10000", |v| number(1, 10_000)(v).map(Some));
        const WAIT: &str = "a time from 100ms to 1day, such as 5s";
        const DELAY: &str = "a time from 0s to 1day, such as 60s";
        let (wait, delay) = (duration(Duration::from_millis(100)), duration(Duration::ZERO));
        let wait = read.get("target-wait", WAIT, |v| wait(v).map(Some));
        let jobs = read.get("jobs-per-replica", "a number from 1 to 1000000", |v| number(1, 1_000_000)(v).map(Some));
        match (wait, jobs) {
            (Some(_), Some(_)) => {
                read.refuse("jobs-per-replica", "to be absent where target-wait is given, or the other way round")
            }
            (Some(wait), None) => limits.rule = Rule::TargetWait(wait),
            (None, Some(jobs)) => limits.rule = Rule::JobsPerReplica(jobs),
            (None, None) => {}
        }
        limits.scale_down_delay = read.or("scale-down-delay", DELAY, delay, limits.scale_down_delay);
        limits.pin_replicas = read.get("pin-replicas", COUNT, |v| number(0, 10_000)(v).map(Some));
        limits.dry_run = read.get("dry-run", "true or false", |v| v.parse().ok());
        read.refuse_unknown();
        if read.wrong.is_empty() { Ok(limits) } else { Err(InvalidLimits { annotations: read.wrong }) }
    }
}

/// One or more annotations are wrong: nothing is scaled until they are right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct InvalidLimits {
    /// The annotation, and what is wrong with it.
    pub annotations: Vec<(String, String)>,
}

impl fmt::Display for InvalidLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, wrong)) in self.annotations.iter().enumerate() {
            write!(f, "{}annotation {name}: {wrong}", if i == 0 { "" } else { "; " })?;
        }
        write!(f, ". Correct it; until then the replicas stay as they are")
    }
}

const KNOWN: [&str; 10] = [
    "queues",
    "min-replicas",
    "max-replicas",
    "slots",
    "target-wait",
    "jobs-per-replica",
    "scale-down-delay",
    "pin-replicas",
    "dry-run",
    "worker",
];

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    wrong: Vec<(String, String)>,
}

impl Reader<'_> {
    fn or<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>, default: T) -> T {
        self.get(name, expected, |v| parse(v).map(Some)).unwrap_or(default)
    }

    fn get<T: Default>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(value) = self.annotations.get(&format!("{PREFIX}{name}")) else { return T::default() };
        parse(value.trim()).unwrap_or_else(|| {
            self.refuse(name, &format!("{expected}, found {:?}", shorten(value)));
            T::default()
        })
    }

    fn refuse(&mut self, name: &str, expected: &str) {
        self.wrong.push((format!("{PREFIX}{name}"), format!("expected {expected}")));
    }

    /// A misspelt limit that is passed over would be a limit that does not hold.
    fn refuse_unknown(&mut self) {
        for name in self.annotations.keys().filter_map(|key| key.strip_prefix(PREFIX)) {
            if !KNOWN.contains(&name) {
                self.wrong
                    .push((format!("{PREFIX}{name}"), format!("unknown; expected one of {}", KNOWN[..9].join(", "))));
            }
        }
    }
}

fn queues(text: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return None;
        }
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

fn number(min: u32, max: u32) -> impl Fn(&str) -> Option<u32> {
    move |text| u32::from_str(text).ok().filter(|n| (min..=max).contains(n))
}

fn duration(min: Duration) -> impl Fn(&str) -> Option<Duration> {
    move |text| humantime::parse_duration(text).ok().filter(|d| (min..=Duration::from_secs(86_400)).contains(d))
}

/// An annotation may hold 256 KiB.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Limits, String> {
        let annotations = pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect();
        Limits::read(&annotations).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let limits = read(&[("queues", "mail, default,mail")]).unwrap();
        assert_eq!(limits, Limits::new(vec!["mail".into(), "default".into()]));
        assert_eq!((limits.min_replicas, limits.max_replicas), (0, 10));
        assert_eq!(limits.rule, Rule::TargetWait(Duration::from_secs(5)));
        assert_eq!(limits.scale_down_delay, Duration::from_secs(60));
    }

    #[test]
    fn every_annotation_is_read() {
        let mut all = vec![
            ("queues", "a"),
            ("min-replicas", "2"),
            ("max-replicas", "7"),
            ("slots", "3"),
            ("target-wait", "5s"),
            ("scale-down-delay", "2m"),
            ("pin-replicas", "4"),
            ("dry-run", "true"),
            ("worker", "true"),
        ];
        let limits = read(&all).unwrap();
        assert_eq!((limits.min_replicas, limits.max_replicas, limits.slots), (2, 7, Some(3)));
        assert_eq!(
            (limits.rule, limits.scale_down_delay),
            (Rule::TargetWait(Duration::from_secs(5)), Duration::from_secs(120))
        );
        assert_eq!((limits.pin_replicas, limits.dry_run), (Some(4), true));
        all[4] = ("jobs-per-replica", "100");
        assert_eq!(read(&all).unwrap().rule, Rule::JobsPerReplica(100));
    }

    #[test]
    fn an_error_names_the_annotation_and_what_was_expected() {
        for (pair, says) in [
            (("max-replicas", "-1"), "rowlock.dev/max-replicas: expected a number from 0 to 10000, found \"-1\""),
            (("min-replicas", "11"), "rowlock.dev/min-replicas: expected no more than max-replicas, which is 10"),
            (("slots", "0"), "rowlock.dev/slots: expected a number from 1 to 10000"),
            (("target-wait", "soon"), "rowlock.dev/target-wait: expected a time from 100ms"),
            (("target-wait", "1ms"), "rowlock.dev/target-wait: expected a time from 100ms"),
            (("scale-down-delay", "2days"), "rowlock.dev/scale-down-delay: expected a time"),
            (("dry-run", "yes"), "rowlock.dev/dry-run: expected true or false, found \"yes\""),
            (("max-replica", "3"), "rowlock.dev/max-replica: unknown; expected one of queues, min-replicas"),
        ] {
            let error = read(&[("queues", "a"), pair]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for queues in ["", "a,,b", "a\nb"] {
            assert!(read(&[("queues", queues)]).unwrap_err().contains("rowlock.dev/queues: expected the names"));
        }
        assert!(read(&[]).unwrap_err().contains("it is required"));
        let both = read(&[("queues", "a"), ("target-wait", "5s"), ("jobs-per-replica", "5")]).unwrap_err();
        assert!(both.contains("rowlock.dev/jobs-per-replica: expected to be absent where target-wait"), "{both}");
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let error = read(&[("slots", "x"), ("dry-run", "x")]).unwrap_err();
        assert!(["queues", "slots", "dry-run"].iter().all(|n| error.contains(&format!("rowlock.dev/{n}"))), "{error}");
    }
}
