//! What the database lets into the catalogue: the same as a file may hold.

use serde_json::{Value, json};

use crate::support::database;

/// src/catalog runs on the same cases.
#[tokio::test]
async fn the_database_refuses_the_job_types_that_a_file_may_not_hold_and_names_the_key() {
    let db = database().await;
    let cases: Vec<Value> = serde_json::from_str(include_str!("../cases/job_types.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let put = db.client.execute("SELECT rowlock.put_job_type($1)", &[&case["entry"]]).await;
        match (put, case["problem"].as_str()) {
            (Ok(_), None) => {}
            (Err(e), Some(key)) => {
                let e = e.as_db_error().unwrap();
                if !e.code().code().starts_with("RL") || !e.message().contains(key) {
                    wrong.push(format!("{case}: {} {}", e.code().code(), e.message()));
                }
            }
            (Ok(_), Some(_)) => wrong.push(format!("{case} was let in")),
            (Err(e), None) => wrong.push(format!("{case}: {e:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_is_let_in_works_everywhere_behind_the_door() {
    let db = database().await;
    let year = json!({"name": "t", "timeout": "366 days", "expected": "366 days", "keep": {"completed": "366 days", "failed": "366 days"},
        "max_retries": 32767, "backoff": {"base": "366 days", "factor": 1000, "max": "366 days", "jitter": 1},
        "payload_schema": {"const": null}});
    db.client.execute("SELECT rowlock.put_job_type($1)", &[&year]).await.unwrap();
    let (worker, id) = (db.worker(60.0).await, db.enqueue().await);
    db.run("UPDATE rowlock.ready SET attempts = 32000").await;
    let job = db.claim_one(worker).await;
    assert_eq!(db.fail(worker, &job, "x", true).await, "pending");
    assert_eq!(db.status(id).await.as_deref(), Some("pending"));
    db.enqueue().await;
    let job = db.claim_one(worker).await;
    assert_eq!(db.complete(worker, &[job]).await, Vec::<uuid::Uuid>::new());
    let seconds: f64 = db.one("SELECT timeout_seconds FROM rowlock.job_types_v1()", &[]).await;
    assert!((seconds - 366.0 * 86400.0).abs() < 1.0);
    // A schema may hold a null.
    assert_eq!(db.one::<Value>("SELECT payload_schema FROM rowlock.job_types", &[]).await, json!({"const": null}));
}

#[tokio::test]
async fn a_schedule_with_a_value_of_the_wrong_kind_is_refused_by_its_key() {
    let db = database().await;
    for (entry, code, says) in [
        (json!({"name": 5, "type": "t", "every": "1h"}), "RL031", "name: expected a text"),
        (json!({"type": "t", "every": "1h"}), "RL031", "name: expected"),
        (json!({"name": "s", "every": "1h"}), "RL001", "type: expected"),
        (json!({"name": "s", "type": "t", "every": "soon"}), "RL031", "every: expected 1 second to 366 days"),
        (json!({"name": "s", "type": "t", "every": "400000y"}), "RL031", "every: expected"),
        (json!({"name": "s", "type": "t", "every": 0.5}), "RL031", "every: expected"),
        (json!({"name": "s", "type": "t", "every": 60, "enabled": "yes"}), "RL031", "enabled: expected true or false"),
        (json!({"name": "s", "type": "t", "every": 60, "payload": [1]}), "RL002", "payload: expected a JSON object"),
        (json!({"name": "s", "type": "t", "every": 60, "queue": ""}), "RL003", "queue: expected"),
        (json!({"name": "s", "type": "t", "every": 60, "catchup": "all"}), "RL031", "schedule.catchup: unknown key"),
    ] {
        let e = db.client.execute("SELECT rowlock.put_schedule($1)", &[&entry]).await.unwrap_err();
        let e = e.as_db_error().unwrap();
        assert!(e.code().code() == code && e.message().contains(says), "{entry}: {} {}", e.code().code(), e.message());
    }
    db.run(
        "SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"every\": 300, \"payload\": {\"a\": null}}')",
    )
    .await;
    let kept = "SELECT every = interval '5 minutes' AND payload = '{\"a\": null}' FROM rowlock.schedules";
    assert!(db.one::<bool>(kept, &[]).await);
}
