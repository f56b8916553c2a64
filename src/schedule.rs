//! The ticks of a schedule. Pure: an instant in, the next one out.
//!
//! Cron is read by the clock on the wall of its time zone. Where that clock is changed:
//! - **A time of day that is skipped** (`30 2 * * *`) runs at the first instant after the gap.
//! - **A time of day that comes twice** runs the first time.
//! - **A schedule of every hour** (`*` in its hours: `*/10 * * * *`) follows the time that passes: it knows no
//!   skipped hour and runs in both of two equal ones, so that it never rests for an hour.

use std::time::Duration;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// A tick that is later than this has been missed, and `skip` skips it.
const MISSED_AFTER: TimeDelta = TimeDelta::seconds(60);
/// `all` catches up on so many ticks, the latest ones.
const MAX_CATCH_UP: usize = 1000;
/// A search ends after so many steps. Changes of the clock are hours apart at least, and each costs a step.
const MAX_STEPS: usize = 64;

/// The times at which jobs are to be enqueued.
#[derive(Debug, Clone)]
pub struct Schedule(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Cron {
        cron: Box<Cron>,
        zone: Tz,
        every_hour: bool,
    },
    /// The ticks are the multiples of the interval since 1970, so it needs no beginning.
    Every(TimeDelta),
}

/// The fate of ticks that no leader was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// No tick runs that is late by more than a minute.
    Skip,
    /// Only the latest tick runs.
    One,
    /// Each tick runs, up to the latest thousand.
    All,
}

impl Schedule {
    /// Reads a cron expression: five fields, or six with seconds first, or `@hourly` and the like.
    ///
    /// # Errors
    /// A sentence about the expression or the zone, with what was expected.
    ///
    /// # Example
    /// ```
    /// use rowlock::schedule::Schedule;
    /// let daily = Schedule::cron("30 2 * * *", "Europe/Berlin").unwrap();
    /// let after = "2026-03-29T00:00:00Z".parse().unwrap();
    /// // There is no 02:30 on that day: the clock goes from 02:00 to 03:00, which is 01:00 UTC.
    /// assert_eq!(daily.next(after).unwrap().to_rfc3339(), "2026-03-29T01:00:00+00:00");
    /// assert!(Schedule::cron("61 * * * *", "UTC").is_err());
    /// ```
    pub fn cron(expression: &str, zone: &str) -> Result<Schedule, String> {
        let zone: Tz = zone
            .parse()
            .map_err(|_| format!("timezone: expected a name such as UTC or Europe/Berlin, got {}", short(zone)))?;
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|e| {
            let hint = "expected five fields such as 30 2 * * *, or six with seconds first";
            format!("cron: {hint}, got {}: {e}", short(expression))
        })?;
        let schedule = Schedule(Rule::Cron { cron: Box::new(cron), zone, every_hour: every_hour(expression) });
        match schedule.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(format!("cron: no day fits {}", short(expression))),
        }
    }

    /// Makes a schedule of an interval, on multiples of it since 1970 (UTC): `5m` is at :00, :05, …
    ///
    /// # Errors
    /// If the interval is below a second or above 366 days.
    ///
    /// # Example
    /// ```
    /// use std::time::Duration;
    /// use rowlock::schedule::Schedule;
    /// let schedule = Schedule::every(Duration::from_secs(300)).unwrap();
    /// let after = "2026-01-01T00:03:00Z".parse().unwrap();
    /// assert_eq!(schedule.next(after).unwrap().to_rfc3339(), "2026-01-01T00:05:00+00:00");
    /// ```
    pub fn every(every: Duration) -> Result<Schedule, String> {
        let wrong = || format!("every: expected 1 second to 366 days, got {every:?}");
        if !(1..=366 * 86_400).contains(&every.as_secs()) {
            return Err(wrong());
        }
        TimeDelta::from_std(every).map(|every| Schedule(Rule::Every(every))).map_err(|_| wrong())
    }

    /// The first tick after an instant; none if there are no more.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Rule::Every(every) => {
                let (every, since) = (every.num_milliseconds(), after.timestamp_millis());
                DateTime::from_timestamp_millis(since.div_euclid(every).checked_add(1)?.checked_mul(every)?)
            }
            Rule::Cron { cron, zone, every_hour: true } => by_passing_time(cron, *zone, after),
            Rule::Cron { cron, zone, every_hour: false } => by_time_of_day(cron, *zone, after),
        }
    }

    /// The ticks from `due` to `now` that are to run, oldest first.
    pub fn due(&self, due: DateTime<Utc>, now: DateTime<Utc>, catch_up: CatchUp) -> Vec<DateTime<Utc>> {
        let keep = if catch_up == CatchUp::All { MAX_CATCH_UP } else { 1 };
        let first = self.first_worth_looking_at(due, now, keep);
        let mut ticks = std::collections::VecDeque::new();
        let mut tick = Some(first);
        while let Some(at) = tick.filter(|at| *at <= now) {
            if ticks.len() == keep {
                ticks.pop_front();
            }
            ticks.push_back(at);
            tick = self.next(at);
        }
        ticks.retain(|at| catch_up != CatchUp::Skip || now - *at <= MISSED_AFTER);
        ticks.into()
    }

    /// The first tick that can matter: after years of absence, a schedule of every second is not walked from its start.
    fn first_worth_looking_at(&self, due: DateTime<Utc>, now: DateTime<Utc>, keep: usize) -> DateTime<Utc> {
        let mut back = TimeDelta::seconds(2);
        while now - back > due {
            if let Some(first) = self.next(now - back) {
                let mut at = Some(first);
                let seen = std::iter::from_fn(|| {
                    let this = at.filter(|t| *t <= now)?;
                    at = self.next(this);
                    Some(this)
                });
                if seen.take(keep).count() == keep {
                    return first.max(due);
                }
            }
            back = back * 2;
        }
        due
    }
}

