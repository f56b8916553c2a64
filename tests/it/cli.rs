//! The command line as a script sees it: stdout, stderr, exit codes.

use std::process::Output;

use serde_json::Value;

use crate::{
    binary::program,
    support::{database, empty_database, eventually},
};

fn rowlock(url: &str, args: &[&str]) -> Output {
    program().args(args).env_clear().env("DATABASE_URL", url).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The exit code and what was said.
fn refused(url: &str, args: &[&str]) -> (i32, String) {
    let output = rowlock(url, args);
    assert!(output.stdout.is_empty(), "data on stdout: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_job_is_enqueued_listed_cancelled_and_retried() {
    let db = database().await;
    let new =
        json(&rowlock(&db.url, &["enqueue", "a", r#"{"x": 1}"#, "--priority", "9", "--unique-key", "k", "-o", "json"]));
    assert_eq!(new["inserted"], true);
    let id = new["id"].as_str().unwrap();
    let list = json(&rowlock(&db.url, &["jobs", "list", "--status", "pending", "-o", "json"]));
    assert_eq!((&list[0]["id"], &list[0]["priority"], &list[0]["payload"]["x"]), (&new["id"], &9.into(), &1.into()));
    assert_eq!(json(&rowlock(&db.url, &["jobs", "get", id, "-o", "json"]))["status"], "pending");
    assert_eq!(json(&rowlock(&db.url, &["jobs", "cancel", id, "-o", "json"]))["status"], "cancelled");
    assert_eq!(json(&rowlock(&db.url, &["jobs", "retry", id, "-o", "json"]))["status"], "pending");
    let names = rowlock(&db.url, &["jobs", "list", "-o", "name"]);
    assert_eq!(String::from_utf8(names.stdout).unwrap().trim(), id);
    let queues = json(&rowlock(&db.url, &["queues", "list", "-o", "json"]));
    assert_eq!((&queues[0]["queue"], &queues[0]["pending"]), (&"default".into(), &1.into()));
}

#[tokio::test]
async fn exit_codes_tell_usage_from_missing_from_refused() {
    let db = database().await;
    let missing = uuid::Uuid::now_v7().to_string();
    for (args, code, say) in [
        (&["enqueue", "a", "{no"][..], 2, "payload"),
        (&["enqueue", "a", "[]"], 4, "payload"),
        (&["enqueue", "a", "--priority", "99999"], 4, "priority"),
        (&["enqueue", "a", "--delay", "soon"], 2, "--delay"),
        (&["enqueue", "a", "--execute-at", "tomorrow"], 2, "--execute-at"),
        (&["enqueue", ""], 4, "type"),
        (&["jobs", "get", &missing], 3, "no job"),
        (&["jobs", "cancel", &missing], 3, "no job"),
        (&["jobs", "get", "x"], 2, "id"),
        (&["jobs", "cancel"], 2, "ids"),
        (&["worker", "--launch", "pod"], 2, "--pod-image"),
        (&["types", "lint", "-f", "/no/such/file"], 2, "/no/such/file"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let (got, text) = refused(&db.url, args);
        assert_eq!(got, code, "{args:?}: {text}");
        assert!(text.contains(say), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn bulk_needs_a_yes() {
    let db = database().await;
    for _ in 0..3 {
        json(&rowlock(&db.url, &["enqueue", "a", "-o", "json"]));
    }
    let (code, text) = refused(&db.url, &["jobs", "cancel", "--type", "a"]);
    assert_eq!(code, 4);
    assert!(text.contains("3 jobs to cancel") && text.contains("--yes"), "{text}");
    assert!(rowlock(&db.url, &["jobs", "cancel", "--type", "a", "--yes"]).status.success());
    assert_eq!(
        json(&rowlock(&db.url, &["jobs", "list", "--status", "cancelled", "-o", "json"])).as_array().unwrap().len(),
        3
    );
}

#[tokio::test]
async fn a_wait_is_over_in_time_and_says_so() {
    let db = database().await;
    let (code, text) = refused(&db.url, &["enqueue", "a", "--wait", "--wait-timeout", "200ms"]);
    assert_eq!(code, 124, "{text}");
    assert!(text.contains("still pending"), "{text}");
}

#[tokio::test]
async fn a_database_without_the_schema_is_told_what_to_do_and_migrate_does_it() {
    let db = empty_database().await;
    let (code, text) = refused(&db.url, &["enqueue", "a"]);
    assert_eq!(code, 1);
    assert!(text.contains("rowlock migrate up"), "{text}");
    let doctor = rowlock(&db.url, &["doctor", "-o", "json"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(rowlock(&db.url, &["migrate", "up"]).status.success());
    let status = json(&rowlock(&db.url, &["migrate", "status", "-o", "json"]));
    assert!(status.as_array().unwrap().iter().all(|m| m["state"] == "applied"));
    assert!(rowlock(&db.url, &["doctor"]).status.success());
}

#[tokio::test]
async fn doctor_finds_no_fault_in_a_user_who_may_not_read_the_schemas_versions() {
    let db = database().await;
    db.run("CREATE ROLE doctors_admin LOGIN IN ROLE rowlock_admin").await;
    let (_, server) = db.url.split_once('@').unwrap();
    let checks = json(&rowlock(&format!("postgres://doctors_admin@{server}"), &["doctor", "-o", "json"]));
    let schema = checks.as_array().unwrap().iter().find(|c| c["check"] == "schema").unwrap();
    assert_eq!(schema["state"], "warn", "{checks}");
}

#[tokio::test]
async fn types_come_from_a_file_and_enqueue_waits_for_the_end() {
    let db = database().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("types.yaml");
    let yaml = "types:\n  - {name: good, command: [\"true\"]}\n  - {name: bad, command: [\"false\"], max_retries: 0}\n";
    std::fs::write(&file, yaml).unwrap();
    assert!(rowlock(&db.url, &["types", "apply", "-f", file.to_str().unwrap()]).status.success());
    assert_eq!(json(&rowlock(&db.url, &["types", "list", "-o", "json"])).as_array().unwrap().len(), 2);
    for (job_type, code, status) in [("good", 0, "completed"), ("bad", 1, "failed")] {
        let url = db.url.clone();
        let args = ["enqueue", job_type, "--wait", "--wait-timeout", "20s", "-o", "json"];
        let waiter = std::thread::spawn(move || rowlock(&url, &args));
        eventually("the job is there", || async {
            db.one::<i64>("SELECT count(*) FROM rowlock.ready", &[]).await == 1
        })
        .await;
        assert!(rowlock(&db.url, &["worker", "--stop-when-empty"]).status.success());
        let output = waiter.join().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["status"], status);
    }
}

#[tokio::test]
async fn a_controller_outside_a_pod_says_what_it_is_about_to_scale_before_it_asks_there() {
    let db = database().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let (at_file, log) = (file.to_str().unwrap(), dir.path().join("log"));
    for args in [vec!["--kubeconfig", at_file], vec![]] {
        // Who connects here waits for an answer that never comes.
        let cluster = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        cluster.set_nonblocking(true).unwrap();
        let at = cluster.local_addr().unwrap();
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "there",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{at}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = program();
        command.arg("controller").args(&args).args(["--http", "127.0.0.1:0"]).env("DATABASE_URL", &db.url);
        if args.is_empty() {
            command.env("KUBECONFIG", at_file);
        }
        let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        eventually("it asks the cluster", || std::future::ready(cluster.accept().is_ok())).await;
        let said = std::fs::read_to_string(&log).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let about = format!("about to scale Deployments in namespace shop of the cluster at http://{at}");
        assert!(said.contains(&about) && said.contains(at_file), "{said}");
    }
}
