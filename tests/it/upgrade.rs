//! Migrations: at once, twice, changed, newer; and what a client of version 1 calls.

use crate::support::{connect, database, empty_database};

#[tokio::test]
async fn eight_migrations_at_once_apply_each_file_once() {
    let db = empty_database().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let url = db.url.clone();
            tokio::spawn(async move { rowlock::migrate::up(&mut connect(&url).await).await.unwrap() })
        })
        .collect();
    let mut applied = Vec::new();
    for t in tasks {
        applied.extend(t.await.unwrap());
    }
    let all: Vec<i32> = rowlock::migrate::MIGRATIONS.iter().map(|m| m.version).collect();
    assert_eq!(applied, all, "one of the eight applied all, the others nothing");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.migration", &[]).await, all.len() as i64);
}

#[tokio::test]
async fn a_second_migration_applies_nothing() {
    let mut db = database().await;
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap(), Vec::<i32>::new());
    let status = rowlock::migrate::status(&db.client).await.unwrap();
    assert!(status.iter().all(|s| s.state == "applied" && s.applied_at.is_some()));
}

#[tokio::test]
async fn a_file_changed_after_it_was_applied_is_refused_with_a_sentence() {
    let mut db = database().await;
    db.run("UPDATE rowlock.migration SET checksum = repeat('0', 64) WHERE version = 3").await;
    let e = rowlock::migrate::up(&mut db.client).await.unwrap_err();
    assert!(matches!(e, rowlock::Error::Schema(_)));
    let text = e.to_string();
    assert!(text.contains("migration 3 (") && text.contains("was changed after it was applied"), "{text}");
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused_with_a_sentence() {
    let mut db = database().await;
    db.run("INSERT INTO rowlock.migration (version, name, checksum) VALUES (99, 'future', 'x')").await;
    let e = rowlock::migrate::up(&mut db.client).await.unwrap_err();
    assert!(matches!(e, rowlock::Error::Schema(_)));
    let text = e.to_string();
    assert!(text.contains("migration 99 (future)") && text.contains("use a newer rowlock"), "{text}");
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind() {
    let mut db = empty_database().await;
    // The second file cannot make its function, for the schema is somebody else's already.
    db.run("CREATE SCHEMA rowlock").await;
    assert!(rowlock::migrate::up(&mut db.client).await.is_err());
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = 'rowlock'::regnamespace", &[]).await,
        0
    );
}

/// A rehearsal: these texts are what clients in the field send. A change that breaks one needs a _v2.
#[tokio::test]
async fn what_a_client_of_version_1_calls_still_works() {
    let db = database().await;
    let texts = include_str!("client_v1.sql");
    let mut done = String::new();
    for statement in texts.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
        if let Err(e) = db.client.batch_execute(statement).await {
            panic!("{statement}\n{e:?}");
        }
        done.push_str(statement);
    }
    let missing: Vec<String> = db
        .client
        .query("SELECT proname FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace AND proname ~ '_v1$'", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get::<_, String>(0))
        .filter(|name| !done.contains(&format!("rowlock.{name}(")))
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "every _v1 function is in the list");
}

#[tokio::test]
async fn no_function_is_overloaded() {
    let db = database().await;
    let doubled: i64 = db
        .one(
            "SELECT count(*) FROM (SELECT proname FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace GROUP BY 1 HAVING count(*) > 1) d",
            &[],
        )
        .await;
    assert_eq!(doubled, 0);
}