/// Whether the field for hours names no hour, so that the schedule follows the passing time.
fn every_hour(expression: &str) -> bool {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    match fields[..] {
        [nickname] => nickname.eq_ignore_ascii_case("@hourly"),
        [.., hours, _, _, _] => hours.starts_with(['*', '?']),
        _ => false,
    }
}

/// The next match on a clock that is never changed.
fn on_the_wall(cron: &Cron, after: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
    cron.find_next_occurrence(&after.and_utc(), inclusive).ok().map(|at| at.naive_utc())
}

fn by_time_of_day(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut wall = after.with_timezone(&zone).naive_local();
    for _ in 0..MAX_STEPS {
        wall = on_the_wall(cron, wall, false)?;
        let at = match zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.to_utc(),
            MappedLocalTime::None => after_gap(zone, wall)?,
        };
        // In the second of two equal hours the ticks of the first are over, and so are those of a gap.
        if at > after {
            return Some(at);
        }
    }
    None
}

fn by_passing_time(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (mut from, mut inclusive) = (after, false);
    for _ in 0..MAX_STEPS {
        let offset = zone.offset_from_utc_datetime(&from.naive_utc()).fix();
        let wall = on_the_wall(cron, from.naive_utc() + offset, inclusive)?;
        let at = (wall - offset).and_utc();
        match first_change(zone, from, at) {
            None => return Some(at),
            Some(change) => (from, inclusive) = (change, true),
        }
    }
    None
}

/// The first instant after `from`, up to `to`, at which the clock is another; none if it is the same throughout.
fn first_change(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let before = offset(from);
    // Days, so that there and back again is not taken for no change.
    let mut last = from;
    while last < to {
        let next = (last + TimeDelta::days(1)).min(to);
        if offset(next) != before {
            let (mut same, mut other) = (last.timestamp(), next.timestamp());
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if DateTime::from_timestamp(middle, 0).is_some_and(|at| offset(at) == before) {
                    same = middle;
                } else {
                    other = middle;
                }
            }
            return DateTime::from_timestamp(other, 0);
        }
        last = next;
    }
    None
}

