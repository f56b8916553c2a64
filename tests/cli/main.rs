//! The program as people and scripts see it: what it prints where, and how it exits. One `rowlock dev`
//! serves all tests, each with queues of its own.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../it/binary.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod binary;
mod docs;
mod readme;
mod support;

use std::{
    io::Read,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use support::{TYPES, alone, eventually, finish, program, run, run_with, start_dev, url};

fn enqueue(queue: &str) -> String {
    let said = run(&["enqueue", "later", "--queue", queue, "--delay", "1h", "-o", "name"]).exits(0);
    said.out.trim_end().to_owned()
}

#[test]
fn dev_prints_its_url_first_and_ends_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // Where we are root the server runs as another user, who has to get there.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut id = String::new();
    for round in 0..2 {
        let (mut dev, url) = start_dev(&["--persist", data.to_str().unwrap(), "--workers", "0"]);
        let mut command = program(Some(&url));
        if round == 0 {
            command.args(["enqueue", "kept", "-o", "name"]);
            id = finish(command, "").exits(0).out.trim_end().to_owned();
        } else {
            command.args(["jobs", "get", &id, "-o", "json"]);
            assert_eq!(finish(command, "").exits(0).json()["status"], "pending");
        }
        // The shell's own: a small machine has no program of that name.
        let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", dev.id())]).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        dev.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!((dev.wait().unwrap().code(), rest), (Some(0), String::new()));
    }
}

#[test]
fn wait_follows_a_job_to_its_end() {
    let done = run(&["enqueue", "answer", "--wait", "-o", "json"]).exits(0).json();
    assert_eq!((&done["status"], &done["result"]), (&json!("completed"), &json!({"answer": 42})));
    let failed = run(&["enqueue", "wrong", "--wait", "-o", "json"]).exits(1);
    assert_eq!(failed.json()["status"], "failed");
    assert!(failed.json()["error"].as_str().unwrap().contains("no such luck"));
    run(&["enqueue", "answer", "--delay", "1h", "--wait", "--wait-timeout", "100ms"]).exits(124).says("jobs get");
}

#[test]
fn enqueue_prints_id_and_inserted() {
    let first = run(&["enqueue", "t", "{}", "--queue", "keys", "--unique-key", "k", "-o", "json"]).exits(0).json();
    let second = run_with(&["enqueue", "t", "-", "--queue", "keys", "--unique-key", "k", "-o", "json"], "{}");
    assert_eq!(first["inserted"], true);
    assert_eq!(second.exits(0).json(), json!({"id": first["id"], "inserted": false}));
}

/// A job that enqueues must not hand on its own queue, which it has in its environment.
#[test]
fn what_a_job_sees_is_not_an_option() {
    let mut command = program(Some(url()));
    command.env("ROWLOCK_QUEUE", "of-the-parent").env("ROWLOCK_LEASE", "1.2").env("ROWLOCK_JOB_TYPE", "x");
    command.args(["enqueue", "answer", "--delay", "1h", "-o", "name"]);
    let id = finish(command, "").exits(0).out;
    assert_eq!(run(&["jobs", "get", id.trim_end(), "-o", "json"]).json()["queue"], "answers");
}

#[test]
fn exit_codes_tell_why() {
    let nobody = "00000000-0000-7000-8000-000000000000";
    for (code, text, args) in [
        (2, "payload", &["enqueue", "t", "{"][..]),
        (2, "execute-at", &["enqueue", "t", "--execute-at", "soon"]),
        (2, "delay", &["enqueue", "t", "--delay", "soon"]),
        (2, "status", &["jobs", "list", "--status", "lost"]),
        (2, "sslmode", &["queues", "list", "--database-url", "postgres://localhost/x?sslmode=perhaps"]),
        (2, "pod needs the image of this program", &["worker", "--launch", "pod"]),
        (2, "pod needs a cluster", &["worker", "--launch", "pod", "--pod-image", "rowlock.test/rowlock:dev"]),
        (2, "poll", &["worker", "--poll", "0s"]),
        (2, "either ids", &["jobs", "cancel"]),
        (3, nobody, &["jobs", "get", nobody]),
        (3, nobody, &["jobs", "retry", nobody]),
        (4, "payload: expected a JSON object", &["enqueue", "t", "[]"]),
        (4, "priority", &["enqueue", "t", "--priority", "40000"]),
        (4, "22P05", &["enqueue", "t", "{\"a\": \"\\u0000\"}"]),
        (1, "database URL is right", &["queues", "list", "--database-url", "postgres://x@127.0.0.1:1/x"]),
    ] {
        let said = run(args).exits(code).says(text);
        assert_eq!(said.out, "", "only data goes to stdout: {args:?}");
        assert!(said.err.starts_with("error: "), "{said:?}");
    }
    alone(&["queues", "list"], "").exits(2).says("DATABASE_URL");
    let mut empty = program(Some(""));
    finish(
        {
            empty.args(["queues", "list"]);
            empty
        },
        "",
    )
    .exits(2)
    .says("no database");
}

