//! Migrations: at once, twice, changed, newer, restored; and what a client of version 1 calls.

use std::{path::Path, process::Command};

use rowlock::{
    Error,
    migrate::{Applied, MIGRATIONS, TEXTS},
};

use crate::support::{Db, connect, database, empty_database, eventually, server};

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
        applied.push(t.await.unwrap());
    }
    applied.retain(|a| !a.is_empty());
    let all = Applied {
        migrations: MIGRATIONS.iter().map(|m| m.version).collect(),
        texts: TEXTS.iter().map(|t| t.file).collect(),
    };
    assert_eq!(applied, [all], "one of the eight applied all, the others nothing");
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.migration", &[]).await, MIGRATIONS.len() as i64);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.schema_text", &[]).await, TEXTS.len() as i64);
}

#[tokio::test]
async fn a_second_migration_applies_nothing() {
    let mut db = database().await;
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap(), Applied::default());
    let status = rowlock::migrate::status(&db.client).await.unwrap();
    assert!(status.iter().all(|s| s.state == "applied" && s.applied_at.is_some()));
    assert_eq!(status.len(), MIGRATIONS.len() + TEXTS.len());
}

#[tokio::test]
async fn a_file_changed_after_it_was_applied_is_refused_with_a_sentence() {
    let mut db = database().await;
    db.run("UPDATE rowlock.migration SET checksum = repeat('0', 64) WHERE version = 1").await;
    let text = refused(&mut db).await;
    assert!(text.contains("0001_tables: was changed after it was applied"), "{text}");
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused_with_a_sentence() {
    let mut db = database().await;
    db.run("INSERT INTO rowlock.migration (version, name, checksum) VALUES (99, '0099_future', 'x')").await;
    let text = refused(&mut db).await;
    assert!(text.contains("0099_future") && text.contains("use a newer rowlock"), "{text}");
}

/// A release that changes functions only has no new number, and yet its text is not to be put back.
#[tokio::test]
async fn functions_of_a_later_release_are_refused_with_a_sentence() {
    let mut db = database().await;
    db.run("UPDATE rowlock.schema_text SET checksum = 'x', release = '{99, 1, 2}' WHERE file = '32_complete'").await;
    let text = refused(&mut db).await;
    assert!(text.contains("schema/32_complete: was written by release 99.1.2"), "{text}");
    // Nor those of a file that this program does not have.
    db.run("UPDATE rowlock.schema_text SET checksum = 'x', release = '{0, 0, 1}' WHERE file = '32_complete'").await;
    db.run("INSERT INTO rowlock.schema_text VALUES ('35_limits', 'x', '{99, 1, 2}')").await;
    let text = refused(&mut db).await;
    assert!(text.contains("schema/35_limits: was written by release 99.1.2"), "{text}");
}

async fn refused(db: &mut Db) -> String {
    let e = rowlock::migrate::up(&mut db.client).await.unwrap_err();
    assert!(matches!(e, Error::Schema(_)), "{e:?}");
    e.to_string()
}

#[tokio::test]
async fn of_an_earlier_release_s_functions_only_those_that_differ_are_replaced() {
    let mut db = database().await;
    db.run(
        "CREATE OR REPLACE FUNCTION rowlock.unsubscribe_v1(worker uuid) RETURNS void LANGUAGE sql AS 'SELECT';
         UPDATE rowlock.schema_text SET checksum = 'x', release = '{0, 0, 1}' WHERE file = '40_worker';
         INSERT INTO rowlock.schema_text VALUES ('41_gone', 'x', '{0, 0, 1}')",
    )
    .await;
    let applied = rowlock::migrate::up(&mut db.client).await.unwrap();
    assert_eq!(applied, Applied { migrations: Vec::new(), texts: vec!["40_worker"] });
    assert_eq!(dump(&db), dump(&fresh().await));
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.schema_text", &[]).await, TEXTS.len() as i64);
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind() {
    let mut db = empty_database().await;
    // The schema is somebody else's already.
    db.run("CREATE SCHEMA rowlock").await;
    let text = refused(&mut db).await;
    assert!(text.contains("schema rowlock: there is one that is not Rowlock's"), "{text}");
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = 'rowlock'::regnamespace", &[]).await,
        0
    );
}

/// What a numbered file does must not depend on the day on which it is applied, so none calls a function of schema/.
#[tokio::test]
async fn the_numbered_files_apply_without_the_functions() {
    let db = empty_database().await;
    for m in MIGRATIONS {
        db.run(m.sql).await;
    }
    let functions: i64 = db.one("SELECT count(*) FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace", &[]).await;
    assert_eq!(functions, 0);
}

#[tokio::test]
async fn every_file_of_the_schema_is_embedded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let on_disk = |dir: &str| {
        let mut names: Vec<String> = std::fs::read_dir(root.join(dir))
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .filter_map(|f| f.strip_suffix(".sql").map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    assert_eq!(on_disk("migrations"), MIGRATIONS.iter().map(|m| m.name).collect::<Vec<_>>());
    assert_eq!(on_disk("schema"), TEXTS.iter().map(|t| t.file).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_script_for_a_database_makes_the_same_schema() {
    let mut db = empty_database().await;
    db.run(&rowlock::migrate::script()).await;
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap(), Applied::default());
    assert_eq!(dump(&db), dump(&fresh().await));
}

/// tests/it/releases has the script of each release (`rowlock migrate sql > tests/it/releases/0.1.0.sql`).
#[tokio::test]
async fn from_every_release_to_now_is_as_from_nothing_to_now() {
    let releases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/releases");
    let expected = dump(&fresh().await);
    for file in std::fs::read_dir(releases).unwrap().map(|f| f.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "sql") {
            continue;
        }
        let mut db = empty_database().await;
        db.run(&std::fs::read_to_string(&file).unwrap()).await;
        rowlock::migrate::up(&mut db.client).await.unwrap();
        assert_eq!(dump(&db), expected, "{}", file.display());
    }
}

async fn fresh() -> Db {
    let mut db = empty_database().await;
    rowlock::migrate::up(&mut db.client).await.unwrap();
    db
}

/// The schema as text, but for what pg_dump makes up anew each time, and the order of grants.
fn dump(db: &Db) -> Vec<String> {
    let beside = server().bin_dir().join("pg_dump");
    let pg_dump = if beside.is_file() { beside } else { "pg_dump".into() };
    let out = Command::new(pg_dump).args(["--schema-only", "--schema=rowlock", &db.url]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().filter(|l| !l.starts_with('\\')).map(str::to_owned).collect();
    if let Some(first) = lines.iter().position(|l| l.starts_with("GRANT") || l.starts_with("REVOKE")) {
        lines[first..].sort();
    }
    lines
}

/// As after pg_dump and psql on another server: no role, no grant.
#[tokio::test]
async fn roles_and_grants_are_brought_back_by_every_migration() {
    let mut db = database().await;
    let all = dump(&db);
    let revoke: String = db
        .one(
            "SELECT string_agg(format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowlock FROM %1$I;
                REVOKE ALL ON ALL TABLES IN SCHEMA rowlock FROM %1$I; REVOKE ALL ON SCHEMA rowlock FROM %1$I;', rolname), '')
               FROM pg_roles WHERE rolname ~ '^rowlock_'",
            &[],
        )
        .await;
    db.run(&revoke).await;
    db.run("GRANT EXECUTE ON FUNCTION rowlock.cancel TO PUBLIC").await;
    assert_ne!(dump(&db), all);
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap(), Applied::default());
    assert_eq!(dump(&db), all);
}

#[tokio::test]
async fn what_an_operator_granted_stays() {
    let mut db = database().await;
    db.run(
        "GRANT SELECT (payload) ON rowlock.jobs TO rowlock_reader; GRANT EXECUTE ON FUNCTION rowlock.cancel TO rowlock_reader;
         UPDATE rowlock.schema_text SET checksum = 'x'",
    )
    .await;
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap().texts.len(), TEXTS.len());
    let kept: bool = db
        .one(
            "SELECT has_column_privilege('rowlock_reader', 'rowlock.jobs', 'payload', 'SELECT')
                AND has_function_privilege('rowlock_reader', 'rowlock.cancel(uuid)', 'EXECUTE')",
            &[],
        )
        .await;
    assert!(kept);
}

/// Any user may take any advisory lock.
#[tokio::test]
async fn nobody_but_the_owner_can_hold_a_migration_up() {
    let mut db = database().await;
    let other = connect(&db.url).await;
    let sql = "SELECT pg_advisory_lock(x'00726f776c6f636b'::int8), pg_advisory_lock(0)";
    other.batch_execute(sql).await.unwrap();
    db.run("UPDATE rowlock.schema_text SET checksum = 'x' WHERE file = '34_release'").await;
    let started = std::time::Instant::now();
    assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap().texts, ["34_release"]);
    assert!(started.elapsed().as_secs() < 20);
}

