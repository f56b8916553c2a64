//! The examples of the launch contract, run by the program itself as their README would have it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rowlock::{JobQueue, Status};
use serde_json::json;

use crate::{
    support::{Db, database},
    work::{job, program, result},
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/launch-contract");

/// Whether it can be run here. What was left out is said.
fn installed(command: &str) -> bool {
    let found = Command::new(command).arg(if command == "go" { "version" } else { "--version" }).output().is_ok();
    if !found {
        #[expect(clippy::print_stderr, reason = "a test that is left out must not look like one that passed")]
        {
            eprintln!("NOT TESTED: the examples in {command}, which is not installed");
        }
    }
    found
}

fn ends_well(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A copy, so that what is built does not lie about in the repository.
fn examples(to: &Path) {
    ends_well(Command::new("cp").args(["-R", &format!("{EXAMPLES}/."), to.to_str().unwrap()]));
}

async fn run_examples(db: &Db, dir: &Path, languages: &[&str]) {
    ends_well(program(db).args(["types", "apply", "-f", "types.yaml"]).current_dir(dir));
    let q = JobQueue::connect(&db.url).await.unwrap();
    let mut jobs = Vec::new();
    for language in languages {
        for name in [format!("sum_{language}"), format!("sum_{language}_resident")] {
            let sum = q.enqueue(&name, json!({"numbers": [1, 2, 39]})).await.unwrap().id;
            let wrong = q.enqueue(&name, json!({"numbers": "many"})).await.unwrap().id;
            let again = q.enqueue(&name, json!({"numbers": [-4, 4]})).await.unwrap().id;
            jobs.push((name, sum, wrong, again));
        }
    }
    ends_well(program(db).args(["worker", "--stop-when-empty", "--concurrency", "2"]).current_dir(dir));
    for (name, sum, wrong, again) in jobs {
        let (sum, wrong, again) = (job(&q, sum).await, job(&q, wrong).await, job(&q, again).await);
        assert_eq!(result(&sum), json!({"sum": 42}), "{name}");
        assert_eq!(sum.progress, Some(json!({"sum_so_far": 42})), "{name}");
        assert_eq!(result(&again), json!({"sum": 0}), "{name}");
        // Failed for good, in the first attempt.
        assert_eq!((wrong.status, wrong.attempts), (Status::Failed, 0), "{name}: {:?}", wrong.error);
        assert!(wrong.error.as_deref().is_some_and(|e| e.contains("numbers: expected")), "{name}: {:?}", wrong.error);
    }
}

#[tokio::test]
async fn the_examples_in_sh_do_as_the_contract_says() {
    let (db, dir) = (database().await, tempfile::tempdir().unwrap());
    examples(dir.path());
    run_examples(&db, dir.path(), &["sh"]).await;
}

#[tokio::test]
async fn the_examples_in_other_languages_do_too() {
    let (db, dir) = (database().await, tempfile::tempdir().unwrap());
    examples(dir.path());
    let mut languages = Vec::new();
    for (language, command) in [("python", "python3"), ("node", "node"), ("go", "go")] {
        if installed(command) {
            languages.push(language);
        }
    }
    if languages.contains(&"go") {
        for name in ["sum", "handler"] {
            let (to, from) = (format!("go/{name}"), format!("go/{name}.go"));
            ends_well(Command::new("go").args(["build", "-o", &to, &from]).current_dir(dir.path()));
        }
    }
    run_examples(&db, dir.path(), &languages).await;
}
