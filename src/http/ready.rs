//! The checklist of `/readyz`.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::cache::LastReading;
use crate::{
    metrics::{Known, Reading},
    migrate::{self, MIGRATIONS},
};

/// A process without its periodic work for this time is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Check {
    pub good: bool,
    name: &'static str,
    detail: String,
}

/// Makes the checklist of a process.
pub(super) fn checks(look: &LastReading, known: &Known, now: Instant) -> Vec<Check> {
    let check = |name, good, detail: String| Check { good, name, detail };
    let database = match &look.reading {
        Ok(_) => check("database", true, "answers".into()),
        Err(why) => check("database", false, why.clone()),
    };
    let reading = look.reading.as_ref().ok();
    let schema = match reading.and_then(|r| r.one("schema")) {
        Some(version) if version as i32 >= newest() && reading.is_some_and(has_text) => {
            check("schema", true, format!("version {version}"))
        }
        Some(version) if version as i32 >= newest() => {
            check("schema", false, "its functions are of an earlier release; run rowlock migrate up".into())
        }
        Some(version) => {
            let detail = format!("version {version}, this program needs {}; run rowlock migrate up", newest());
            check("schema", false, detail)
        }
        None => check("schema", false, "unknown".into()),
    };
    let role = match known.leader {
        Some(true) => "leader",
        Some(false) => "follower",
        None => known.role,
    };
    let tick = match known.ticked.map(|at| now.saturating_duration_since(at)) {
        Some(age) if age < STUCK_AFTER => check("last tick", true, format!("{:.1} s ago", age.as_secs_f64())),
        Some(age) => {
            check("last tick", false, format!("{} s ago, expected within {}", age.as_secs(), STUCK_AFTER.as_secs()))
        }
        None => check("last tick", false, "none yet".into()),
    };
    let problem = known.problem.clone().map(|problem| check("work", false, problem));
    [database, schema, check("role", true, role.into()), tick].into_iter().chain(problem).collect()
}

/// Prints the checks as those of Kubernetes are printed.
pub(super) fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for c in checks {
        let _ = writeln!(text, "[{}] {}: {}", if c.good { '+' } else { '-' }, c.name, c.detail);
    }
    text.push_str(if checks.iter().all(|c| c.good) { "ready\n" } else { "not ready\n" });
    text
}

/// Whether the functions in the database are this program's, or a later one's.
fn has_text(reading: &Reading) -> bool {
    let text = reading.of("text").next();
    text.is_some_and(|t| t.label == migrate::text_digest() || t.value > migrate::release_number())
}

fn newest() -> i32 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Facts, Reading, Sample};

    fn seen(version: f64) -> LastReading {
        seen_with(version, &migrate::text_digest(), migrate::release_number())
    }

    fn seen_with(version: f64, digest: &str, release: f64) -> LastReading {
        let schema = Sample { what: "schema".into(), value: version, ..Sample::default() };
        let text = Sample { what: "text".into(), label: digest.into(), value: release, ..Sample::default() };
        LastReading::of(Ok(Reading::new(vec![schema, text])))
    }

    #[test]
    fn all_is_well_when_database_schema_and_tick_are() {
        let (facts, now) = (Facts::new("controller"), Instant::now());
        facts.set_leader(false);
        facts.tick(now);
        let checks = checks(&seen(newest().into()), &facts.known(), now + Duration::from_millis(400));
        let version = newest();
        assert_eq!(
            text(&checks),
            format!(
                "[+] database: answers\n[+] schema: version {version}\n[+] role: follower\n[+] last tick: 0.4 s \
                 ago\nready\n"
            )
        );
    }

    #[test]
    fn each_problem_is_named_with_what_to_do() {
        let (facts, now) = (Facts::new("worker"), Instant::now());
        let problem = |look: &LastReading, now| text(&checks(look, &facts.known(), now));
        assert!(problem(&seen(f64::from(newest()) - 1.0), now).contains(", this program needs"));
        assert!(problem(&LastReading::of(Err("gone".into())), now).contains("[-] database: gone\n[-] schema: unknown"));
        assert!(problem(&seen(newest().into()), now).ends_with("[-] last tick: none yet\nnot ready\n"));
        facts.tick(now);
        assert!(
            problem(&seen(newest().into()), now + STUCK_AFTER).contains("[-] last tick: 30 s ago, expected within 30")
        );
    }

    #[test]
    fn a_process_that_cannot_do_its_work_is_not_ready() {
        let (facts, now) = (Facts::new("controller"), Instant::now());
        facts.tick(now);
        facts.set_problem(Some("another release leads".into()));
        let list = text(&checks(&seen(newest().into()), &facts.known(), now));
        assert!(list.ends_with("[-] work: another release leads\nnot ready\n"), "{list}");
    }

    #[test]
    fn a_newer_schema_is_right_for_an_older_program() {
        let (facts, now) = (Facts::new("worker"), Instant::now());
        facts.tick(now);
        assert!(checks(&seen(f64::from(newest()) + 1.0), &facts.known(), now).iter().all(|c| c.good));
        let later = seen_with(newest().into(), "another", migrate::release_number() + 1.0);
        assert!(checks(&later, &facts.known(), now).iter().all(|c| c.good));
    }

    #[test]
    fn functions_of_an_earlier_release_are_not_ready() {
        let (facts, now) = (Facts::new("worker"), Instant::now());
        facts.tick(now);
        let earlier = seen_with(newest().into(), "another", migrate::release_number());
        assert!(text(&checks(&earlier, &facts.known(), now)).contains("[-] schema: its functions are of an earlier"));
    }
}
