//! The catalogue's sources: what one holds is loaded, what it no longer holds ends in its time.

use serde_json::{Value, json};

use crate::support::{Db, database, refusal};

async fn led() -> Db {
    let db = database().await;
    db.run("SELECT rowlock.lead_v1(gen_random_uuid(), 'c', 60)").await;
    db
}

async fn sync(db: &Db, source: &str, types: &[&str], schedules: Value) -> bool {
    let types: Vec<Value> = types.iter().map(|t| json!({"name": t, "command": ["x"]})).collect();
    let (types, digest) = (json!(types), format!("{types:?} {schedules}"));
    db.one("SELECT rowlock.sync_catalog_v1(1, $1, $2, $3, $4)", &[&source, &digest, &types, &schedules]).await
}

async fn types(db: &Db) -> String {
    db.one("SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM rowlock.job_types", &[]).await
}

#[tokio::test]
async fn a_type_that_is_taken_out_stays_until_its_jobs_are_done_and_one_by_hand_for_ever() {
    let db = led().await;
    db.run(r#"SELECT rowlock.put_job_type('{"name": "hand", "command": ["x"]}')"#).await;
    assert!(sync(&db, "a", &["t", "u"], json!([])).await);
    db.enqueue().await;
    assert!(!sync(&db, "a", &["v"], json!([])).await, "a job of t waits");
    assert_eq!(types(&db).await, "hand,t,v");
    let worker = db.worker(30.0).await;
    let job = db.claim_one(worker).await;
    assert!(!sync(&db, "a", &["v"], json!([])).await, "a job of t runs");
    db.complete(worker, &[job]).await;
    assert!(sync(&db, "a", &["v"], json!([])).await);
    assert_eq!(types(&db).await, "hand,v");
    assert!(sync(&db, "a", &[], json!([])).await);
    assert_eq!(types(&db).await, "hand");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.catalog_sources_v1()", &[]).await, 0);
}

#[tokio::test]
async fn a_schedule_that_is_taken_out_ends_and_the_same_file_again_changes_nothing() {
    let db = led().await;
    let schedule = json!([{"name": "s", "type": "t", "every": "1 hour"}]);
    assert!(sync(&db, "a", &["t"], schedule.clone()).await);
    db.run("SELECT rowlock.disable_schedule('s')").await;
    assert!(sync(&db, "a", &["t"], schedule.clone()).await);
    let enabled = "SELECT count(*) FROM rowlock.schedules WHERE enabled";
    assert_eq!(db.one::<i64>(enabled, &[]).await, 0, "disabled by hand, and the file is as it was");
    let another = json!([{"name": "s", "type": "t", "every": "2 hours"}]);
    assert!(sync(&db, "a", &["t"], another).await);
    assert_eq!(db.one::<i64>(enabled, &[]).await, 1);
    assert!(sync(&db, "a", &[], json!([])).await);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.schedules", &[]).await, 0);
    assert_eq!(types(&db).await, "");
}

/// kubernetes-sigs/kustomize#2226: a ConfigMap whose name carries a hash of its content is another with each change.
#[tokio::test]
async fn an_entry_moves_to_another_source_when_its_own_has_gone_and_loses_no_tick() {
    let db = led().await;
    let schedule = json!([{"name": "s", "type": "t", "every": "1 hour"}]);
    assert!(sync(&db, "old", &["t", "u"], schedule.clone()).await);
    let planned = "UPDATE rowlock.schedule SET next_at = '2026-01-01T01:00:00Z', last_at = '2026-01-01T00:00:00Z'";
    db.run(planned).await;
    let again = r#"SELECT rowlock.sync_catalog_v1(1, 'new', 'd', '[{"name": "t", "command": ["y"]}]', '[]')"#;
    assert_eq!(refusal(&db.client, again).await.0, "RL021", "the old one is there");
    let types = json!([{"name": "t", "command": ["y"]}]);
    let moved: bool =
        db.one("SELECT rowlock.sync_catalog_v1(1, 'new', 'd', $1, $2, former => '{old}')", &[&types, &schedule]).await;
    assert!(moved);
    assert!(sync(&db, "old", &[], json!([])).await);
    assert_eq!(self::types(&db).await, "t", "u is nowhere any more");
    let times = "SELECT count(*) FROM rowlock.schedules
                  WHERE next_at = '2026-01-01T01:00:00Z' AND last_at = '2026-01-01T00:00:00Z' AND enabled";
    assert_eq!(db.one::<i64>(times, &[]).await, 1, "the schedule goes on");
    assert!(sync(&db, "new", &[], json!([])).await);
    assert_eq!(self::types(&db).await, "", "it is the new one's to end");
}

#[tokio::test]
async fn what_is_in_two_sources_is_refused_and_nothing_of_a_refused_one_is_loaded() {
    let db = led().await;
    assert!(sync(&db, "a", &["t"], json!([])).await);
    let two = r#"SELECT rowlock.sync_catalog_v1(1, 'b', 'd', '[{"name": "t", "command": ["y"]}, {"name": "n", "command": ["y"]}]', '[]')"#;
    let (code, message) = refusal(&db.client, two).await;
    assert_eq!((code.as_str(), message.as_str()), ("RL021", "type t: it is declared by a too"));
    assert_eq!(types(&db).await, "t");
    let wrong = r#"SELECT rowlock.sync_catalog_v1(1, 'a', 'd', '[{"name": "n"}, {"name": ""}]', '[]')"#;
    assert_eq!(refusal(&db.client, wrong).await.0, "RL001");
    assert_eq!(types(&db).await, "t", "the last good version stays");
    assert_eq!(refusal(&db.client, "SELECT rowlock.sync_catalog_v1(7, 'a', 'd', '[]', '[]')").await.0, "RL030");
}