/// The first instant after the gap that a time of day falls into.
fn after_gap(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    // No zone is further from UTC than a day, nor was a gap ever longer.
    first_change(zone, (wall - TimeDelta::days(2)).and_utc(), (wall + TimeDelta::days(2)).and_utc()).and_then(|first| {
        let mut change = first;
        loop {
            if change.with_timezone(&zone).naive_local() > wall {
                return Some(change);
            }
            change = first_change(zone, change, (wall + TimeDelta::days(2)).and_utc())?;
        }
    })
}

/// The beginning of an expression, which may be long.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

impl CatchUp {
    /// The setting of this name in the catalogue; `one` for any other name, which the database does not store.
    pub(crate) fn named(name: &str) -> CatchUp {
        match name {
            "skip" => CatchUp::Skip,
            "all" => CatchUp::All,
            _ => CatchUp::One,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The ticks after an instant, as many as are expected.
    fn ticks(expression: &str, zone: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::cron(expression, zone).unwrap();
        let mut last = at(after);
        for want in expected {
            let next = schedule.next(last).unwrap();
            assert_eq!(next, at(want), "{expression} in {zone} after {last}");
            last = next;
        }
    }

    /// Zone, expression, after, ticks. All instants were worked out by hand from the zones' rules.
    const CHANGES: &[(&str, &str, &str, &[&str])] = &[
        // Berlin loses 02:00 to 03:00 on 29 March 2026 (at 01:00Z), and has it twice on 25 October (01:00Z).
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-03-28T01:00:00Z",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        ("Europe/Berlin", "0 3 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]),
        // Two times of day in one gap are one tick.
        (
            "Europe/Berlin",
            "0,30 2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        (
            "Europe/Berlin",
            "0,30 2 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"],
        ),
        // From within the second 02:xx, the first one's are over.
        ("Europe/Berlin", "45 2 * * *", "2026-10-25T01:10:00Z", &["2026-10-26T01:45:00Z"]),
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-03-29T00:15:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        ),
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-10-25T00:15:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        ),
        ("Europe/Berlin", "30 * * * *", "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]),
        // Seconds, at the gap's very edge.
        ("Europe/Berlin", "59 59 1 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T00:59:59Z"]),
        (
            "Europe/Berlin",
            "*/20 * * * * *",
            "2026-03-29T00:59:30Z",
            &["2026-03-29T00:59:40Z", "2026-03-29T01:00:00Z", "2026-03-29T01:00:20Z"],
        ),
        // New York: 8 March 2026 at 07:00Z, 1 November at 06:00Z.
        ("America/New_York", "15 2 * * SUN", "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-15T06:15:00Z"]),
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00:00Z", &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]),
        (
            "America/New_York",
            "0 * * * *",
            "2026-11-01T04:30:00Z",
            &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"],
        ),
        // Lord Howe Island changes by half an hour: 4 October 2026 02:00 to 02:30 (15:30Z the day before), and
        // back on 5 April 02:00 to 01:30 (15:00Z the day before).
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        // Midnight is what Beirut skips: 29 March 2026 begins at 01:00 (28 March 22:00Z).
        ("Asia/Beirut", "0 0 * * *", "2026-03-28T00:00:00Z", &["2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"]),
        // Samoa left out the whole of 30 December 2011.
        (
            "Pacific/Apia",
            "0 12 * * *",
            "2011-12-29T12:00:00Z",
            &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
        ),
        // No change at all.
        ("Asia/Kolkata", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-28T21:00:00Z", "2026-03-29T21:00:00Z"]),
        ("UTC", "30 2 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-29T02:30:00Z", "2032-02-29T02:30:00Z"]),
        ("Europe/London", "@hourly", "2026-10-25T00:10:00Z", &["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"]),
        ("Europe/London", "@daily", "2026-03-28T12:00:00Z", &["2026-03-29T00:00:00Z", "2026-03-29T23:00:00Z"]),
    ];

    #[test]
    fn ticks_where_the_clock_is_changed() {
        for (zone, expression, after, expected) in CHANGES {
            ticks(expression, zone, after, expected);
        }
    }

    #[test]
    fn the_next_tick_is_later_and_nothing_is_between() {
        for expression in ["30 2 * * *", "*/7 * * * *", "0 */5 1-3 * * *", "15 0,2,23 * * *"] {
            for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
                let schedule = Schedule::cron(expression, zone).unwrap();
                // Steps that meet every minute of the hours around a change sooner or later.
                let mut from = at("2026-03-27T00:00:00Z");
                while from < at("2026-03-31T00:00:00Z") {
                    let next = schedule.next(from).unwrap();
                    assert!(next > from);
                    let between = from + (next - from) / 2;
                    assert_eq!(schedule.next(between).unwrap(), next, "{expression} in {zone} from {between}");
                    from += TimeDelta::minutes(13);
                }
            }
        }
    }

    #[test]
    fn an_interval_is_on_multiples_of_itself() {
        let every = |seconds| Schedule::every(Duration::from_secs(seconds)).unwrap();
        assert_eq!(every(1).next(at("2026-01-01T00:00:00.5Z")).unwrap(), at("2026-01-01T00:00:01Z"));
        assert_eq!(every(3600).next(at("2026-01-01T00:00:00Z")).unwrap(), at("2026-01-01T01:00:00Z"));
        assert!(Schedule::every(Duration::from_millis(999)).is_err());
        assert!(Schedule::every(Duration::from_secs(367 * 86_400)).is_err());
    }

    #[test]
    fn after_a_rest_skip_one_and_all_run_as_many_as_they_say() {
        let minutely = Schedule::cron("* * * * *", "UTC").unwrap();
        let (due, now) = (at("2026-01-01T00:01:00Z"), at("2026-01-01T00:10:30Z"));
        let all: Vec<_> = (1..=10).map(|m| at("2026-01-01T00:00:00Z") + TimeDelta::minutes(m)).collect();
        assert_eq!(minutely.due(due, now, CatchUp::All), all);
        assert_eq!(minutely.due(due, now, CatchUp::One), all[9..]);
        assert_eq!(minutely.due(due, now, CatchUp::Skip), all[9..], "it is late by half a minute, as may be");
        let daily = Schedule::cron("0 0 * * *", "UTC").unwrap();
        let due = at("2026-01-01T00:00:00Z");
        assert!(daily.due(due, now, CatchUp::Skip).is_empty());
        assert_eq!(daily.due(due, now, CatchUp::One), [due]);
        assert!(daily.due(due, at("2025-12-31T23:59:59Z"), CatchUp::All).is_empty());
    }

    #[test]
    fn years_of_a_schedule_of_every_second_are_caught_up_in_no_time() {
        let every_second = Schedule::every(Duration::from_secs(1)).unwrap();
        let now = at("2026-01-01T00:00:00Z");
        let started = std::time::Instant::now();
        let ticks = every_second.due(at("2000-01-01T00:00:00Z"), now, CatchUp::All);
        assert_eq!((ticks.len(), ticks[999], ticks[0]), (1000, now, now - TimeDelta::seconds(999)));
        assert_eq!(every_second.due(at("2000-01-01T00:00:00Z"), now, CatchUp::One), [now]);
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (expression, zone, says) in [
            ("* * * *", "UTC", "cron: expected five fields"),
            ("* * * * * * 2030", "UTC", "cron: expected five fields"),
            ("60 * * * *", "UTC", "cron: expected five fields"),
            ("0 0 30 2 *", "UTC", "cron: no day fits"),
            ("", "UTC", "cron: expected five fields"),
            ("0 0 * * *", "Mars/Olympus", "timezone: expected a name"),
        ] {
            let error = Schedule::cron(expression, zone).unwrap_err();
            assert!(error.starts_with(says), "{expression}: {error}");
        }
    }
}
