//! `rowlock doctor` is true: for each role, and on each database that is not as it should be.

use std::collections::BTreeMap;

use rowlock::{
    JobQueue,
    local_postgres::{LocalPostgres, Options},
};
use serde_json::Value;

use crate::{
    least_roles::{rowlock, url_as},
    pooler::Pooler,
    support::{Db, connect, database, empty_database, eventually, server},
};

/// The exit code, and each check's state and detail.
type Answer = (i32, BTreeMap<String, (String, String)>);

fn doctor(url: &str) -> Answer {
    let output = rowlock(url, &["doctor", "-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = list.iter().map(|c| (text(&c["check"]), (text(&c["state"]), text(&c["detail"]))));
    (output.status.code().unwrap(), lines.collect())
}

#[track_caller]
fn says(answer: &Answer, check: &str, state: &str, text: &str) {
    let (got, detail) = answer.1.get(check).unwrap_or_else(|| panic!("no {check}: {answer:?}"));
    assert!(got == state && detail.contains(text), "{check}: expected {state} {text:?}, got {got} {detail:?}");
}

#[tokio::test]
async fn each_role_finds_nothing_wrong_on_a_healthy_install() {
    let db = database().await;
    for (role, may) in
        [("enqueuer", "enqueue"), ("worker", "work"), ("reader", "look"), ("admin", "do all but migrate")]
    {
        let answer = doctor(&url_as(&db, &format!("rowlock_{role}")).await);
        assert_eq!(answer.0, 0, "{role}: {answer:?}");
        says(&answer, "privileges", "ok", &format!("least_rowlock_{role} may {may}"));
        says(&answer, "schema", "warn", "all that this release calls");
        says(&answer, "roles", "ok", "4 roles");
        says(&answer, "transactions", "unknown", "pg_read_all_stats");
        assert!(answer.1.values().all(|(_, detail)| !detail.contains("migrate up")), "{answer:?}");
    }
    let superuser = doctor(&db.url);
    assert_eq!(superuser.0, 0);
    says(&superuser, "schema", "ok", "up to date");
    says(&superuser, "privileges", "warn", "superuser");
    says(&superuser, "transactions", "ok", "the oldest is");
}

#[tokio::test]
async fn who_has_no_right_is_told_so() {
    let db = database().await;
    let nobody = doctor(&url_as(&db, "nobody").await);
    assert_eq!(nobody.0, 1);
    says(&nobody, "privileges", "FAIL", "GRANT rowlock_enqueuer (to enqueue)");
    says(&nobody, "schema", "warn", "all that this release calls");
}

#[tokio::test]
async fn missing_grants_are_told_to_member_and_owner() {
    let db = database().await;
    db.run("REVOKE EXECUTE ON FUNCTION rowlock.claim_v1 FROM rowlock_worker").await;
    let worker = url_as(&db, "rowlock_worker").await;
    let answer = doctor(&worker);
    assert_eq!(answer.0, 1);
    says(&answer, "privileges", "FAIL", "rowlock_worker has no right to claim_v1: run rowlock migrate up as rowlock");
    let owner = doctor(&db.url);
    says(&owner, "roles", "warn", "claim_v1: run rowlock migrate up");
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    assert_eq!(doctor(&worker).0, 0);
}

#[tokio::test]
async fn no_schema_and_a_newer_one_are_told_apart() {
    let empty = empty_database().await;
    let answer = doctor(&empty.url);
    assert_eq!(answer.0, 1);
    says(&answer, "schema", "FAIL", "there is none: run rowlock migrate up");
    assert!(!answer.1.contains_key("roles") && !answer.1.contains_key("privileges"), "{answer:?}");
    let newer = database().await;
    newer.run("INSERT INTO rowlock.migration (version, name, checksum) VALUES (9999, '9999_later', 'x')").await;
    let answer = doctor(&newer.url);
    assert_eq!(answer.0, 1);
    says(&answer, "schema", "FAIL", "9999_later is newer than this program");
    assert!(!answer.1["schema"].1.contains("migrate up"), "{answer:?}");
    // Who may not read the versions sees that all which is called is there.
    assert_eq!(doctor(&url_as(&newer, "rowlock_worker").await).0, 0);
}

#[tokio::test]
async fn a_part_of_maintenance_that_fails_is_told_to_whoever_may_look() {
    let db = database().await;
    let (reader, enqueuer) = (url_as(&db, "rowlock_reader").await, url_as(&db, "rowlock_enqueuer").await);
    says(&doctor(&reader), "maintenance", "ok", "ever failed");
    db.run(
        "CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER broken BEFORE DELETE ON rowlock.tally EXECUTE FUNCTION public.broken()",
    )
    .await;
    db.enqueue().await;
    db.keep().await;
    let answer = doctor(&reader);
    assert_eq!(answer.0, 1);
    says(&answer, "maintenance", "FAIL", "fold failed 0 min ago, 1 times in all: broken (SQLSTATE P0001)");
    assert!(!doctor(&enqueuer).1.contains_key("maintenance"), "it may not look");
}

#[tokio::test]
async fn a_restored_dump_without_roles_is_mended_by_what_doctor_says() {
    let postgres = LocalPostgres::start(Options { persist: None, ram: true, ..Options::default() }).await.unwrap();
    let url = postgres.url("postgres");
    let db = Db { client: connect(&url).await, url };
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    let roles = "rowlock_enqueuer, rowlock_worker, rowlock_reader, rowlock_admin";
    db.run(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}")).await;
    let answer = doctor(&db.url);
    says(&answer, "roles", "warn", "0 of 4 roles rowlock_*: run rowlock migrate up");
    assert!(rowlock(&db.url, &["migrate", "up"]).status().unwrap().success());
    says(&doctor(&db.url), "roles", "ok", "4 roles with their grants");
    assert_eq!(doctor(&url_as(&db, "rowlock_worker").await).0, 0);
}

#[tokio::test]
async fn another_encoding_and_a_database_that_only_reads_are_refused_by_name() {
    let admin = connect(&server().url("postgres")).await;
    for sql in [
        "CREATE DATABASE doctor_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "CREATE DATABASE doctor_reads TEMPLATE template0",
        "ALTER DATABASE doctor_reads SET default_transaction_read_only = on",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let answer = doctor(&server().url("doctor_latin1"));
    assert_eq!(answer.0, 1);
    says(&answer, "encoding", "FAIL", "LATIN1: expected UTF8");
    let answer = doctor(&server().url("doctor_reads"));
    assert_eq!(answer.0, 1);
    says(&answer, "primary", "FAIL", "default_transaction_read_only");
}

#[tokio::test]
async fn a_pooler_is_no_fault_in_either_mode() {
    let db = database().await;
    for (mode, says_) in [("transaction", "transaction mode"), ("session", "a session of its own")] {
        let pooler = Pooler::start_in(mode, &db.url);
        let url = pooler.url(&db.url);
        eventually("pgbouncer answers", || async { JobQueue::connect(&url).await.is_ok() }).await;
        let answer = doctor(&url);
        assert_eq!(answer.0, 0, "{mode}: {answer:?}");
        says(&answer, "pooler", "ok", says_);
        says(&answer, "schema", "ok", "up to date");
    }
}

/// A server of its own, for roles are the server's. The users are those that docs/operations.md recommends, with one
/// for each role and one that has none.
struct Install {
    postgres: LocalPostgres,
    admin: Db,
    url: String,
}

const MEMBERS: [&str; 4] = ["rowlock_enqueuer", "rowlock_worker", "rowlock_reader", "rowlock_admin"];
const USERS: [&str; 7] = ["is_enqueuer", "is_worker", "is_reader", "is_admin", "is_nobody", "jobs_owner", "rowlock"];

impl Install {
    async fn new() -> Install {
        // A server for tests forgets quickly, which is a warning.
        let settings = vec!["synchronous_commit=on".to_owned()];
        let options = Options { persist: None, ram: true, settings, ..Options::default() };
        let postgres = LocalPostgres::start(options).await.unwrap();
        let server = connect(&postgres.url("postgres")).await;
        for sql in [
            "CREATE ROLE jobs_owner LOGIN CREATEROLE",
            "CREATE DATABASE jobs OWNER jobs_owner",
            "GRANT pg_read_all_stats TO jobs_owner",
            "CREATE ROLE is_nobody LOGIN",
        ] {
            server.batch_execute(sql).await.unwrap();
        }
        let url = postgres.url("jobs");
        let install = Install { admin: Db { client: connect(&url).await, url: url.clone() }, postgres, url };
        install.migrate();
        for role in MEMBERS {
            install.admin.run(&format!("CREATE ROLE is_{} LOGIN IN ROLE {role}", &role["rowlock_".len()..])).await;
        }
        install
    }

    fn url(&self, user: &str) -> String {
        self.url.replace("rowlock@", &format!("{user}@"))
    }

    #[track_caller]
    fn migrate(&self) {
        assert!(rowlock(&self.url("jobs_owner"), &["migrate", "up"]).status().unwrap().success());
    }

    /// Asks as each user, and compares with the healthy install's answers where nothing else is said.
    fn agrees(&self, what: &str, through: impl Fn(&str) -> String, differs: impl Fn(&str) -> Vec<Expected>) {
        for user in USERS {
            let answer = doctor(&through(user));
            let differs = differs(user);
            let failing = answer.1.values().any(|(state, _)| state == "FAIL");
            assert_eq!(answer.0, i32::from(failing), "{what}, {user}: {answer:?}");
            for (check, (state, detail)) in &answer.1 {
                let usual = || healthy(user).into_iter().find(|(known, ..)| known == check);
                let found = differs.iter().find(|(known, ..)| known == check).copied().or_else(usual);
                let (_, wanted, text) = found.unwrap_or((check, "ok", ""));
                let fits = state == wanted && detail.contains(text);
                assert!(fits, "{what}, {user}, {check}: expected {wanted} {text:?}, got {state} {detail:?}");
                // Advice is for those whom it helps.
                let is_owner = matches!(user, "jobs_owner" | "rowlock");
                assert!(is_owner || !detail.contains("migrate up") || detail.contains("migrate up as "), "{detail}");
            }
            for (check, ..) in differs {
                assert!(answer.1.contains_key(check), "{what}, {user}: no {check} in {answer:?}");
            }
        }
    }
}

/// A check, its state, and a part of its text.
type Expected = (&'static str, &'static str, &'static str);

/// What a healthy install says beside "ok".
fn healthy(user: &str) -> Vec<Expected> {
    let hidden = ("schema", "warn", "it has all that this release calls");
    let sessions = ("transactions", "unknown", "pg_read_all_stats");
    let controllers = ("controllers", "unknown", "rowlock_reader and rowlock_admin");
    match user {
        "is_enqueuer" => vec![hidden, sessions, controllers, ("privileges", "ok", "is_enqueuer may enqueue")],
        "is_worker" => vec![hidden, sessions, controllers, ("privileges", "ok", "is_worker may work")],
        "is_reader" => vec![hidden, sessions, ("privileges", "ok", "is_reader may look")],
        "is_admin" => vec![hidden, sessions, ("privileges", "ok", "is_admin may do all but migrate")],
        "is_nobody" => {
            vec![hidden, sessions, controllers, ("privileges", "FAIL", "GRANT rowlock_enqueuer (to enqueue)")]
        }
        "jobs_owner" => vec![("schema", "ok", "up to date"), ("privileges", "ok", "owns the schema")],
        _ => vec![("schema", "ok", "up to date"), ("privileges", "warn", "superuser")],
    }
}

fn nothing(_: &str) -> Vec<Expected> {
    Vec::new()
}

#[tokio::test]
async fn each_line_is_right_for_each_user_in_each_state() {
    let install = Install::new().await;
    let direct = |user: &str| install.url(user);
    install.agrees("a healthy install", direct, nothing);

    for mode in ["session", "transaction"] {
        let known: Vec<&str> = USERS.into_iter().rev().collect();
        let pooler = Pooler::start_for(&known, mode, &install.url);
        let through = |user: &str| pooler.url(&install.url).replace("rowlock@", &format!("{user}@"));
        eventually("pgbouncer answers", || async { JobQueue::connect(&through("rowlock")).await.is_ok() }).await;
        install.agrees(&format!("a pooler in {mode} mode"), through, nothing);
    }

    install.admin.run("REVOKE EXECUTE ON FUNCTION rowlock.claim_v1 FROM rowlock_worker").await;
    install.agrees("a grant is missing", direct, |user| {
        let mut expected = vec![("roles", "warn", "rowlock_worker has no right to claim_v1: run rowlock migrate up")];
        if user == "is_worker" {
            expected.push(("privileges", "FAIL", "claim_v1: run rowlock migrate up as jobs_owner"));
        }
        expected
    });
    install.migrate();
    install.agrees("the grant is back", direct, nothing);

    for (name, holder) in [("a in namespace shop", 1), ("b in namespace mail", 2)] {
        let lead = format!("SELECT rowlock.lead_v1('00000000-0000-0000-0000-00000000000{holder}', '{name}', 60)");
        install.admin.run(&lead).await;
    }
    install.agrees("two namespaces on one database", direct, |user| {
        let sees = matches!(user, "is_reader" | "is_admin" | "jobs_owner" | "rowlock");
        let warns = ("controllers", "warn", "a in namespace shop leads, and b in namespace mail scales nothing");
        if sees { vec![warns] } else { vec![] }
    });
    let one_release = "UPDATE rowlock.leader SET rival_at = '-infinity', name = 'a of release x in namespace shop'";
    install.admin.run(one_release).await;
    install.agrees("one of them is gone", direct, nothing);
    for (name, warns) in [("c of release x in namespace shop", false), ("c of release y in namespace shop", true)] {
        install.admin.run(&format!("SELECT rowlock.lead_v1(gen_random_uuid(), '{name}', 60)")).await;
        install.agrees(name, direct, |user| match user {
            "is_reader" | "is_admin" | "jobs_owner" | "rowlock" if warns => {
                vec![("controllers", "warn", "c of release y in namespace shop scales nothing")]
            }
            _ => vec![],
        });
    }
    install.admin.run("UPDATE rowlock.leader SET rival_at = '-infinity'").await;

    install.admin.run("INSERT INTO rowlock.migration (version, name, checksum) VALUES (9999, '9999_later', 'x')").await;
    install.agrees("a newer schema", direct, |user| match user {
        "jobs_owner" | "rowlock" => vec![("schema", "FAIL", "9999_later is newer than this program")],
        _ => vec![],
    });
    assert!(!doctor(&direct("jobs_owner")).1["schema"].1.contains("migrate up"));
    install.admin.run("DELETE FROM rowlock.migration WHERE version = 9999").await;
}

#[tokio::test]
async fn a_dump_without_roles_and_its_cure_are_right_for_each_user() {
    let install = Install::new().await;
    let direct = |user: &str| install.url(user);
    let roles = MEMBERS.join(", ");
    for makes_roles in [true, false] {
        install.admin.run(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}")).await;
        install.admin.run(&format!("ALTER ROLE jobs_owner {}CREATEROLE", if makes_roles { "" } else { "NO" })).await;
        let cure = match makes_roles {
            true => "0 of 4 roles rowlock_*: run rowlock migrate up",
            false => {
                "make rowlock_enqueuer, rowlock_worker, rowlock_reader, rowlock_admin (CREATE ROLE … NOLOGIN), then"
            }
        };
        install.agrees("a restored dump", direct, |user| {
            let mut expected = vec![("roles", "warn", cure)];
            if !matches!(user, "jobs_owner" | "rowlock") {
                expected.push(("privileges", "FAIL", "the roles to give it are not there"));
                expected.push(("controllers", "unknown", ""));
            }
            expected
        });
        if !makes_roles {
            let made = MEMBERS.map(|role| format!("CREATE ROLE {role} NOLOGIN"));
            install.admin.run(&made.join("; ")).await;
        }
        install.migrate();
        for role in MEMBERS {
            install.admin.run(&format!("GRANT {role} TO is_{}", &role["rowlock_".len()..])).await;
        }
        install.agrees("the roles are back", direct, nothing);
    }
}

#[tokio::test]
async fn where_no_migration_is_possible_nobody_is_told_to_migrate_first() {
    let install = Install::new().await;
    let server = connect(&install.postgres.url("postgres")).await;
    for sql in [
        "CREATE DATABASE latin1 OWNER jobs_owner ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "CREATE DATABASE reads OWNER jobs_owner",
        "ALTER DATABASE reads SET default_transaction_read_only = on",
    ] {
        server.batch_execute(sql).await.unwrap();
    }
    for (database, check) in [("latin1", "encoding"), ("reads", "primary")] {
        for user in USERS {
            let url = install.postgres.url(database).replace("rowlock@", &format!("{user}@"));
            let answer = doctor(&url);
            assert_eq!(answer.0, 1, "{answer:?}");
            says(&answer, check, "FAIL", "");
            says(&answer, "schema", "FAIL", &format!("there is none: mend the fault of {check}, then run"));
        }
    }
}
