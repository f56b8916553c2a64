//! The catalogue: job types and schedules as a YAML file has them, checked and loaded. Each mistake has its line.
//!
//! - `job_type`: one `JobType` for the file, for the row and for the worker. `schedule`: jobs by the clock.
//! - `fields`: values that are checked while they are read. `pod_keys`: whether Kubernetes knows a key.
//!
//! A new key of a job type is written in three places: as a column (the table, its view, `put_job_type` and
//! `job_types_v1`), as a field of `JobType`, and in the docs (`docs/cli.md`). `tests/cases/job_types.json` holds
//! the file's checks against those of the database.

mod entry;
mod fields;
pub(crate) mod job_type;
mod pod_keys;
mod schedule;

use serde::Deserialize;
use serde_saphyr::Spanned;
use tokio_postgres::types::Type;

use self::entry::Entry;
pub use self::job_type::LaunchKind;
pub(crate) use self::{
    job_type::{EnvValue, JobType, OnLostLease},
    schedule::Schedule,
};
use crate::{Error, JobQueue};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    types: Option<Vec<Spanned<JobType>>>,
    schedules: Option<Vec<Spanned<Schedule>>>,
}

/// The content of a file.
#[derive(Default)]
pub(crate) struct Catalog {
    pub types: Vec<JobType>,
    pub schedules: Vec<Schedule>,
}

/// Reads and checks the text of a file.
///
/// # Errors
/// The first mistake, with its line and its key.
pub(crate) fn parse(text: &str) -> Result<Catalog, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| {
        let text = e.to_string();
        text.strip_prefix("error: ").map_or(text.clone(), ToOwned::to_owned)
    })?;
    Ok(Catalog {
        types: checked(file.types.unwrap_or_default())?,
        schedules: checked(file.schedules.unwrap_or_default())?,
    })
}