#[test]
fn bulk_asks_first_and_takes_only_what_can_be_taken() {
    let ids = [enqueue("bulk"), enqueue("bulk")];
    let one = run(&["jobs", "cancel", &ids[0], "-o", "json"]).exits(0).json();
    assert_eq!(one, json!({"id": ids[0], "status": "cancelled"}));
    run(&["jobs", "cancel", "--queue", "bulk"]).exits(4).says("1 jobs to cancel").says("--yes");
    let done = run(&["jobs", "cancel", "--queue", "bulk", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!(done, json!([{"id": ids[1], "status": "cancelled"}]), "a filter answers a list, even of one");
    run(&["jobs", "retry", "--queue", "bulk", "--yes"]).exits(0).says("0 jobs to retry");
    let back = ["jobs", "retry", "--queue", "bulk", "--status", "cancelled", "--delay", "1h", "--yes", "-o", "json"];
    assert_eq!(run(&back).exits(0).json().as_array().unwrap().len(), 2);
}

#[test]
fn one_refusal_does_not_keep_the_others_from_their_turn() {
    let id = enqueue("mixed");
    let nobody = "00000000-0000-7000-8000-000000000000";
    let said = run(&["jobs", "cancel", nobody, &id, "-o", "json"]).exits(3).says(nobody);
    assert_eq!(said.json(), json!([{"id": id, "status": "cancelled"}]));
}

#[test]
fn lists_come_in_every_format() {
    let id = enqueue("formats");
    let list = ["jobs", "list", "--queue", "formats", "-o"];
    let with = |format| run(&[&list[..], &[format]].concat()).exits(0).out;
    assert_eq!(with("name"), format!("{id}\n"));
    assert_eq!(serde_json::from_str::<Value>(&with("json")).unwrap()[0]["queue"], "formats");
    assert!(with("yaml").contains("queue: formats"));
    assert!(with("table").contains(&id) && with("wide").contains(&id));
    assert_eq!(run(&["jobs", "list", "--queue", "nothing", "-o", "json"]).exits(0).json(), json!([]));
}

#[test]
fn queues_types_workers_and_migrations_are_shown() {
    run(&["queues", "pause", "stopped"]).exits(3).says("no queue stopped");
    enqueue("stopped");
    run(&["queues", "pause", "stopped"]).exits(0).says("paused");
    let queues = run(&["queues", "list", "-o", "json"]).exits(0).json();
    let paused = queues.as_array().unwrap().iter().find(|q| q["queue"] == "stopped").unwrap();
    assert_eq!(paused["paused"], true);
    run(&["queues", "resume", "stopped"]).exits(0);
    assert!(run(&["types", "list", "-o", "wide"]).exits(0).out.contains("answer"));
    eventually("dev's worker is there", || run(&["workers", "-o", "name"]).exits(0).out.contains("dev-1"));
    let status = run(&["migrate", "status", "-o", "json"]).exits(0).json();
    assert!(status.as_array().unwrap().iter().all(|m| m["state"] == "applied"));
    run(&["migrate", "up"]).exits(0).says("up to date");
}

#[test]
fn a_catalogue_is_checked_and_loaded_whole_or_not_at_all() {
    let bad = "types:\n  - {name: good, command: [x]}\n  - name: bad\n    command: [x]\n    tiemout: 1s\n";
    run_with(&["types", "apply", "-f", "-"], bad).exits(4).says("line 5").says("tiemout");
    let refused = "types:\n  - {name: good, command: [x]}\n  - {name: bad, command: [x], max_retries: 40000}\n";
    run_with(&["types", "apply", "-f", "-"], refused).exits(4).says("line 3").says("max_retries");
    assert!(!run(&["types", "list", "-o", "name"]).out.contains("good"));
    let schedules = "schedules:\n  - {name: a, type: t, cron: '61 * * * *'}\n";
    alone(&["types", "lint", "-f", "-"], schedules).exits(4).says("line 2: schedule a: cron: expected five fields");
    alone(&["types", "lint", "-f", "/nowhere.yaml"], "").exits(2).says("/nowhere.yaml");
    alone(&["types", "lint", "-f", "-"], TYPES).exits(0).says("2 types");
}

#[test]
fn doctor_says_what_is_wrong_and_fails_on_it() {
    let checks = run(&["doctor", "-o", "json"]).exits(0).json();
    let state = |checks: &Value, name: &str| {
        checks.as_array().unwrap().iter().find(|c| c["check"] == name).map(|c| c["state"].clone())
    };
    assert_eq!(state(&checks, "schema"), Some(json!("ok")));
    assert_eq!(state(&checks, "owner"), Some(json!("warn")), "dev's user is a superuser");
    let away = run(&["doctor", "-o", "json", "--database-url", "postgres://x@127.0.0.1:1/x"]).exits(1).json();
    assert_eq!(state(&away, "connect"), Some(json!("FAIL")));
}

#[test]
fn a_worker_ends_when_the_queue_is_empty() {
    let id = run(&["enqueue", "answer", "--queue", "own", "-o", "name"]).exits(0).out;
    let summary = run(&["worker", "--queue", "own", "--stop-when-empty", "-o", "json"]).exits(0).json();
    assert_eq!(summary["completed"], 1);
    assert_eq!(run(&["jobs", "get", id.trim_end(), "-o", "json"]).json()["status"], "completed");
}

#[test]
fn install_copies_a_program_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("a/b");
    let said = alone(&["install", to.to_str().unwrap()], "").exits(0);
    let version = Command::new(said.out.trim_end()).arg("--version").output().unwrap();
    assert!(version.status.success());
    alone(&["install", to.to_str().unwrap()], "").exits(0);
    alone(&["install", "/dev/null/x"], "").exits(1).says("/dev/null/x");
}

/// `rowlock … | head`: the reader goes first, and that is no error.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    for args in [&["completion", "bash"][..], &["migrate", "sql"]] {
        let mut child = program(None).args(args).spawn().unwrap();
        drop(child.stdout.take());
        let started = Instant::now();
        assert!(child.wait().unwrap().success() && started.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn schedules_are_applied_listed_run_and_unknown_ones_named() {
    let file = "schedules:\n  - {name: cli, type: later, queue: cli_schedules, every: 300days, payload: {a: 1}}\n";
    run_with(&["schedules", "apply", "-f", "-"], file).exits(0).says("applied 1 schedule");
    let find = || {
        let list = run(&["schedules", "list", "-o", "json"]).exits(0).json();
        list.as_array().unwrap().iter().find(|s| s["name"] == "cli").unwrap().clone()
    };
    eventually("the controller has planned it", || !find()["next_at"].is_null());
    run(&["schedules", "disable", "cli"]).exits(0);
    assert_eq!((&find()["enabled"], &find()["next_at"]), (&json!(false), &json!(null)));
    let id = run(&["schedules", "run", "cli", "-o", "name"]).exits(0).out;
    let job = run(&["jobs", "get", id.trim_end(), "-o", "json"]).exits(0).json();
    assert_eq!((&job["queue"], &job["payload"]), (&json!("cli_schedules"), &json!({"a": 1})));
    for command in ["enable", "disable", "run"] {
        run(&["schedules", command, "other"]).exits(3).says("no schedule other").says("rowlock schedules list");
    }
}

#[test]
fn a_file_with_types_and_schedules_is_told_apart_and_no_part_is_dropped_in_silence() {
    let types = "types:\n  - {name: parts_a, command: [x]}\n  - {name: parts_b, command: [x]}\n";
    let schedule = "schedules:\n  - {name: parts, type: parts_a, every: 25920000}\n";
    let both = format!("{types}{schedule}");
    run_with(&["types", "lint", "-f", "-"], &both).exits(0).says("2 types and 1 schedule are right");
    run_with(&["types", "lint", "-f", "-"], schedule).exits(0).says("1 schedule is right");
    let said = run_with(&["types", "apply", "-f", "-"], &both).exits(0);
    said.says("applied 2 types; 1 schedule is left out, load with: rowlock schedules apply -f -");
    let listed = || run(&["schedules", "list", "-o", "name"]).exits(0).out.lines().any(|name| name == "parts");
    assert!(!listed());
    let said = run_with(&["schedules", "apply", "-f", "-"], &both).exits(0);
    said.says("applied 1 schedule; 2 types are left out, load with: rowlock types apply -f -");
    assert!(listed());
    run_with(&["types", "lint", "-f", "-"], "types: [{name: a, rate: 1/s}]").exits(4).says("rate: not enforced yet");
}

/// The environment of a person may point to a cluster that nobody thought of.
#[test]
fn a_controller_outside_a_pod_says_first_which_cluster_it_is_about_to_scale() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "other",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
            {"name": "mine", "context": {"cluster": "c", "user": "u", "namespace": "mail"}}],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = program(Some(url()));
    command.args(["controller", "--context", "mine", "--http", "127.0.0.1:0", "--kubeconfig"]).arg(&file);
    let mut child = command.spawn().unwrap();
    let (told, said) = std::sync::mpsc::channel();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
    let first = said.recv_timeout(Duration::from_secs(30));
    child.kill().unwrap();
    child.wait().unwrap();
    let want = format!(
        "about to scale Deployments in namespace mail of the cluster at https://127.0.0.1:1/ (from context mine of {})",
        file.display()
    );
    assert_eq!(first.expect("it says something within 30 s"), want);
}