#[tokio::test]
async fn the_settings_of_a_user_change_nothing() {
    let mut db = empty_database().await;
    db.run(
        "SET statement_timeout = '5ms'; SET lock_timeout = '1ms'; SET default_transaction_read_only = on;
         SET default_transaction_isolation = serializable; SET standard_conforming_strings = off; SET array_nulls = off;
         SET search_path = pg_temp; SET intervalstyle = iso_8601; SET datestyle = 'SQL, DMY'",
    )
    .await;
    assert!(!rowlock::migrate::up(&mut db.client).await.unwrap().is_empty());
    let plain = connect(&db.url).await;
    let db = Db { url: db.url, client: plain };
    assert_eq!(dump(&db), dump(&fresh().await));
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused_by_name() {
    let db = empty_database().await;
    db.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let e = rowlock::migrate::up(&mut connect(&server().url("latin")).await).await.unwrap_err();
    assert!(matches!(&e, Error::Schema(text) if text.contains("expected the encoding UTF8, got LATIN1")), "{e:?}");
}

/// Whoever reads a view holds a lock that its replacement waits for, and everybody queues behind that.
#[tokio::test]
async fn a_migration_waits_for_a_reader_and_lets_others_pass() {
    let db = database().await;
    db.run("UPDATE rowlock.schema_text SET checksum = 'x' WHERE file = '50_jobs'").await;
    let reader = connect(&db.url).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM rowlock.jobs").await.unwrap();
    let url = db.url.clone();
    let up = tokio::spawn(async move { rowlock::migrate::up(&mut connect(&url).await).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'rowlock.jobs'::regclass";
    eventually("the migration waits", || async { db.one::<i64>(waits, &[]).await == 1 }).await;
    // Behind it, for a second at most.
    db.run("SET statement_timeout = '10s'; SELECT count(*) FROM rowlock.jobs").await;
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(up.await.unwrap().unwrap().texts, ["50_jobs"]);
}

#[tokio::test]
async fn under_load_the_functions_are_replaced_twenty_times_and_no_transaction_is_lost() {
    let mut db = database().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (url, stop) = (db.url.clone(), stop.clone());
            tokio::spawn(async move {
                let db = Db { client: connect(&url).await, url };
                let worker = db.worker(600.0).await;
                let (mut enqueued, mut completed) = (0_i64, 0_i64);
                while !stop.is_cancelled() {
                    db.enqueue().await;
                    enqueued += 1;
                    let jobs = db.claim(worker, 3).await;
                    assert!(db.complete(worker, &jobs).await.is_empty());
                    completed += jobs.len() as i64;
                    db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE status = 'running'", &[]).await;
                }
                (enqueued, completed)
            })
        })
        .collect();
    for _ in 0..20 {
        db.run("UPDATE rowlock.schema_text SET checksum = 'x'").await;
        assert_eq!(rowlock::migrate::up(&mut db.client).await.unwrap().texts.len(), TEXTS.len());
    }
    stop.cancel();
    let (mut enqueued, mut completed) = (0, 0);
    for client in clients {
        let (e, c) = client.await.unwrap();
        enqueued += e;
        completed += c;
    }
    assert!(enqueued >= 20, "{enqueued}");
    let seen: (i64, i64) = (
        db.one("SELECT count(*) FROM rowlock.jobs", &[]).await,
        db.one("SELECT count(*) FROM rowlock.jobs WHERE status = 'completed'", &[]).await,
    );
    assert_eq!(seen, (enqueued, completed));
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