fn checked<T: Entry>(list: Vec<Spanned<T>>) -> Result<Vec<T>, String> {
    let mut entries: Vec<T> = Vec::new();
    for Spanned { value: entry, referenced: at, .. } in list {
        let place = || format!("line {}: {} {}", at.line(), T::WORD, entry.name());
        entry.check().map_err(|e| format!("{}: {e}", place()))?;
        if entries.iter().any(|other| other.name() == entry.name()) {
            return Err(format!("{} is there twice", place()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Loads types and schedules, all or none.
///
/// # Errors
/// The database's refusal, with the name of the type or the schedule.
pub(crate) async fn apply(queue: &JobQueue, types: &[JobType], schedules: &[Schedule]) -> anyhow::Result<()> {
    let types = types.iter().map(|t| ("SELECT rowlock.put_job_type($1)", t.row(), format!("type {}", t.name)));
    let schedules =
        schedules.iter().map(|s| ("SELECT rowlock.put_schedule($1)", s.row(), format!("schedule {}", s.name())));
    let mut client = queue.pool().get().await.map_err(Error::from)?;
    let tx = client.transaction().await.map_err(Error::from)?;
    // For each statement: whoever waits for a file to be loaded may have gone.
    tx.batch_execute("SET LOCAL statement_timeout = '60s'").await.map_err(Error::from)?;
    for (sql, row, entry) in types.chain(schedules) {
        tx.query_typed(sql, &[(&row, Type::JSONB)])
            .await
            .map_err(|e| anyhow::Error::from(Error::from(e)).context(entry))?;
    }
    Ok(tx.commit().await.map_err(Error::from)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        entry: Value,
        problem: Option<String>,
    }

    /// `put_job_type` runs on the same cases (`tests/it`): neither door lets in what the other refuses.
    #[test]
    fn the_file_refuses_the_cases_that_the_database_refuses_and_names_the_key() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/cases/job_types.json")).unwrap();
        for Case { entry, problem } in cases {
            let file = serde_json::json!({"types": [entry]}).to_string();
            match (parse(&file), problem) {
                (Ok(_), None) => {}
                (Err(said), Some(key)) => assert!(said.contains(&key), "{entry} has to name {key}: {said}"),
                (Ok(_), Some(key)) => panic!("{entry} was let in; expected a word about {key}"),
                (Err(said), None) => panic!("{entry} was refused: {said}"),
            }
        }
    }

    #[test]
    fn mistakes_name_the_key_and_the_line() {
        for (text, line, want) in [
            ("types:\n  - name: a\n    command: [x]\n    tiemout: 1s\n", "line 4", "tiemout"),
            ("types:\n  - name: a\n    command: [x]\n    timeout: soon\n", "line 4", "timeout: expected"),
            ("types:\n  - name: a\n    command: [x]\n    rate: 100/s\n", "line 4", "rate: not enforced yet"),
            ("types:\n  - name: a\n    max_concurrency: 1\n", "line 3", "max_concurrency: not enforced yet"),
            ("types:\n  - name: a\n    command: [x]\n    backoff:\n      jitter: 2\n", "line 5", "jitter"),
            ("types:\n  - name: a\n    command: [x]\n    env:\n      PORT: 80\n", "line 5", "in quotes"),
            ("types:\n  - name: a\n    command: [x]\n    payload_schema: {type: 3}\n", "line 4", "payload_schema"),
            ("types:\n  - name: a\n    command: [x]\n    keep: {failed: 9000d}\n", "line 4", "keep.failed"),
            ("types:\n  - name: ''\n    command: [x]\n", "line 2", "printable"),
            ("types:\n  - name: a\n    command: [x]\n    image: b\n", "line 2", "image: only with launch: pod"),
            ("types:\n  - name: a\n    launch: pod\n    command: [x]\n", "line 2", "image: launch: pod needs one"),
            ("types:\n  - name: a\n    launch: thread\n", "line 3", "launch: expected process, resident or pod"),
            (
                "types:\n  - name: a\n    launch: pod\n    image: i\n    command: [x]\n    resources: {limit: \
                 {memory: 1Gi}}\n",
                "line 2",
                "resources.limit: Kubernetes knows no such key",
            ),
            (
                "types:\n  - name: a\n    launch: pod\n    image: i\n    command: [x]\n    pod_template: {spec: \
                 {containers: [{name: job, imige: x}]}}\n",
                "line 2",
                "pod_template.spec.containers[0].imige",
            ),
            (
                "types:\n  - name: a\n    command: [x]\n    env: {A: {from_secret: {name: s, key: k}}}\n",
                "line 2",
                "from_secret",
            ),
            ("types:\n  - {name: a, command: [x]}\n  - {name: a, command: [x]}\n", "line 3", "twice"),
            ("schedules:\n  - {name: a, type: t, cron: 61 * * * *}\n", "line 2", "schedule a: cron: expected five"),
            ("schedules:\n  - {name: a, type: t}\n", "line 2", "cron, every: expected one of the two"),
            ("schedules:\n  - {name: a, type: t, every: 1s, timezone: UTC}\n", "line 2", "timezone: only with cron"),
            ("schedules:\n  - {name: a, type: t, every: 1ms}\n", "line 2", "every: expected 1 second to 366 days"),
            ("schedules:\n  - name: a\n    type: t\n    cron: '@daily'\n    catch_up: some\n", "line 5", "some"),
            ("schedules:\n  - {name: a, type: t, cron: '@daily', timezone: Here}\n", "line 2", "timezone: expected"),
            ("schedules:\n  - {name: a, type: t, every: 1s}\n  - {name: a, type: t, every: 1s}\n", "line 3", "twice"),
        ] {
            let got = parse(text).map(drop).unwrap_err();
            assert!(got.contains(line) && got.contains(want), "{text}: {got}");
        }
    }

    #[test]
    fn a_number_is_a_duration_in_seconds_and_so_is_it_in_quotes() {
        for every in ["300", "'300'", "5m", "300.0", "300s", "5 minutes"] {
            let row = parse(&format!("schedules:\n  - {{name: a, type: t, every: {every}}}\n")).unwrap();
            assert_eq!(row.schedules[0].row()["every"], "300 seconds", "{every}");
        }
    }
}
