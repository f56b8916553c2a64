//! Every LIMIT of the schema, with the reason why it cuts nothing off that was asked for.

use std::{collections::BTreeMap, path::Path};

/// By function or view: its LIMITs, in order, and why each of them is right.
const LIMITS: &[(&str, &[(&str, &str)])] = &[
    ("ensure_queue", &[("1", "any row of a queue's name will do")]),
    (
        "wake",
        &[
            ("v_most", "sleepers of this queue only, one for each job; a hundred that are awake take the rest"),
            ("v_most", "the same of those that are taken already"),
        ],
    ),
    ("batch_pairs", &[("1", "any row of a queue's name will do")]),
    ("enqueue_many", &[("1", "the first element that is wrong"), ("1", "the first key that is wrong")]),
    (
        "work_v1",
        &[
            ("1", "the hint of one lane"),
            ("work_v1.max", "of one lane; rows that others have locked do not count"),
            ("work_v1.max", "what was asked for"),
        ],
    ),
    ("queues", &[("1", "the first of each lane")]),
    ("list_running", &[("max", "what was asked for, filtered and in order")]),
    (
        "list_ready",
        &[("max", "of each lane, filtered and in order"), ("max", "of the lanes together, what was asked for")],
    ),
    ("list_scheduled", &[("max", "what was asked for, filtered and in order")]),
    ("list_ended", &[("max", "of each status, filtered and in order"), ("max", "what was asked for")]),
    (
        "late_position",
        &[
            ("256", "a guess; if it misses, the place is searched for by halves"),
            ("1", "the newest of those that were due by then"),
            ("1", "the first from here on"),
            ("1", "the first behind"),
        ],
    ),
    (
        "promote",
        &[
            (
                "promote.max",
                "the first that are due; rows that others have locked do not count; the next round goes on",
            ),
            ("1", "the newest of one lane"),
        ],
    ),
    ("rescue", &[("rescue.max", "of one worker; rows that others have locked do not count; the next round goes on")]),
    ("sweep", &[("1", "one hop along the index"), ("1", "one hop along the index")]),
    ("next_due", &[("1", "the first")]),
    (
        "observe_lanes",
        &[
            ("1", "the hint of one lane"),
            (
                "50",
                "of each lane, the first; a type behind them is younger than the last, and last_age_seconds says so",
            ),
        ],
    ),
    ("observe_v1", &[("1000", "of each queue, the first within seconds: more than any order of replicas needs")]),
    ("subscribe_queues_v1", &[("1", "the first name that is wrong")]),
    ("record_decisions_v1", &[("10", "old rows; each call deletes more than it adds")]),
    ("put_schedule", &[("1", "the first key that is wrong")]),
    (
        "due_schedules_v1",
        &[("500", "the first that are due, without those that the caller skips; it asks again at once")],
    ),
    ("env_problem", &[("1", "the first that is wrong")]),
    ("backoff_problem", &[("1", "the first that is wrong")]),
    ("job_type_key_problem", &[("1", "the first that is wrong")]),
    (
        "checked_job_type",
        &[("1", "the first that is wrong"), ("1", "the first that is wrong"), ("1", "the first that is wrong")],
    ),
    ("metrics_queues", &[("1", "the hint of one lane"), ("1", "the first of each lane")]),
];

/// The LIMITs of a text, by the function or view in which they stand.
fn limits(text: &str, found: &mut BTreeMap<String, Vec<String>>) {
    let mut name = String::new();
    for line in text.lines() {
        let line = line.split("--").next().unwrap();
        for kind in ["CREATE OR REPLACE FUNCTION rowlock.", "CREATE OR REPLACE VIEW rowlock."] {
            if let Some(rest) = line.strip_prefix(kind) {
                name = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            }
        }
        for rest in line.split("LIMIT ").skip(1) {
            let bound: String = rest.chars().take_while(|c| c.is_alphanumeric() || "._".contains(*c)).collect();
            found.entry(name.clone()).or_default().push(bound);
        }
    }
}

#[test]
fn every_bound_of_the_schema_has_a_reason_why_it_cuts_nothing_off() {
    let mut found = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")).unwrap().collect();
    files.sort_by_key(|f| f.as_ref().unwrap().path());
    for file in files {
        limits(&std::fs::read_to_string(file.unwrap().path()).unwrap(), &mut found);
    }
    let known: BTreeMap<String, Vec<String>> = LIMITS
        .iter()
        .map(|(name, limits)| ((*name).to_owned(), limits.iter().map(|(bound, _)| (*bound).to_owned()).collect()))
        .collect();
    assert_eq!(found, known, "a bound is applied after every filter: say in this table why a new one is right");
    assert!(LIMITS.iter().flat_map(|(_, limits)| *limits).all(|(_, reason)| !reason.is_empty()));
}