#[test]
fn a_terminal_gets_no_order_from_a_jobs_text() {
    let id = run(&["enqueue", "later", "{\"a\": \"\u{9b}31m\u{202e}\"}", "--delay", "1h", "-o", "name"]).exits(0).out;
    for format in ["table", "wide", "json", "yaml"] {
        let said = run(&["jobs", "get", id.trim_end(), "-o", format]).exits(0).out;
        assert!(!said.contains(['\u{9b}', '\u{202e}', '\u{1b}']), "{format}: {said:?}");
    }
    let payload = &run(&["jobs", "get", id.trim_end(), "-o", "json"]).exits(0).json()["payload"];
    assert_eq!(payload, &json!({"a": "\u{9b}31m\u{202e}"}), "a program gets the value");
}

#[test]
fn explain_says_why_and_names_what_it_knows() {
    eventually("there is a decision", || run(&["explain", "dev"]).code == 0);
    let said = run(&["explain", "dev"]).exits(0).out;
    assert!(said.contains("pin-replicas fixes the size"), "{said}");
    let list = run(&["explain", "dev", "-o", "json"]).exits(0).json();
    assert_eq!((&list[0]["wanted"], &list[0]["reason"]), (&json!(1), &json!("pinned")));
    run(&["explain", "other"]).exits(3).says("there are some about dev");
}

#[test]
fn the_demo_brings_workers_sends_them_home_and_loses_no_job() {
    let mut command = program(None);
    command.args(["dev", "--demo"]);
    let started = std::time::Instant::now();
    let said = finish(command, "").exits(0).says("600 jobs completed, each with the right result, none lost");
    assert!(started.elapsed().as_secs() < 180);
    assert!(said.out.starts_with("DATABASE_URL=") && said.out.lines().count() == 1, "{said:?}");
    let workers = |line: &str| line.split(" workers").next()?.split_whitespace().last()?.parse::<u32>().ok();
    let seen: Vec<u32> = said.err.lines().filter(|l| l.contains(" waiting ")).filter_map(workers).collect();
    assert!(seen.iter().max() > Some(&1) && seen.last() == Some(&0), "{said:?}");
}
