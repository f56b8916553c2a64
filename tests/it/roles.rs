//! Who may do what, for every object of the schema.

use crate::support::{connect, database, refusal};

const ROLES: [&str; 4] = ["rowlock_enqueuer", "rowlock_worker", "rowlock_reader", "rowlock_admin"];
const ENQUEUE: [&str; 4] = ["enqueue", "enqueue_many", "enqueue_batch_v1", STATUS];
/// For whoever knows a job's id.
const STATUS: &str = "job_status";
const WORK: [&str; 17] = [
    STATUS,
    "register_worker_v1",
    "extend_v1",
    "claim_v1",
    "complete_v1",
    "work_v1",
    "fail_v1",
    "release_v1",
    "progress_v1",
    "subscribe_v1",
    "unsubscribe_v1",
    "stop_worker_v1",
    "job_types_v1",
    "active_jobs_v1",
    "database_v1",
    "maintain_v1",
    METRICS,
];
/// For whoever scrapes over a connection of their own, too.
const METRICS: &str = "metrics_v1";
/// Views are made of these: in a view a function acts as the view's reader. They read no table.
const ROWS: [&str; 6] = ["ready_job", "scheduled_job", "running_job", "ended_job", "due_at", "interval_text"];
const LOOK: [&str; 3] = ["get_job", "list_jobs", "counts"];
const STEER: [&str; 26] = [
    "cancel",
    "retry",
    "pause_queue",
    "resume_queue",
    "configure_queue",
    "put_job_type",
    "demand",
    "lead_v1",
    "resign_v1",
    "observe_v1",
    "subscribe_queues_v1",
    "record_decisions_v1",
    "drain_v1",
    "confirm_drained_v1",
    "end_replicas_v1",
    "put_schedule",
    "enable_schedule",
    "disable_schedule",
    "remove_schedule",
    "run_schedule",
    "due_schedules_v1",
    "plan_schedule_v1",
    "fire_schedule_v1",
    "scaler_error_v1",
    "sync_catalog_v1",
    "catalog_sources_v1",
];
const VIEWS: [&str; 7] = ["jobs", "queues", "workers", "job_types", "decisions", "controllers", "schedules"];
const CARRIED: [&str; 4] = ["payload", "result", "headers", "progress"];

#[tokio::test]
async fn each_role_may_call_its_functions_and_no_other() {
    let db = database().await;
    let rows = db
        .client
        .query("SELECT proname, oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace", &[])
        .await
        .unwrap();
    assert!(rows.len() > 30);
    for row in &rows {
        let (name, signature): (String, String) = (row.get(0), row.get(1));
        let name = name.as_str();
        for role in ROLES {
            let may = match role {
                "rowlock_enqueuer" => ENQUEUE.contains(&name),
                "rowlock_worker" => WORK.contains(&name),
                "rowlock_reader" => name == METRICS || ROWS.contains(&name) || LOOK.contains(&name),
                _ => [&ENQUEUE[..], &WORK, &STEER, &ROWS, &LOOK].concat().contains(&name),
            };
            let has: bool = db
                .one("SELECT has_function_privilege($1::text::name, $2::text, 'EXECUTE')", &[&role, &signature])
                .await;
            assert_eq!(has, may, "{role} on {signature}");
        }
    }
}

#[tokio::test]
async fn no_role_has_a_table_or_sequence_and_readers_see_views_without_what_jobs_carry() {
    let db = database().await;
    let rows = db
        .client
        .query("SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = 'rowlock'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')", &[])
        .await
        .unwrap();
    assert!(rows.len() > 30);
    for row in &rows {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        let full = format!("rowlock.{name}");
        for role in ROLES {
            if kind == "S" {
                let any: bool = db
                    .one(
                        "SELECT has_sequence_privilege($1::text::name, $2::text, 'USAGE, SELECT, UPDATE')",
                        &[&role, &full],
                    )
                    .await;
                assert!(!any, "{role} on {full}");
                continue;
            }
            let write: bool = db
                .one(
                    "SELECT has_table_privilege($1::text::name, $2::text, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                         OR has_any_column_privilege($1::text::name, $2::text, 'INSERT, UPDATE, REFERENCES')",
                    &[&role, &full],
                )
                .await;
            assert!(!write, "{role} can write {full}");
            let columns = db
                .client
                .query(
                    "SELECT attname::text, has_column_privilege($1::text::name, attrelid, attnum, 'SELECT') FROM pg_attribute
                      WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped",
                    &[&role, &full],
                )
                .await
                .unwrap();
            for c in columns {
                let (column, has): (String, bool) = (c.get(0), c.get(1));
                let view = kind == "v" && VIEWS.contains(&name.as_str());
                let may = view
                    && match role {
                        "rowlock_reader" => {
                            !["jobs", "schedules"].contains(&name.as_str()) || !CARRIED.contains(&column.as_str())
                        }
                        "rowlock_admin" => true,
                        _ => false,
                    };
                assert_eq!(has, may, "{role} reads {full}.{column}");
            }
        }
    }
}

#[tokio::test]
async fn the_public_has_nothing() {
    let db = database().await;
    let granted: i64 = db
        .one(
            "SELECT count(*) FROM (
               SELECT coalesce(proacl, acldefault('f', proowner)) AS acl FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace
               UNION ALL SELECT coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner)) FROM pg_class
                WHERE relnamespace = 'rowlock'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
               UNION ALL SELECT attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'rowlock'::regnamespace
               UNION ALL SELECT nspacl FROM pg_namespace WHERE nspname = 'rowlock') o, aclexplode(o.acl) x WHERE x.grantee = 0",
            &[],
        )
        .await;
    assert_eq!(granted, 0);
    db.run("DO $$ BEGIN CREATE ROLE it_nobody; EXCEPTION WHEN duplicate_object THEN NULL; END $$; SET ROLE it_nobody")
        .await;
    for sql in ["SELECT rowlock.enqueue('t')", "SELECT * FROM rowlock.queues", "SELECT * FROM rowlock.ready"] {
        assert_eq!(db.refusal(sql).await.0, "42501", "{sql}");
    }
}

#[tokio::test]
async fn calls_beyond_a_role_are_refused_and_those_within_work() {
    let db = database().await;
    let id = db.enqueue().await;
    let cancel = format!("SELECT rowlock.cancel('{id}')");
    let get = format!("SELECT * FROM rowlock.get_job('{id}')");
    let register = "SELECT rowlock.register_worker_v1('w', 'i', '{default}', 1)";
    let keep = "SELECT * FROM rowlock.maintain_v1(gen_random_uuid())";
    let summary = "SELECT id, status, tags FROM rowlock.jobs";
    let types = "SELECT * FROM rowlock.job_types_v1()";
    let sets: [(&str, &[&str], &[&str]); 4] = [
        (
            "rowlock_enqueuer",
            &[
                "SELECT rowlock.enqueue('t', queue => 'new')",
                "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}]')",
                "SELECT rowlock.enqueue_batch_v1('{t}', '{\"{}\"}')",
                "SELECT * FROM rowlock.job_status(gen_random_uuid())",
            ],
            &[
                &cancel,
                &get,
                register,
                keep,
                summary,
                types,
                "SELECT * FROM rowlock.queues",
                "SELECT rowlock.demand()",
                "SELECT rowlock.pause_queue('default')",
                "SELECT nextval('rowlock.position')",
            ],
        ),
        (
            "rowlock_worker",
            &[
                register,
                keep,
                types,
                "SELECT * FROM rowlock.claim_v1(rowlock.register_worker_v1('w', 'j', '{default}', 1), '{default}', 1)",
            ],
            &[
                "SELECT rowlock.enqueue('t')",
                &cancel,
                &get,
                summary,
                "SELECT * FROM rowlock.workers",
                "SELECT * FROM rowlock.worker",
                "SELECT rowlock.put_job_type('{\"name\": \"x\"}')",
                "SELECT rowlock.sweep()",
                "SELECT rowlock.rescue()",
            ],
        ),
        (
            "rowlock_reader",
            &[
                summary,
                "SELECT * FROM rowlock.queues",
                "SELECT * FROM rowlock.workers",
                "SELECT * FROM rowlock.job_types",
                "SELECT * FROM rowlock.decisions",
                "SELECT name, next_at FROM rowlock.schedules",
                "SELECT * FROM rowlock.metrics_v1()",
                &get,
                "SELECT rowlock.list_jobs()",
                "SELECT rowlock.counts()",
            ],
            &[
                "SELECT * FROM rowlock.jobs",
                "SELECT payload FROM rowlock.schedules",
                "SELECT rowlock.run_schedule('s')",
                "SELECT payload FROM rowlock.jobs",
                "SELECT headers FROM rowlock.jobs",
                "SELECT result FROM rowlock.jobs",
                "SELECT j FROM rowlock.jobs j",
                "SELECT rowlock.enqueue('t')",
                &cancel,
                "SELECT * FROM rowlock.history",
                "SELECT * FROM rowlock.ready",
            ],
        ),
        (
            "rowlock_admin",
            &[
                "SELECT * FROM rowlock.jobs",
                &get,
                "SELECT rowlock.list_jobs()",
                "SELECT rowlock.demand()",
                "SELECT rowlock.pause_queue('default')",
                "SELECT rowlock.resume_queue('default')",
                "SELECT rowlock.configure_queue('default', 5, 3)",
                "SELECT rowlock.put_job_type('{\"name\": \"x\"}')",
                "SELECT rowlock.enqueue('t')",
                register,
                "SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"every\": \"1 hour\"}')",
                "SELECT rowlock.run_schedule('s')",
                "SELECT rowlock.lead_v1(gen_random_uuid(), 'c')",
                "SELECT rowlock.observe_v1('{default}')",
            ],
            &[
                "SELECT * FROM rowlock.ready",
                "SELECT rowlock.fence(1)",
                "UPDATE rowlock.leader SET epoch = 0",
                "DELETE FROM rowlock.history",
                "UPDATE rowlock.queue SET paused = true",
                "SELECT rowlock.sweep()",
                "SELECT rowlock.fold()",
                "SELECT nextval('rowlock.lease_id')",
                "TRUNCATE rowlock.history_0",
                "SELECT rowlock.end_job(NULL, 'failed', NULL, NULL, NULL, NULL)",
                "CREATE TABLE rowlock.mine (n int)",
            ],
        ),
    ];
    for (role, may, may_not) in sets {
        let client = connect(&db.url).await;
        client.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        for sql in may {
            if let Err(e) = client.batch_execute(sql).await {
                panic!("{role}: {sql}: {e:?}");
            }
        }
        for sql in may_not {
            assert_eq!(refusal(&client, sql).await.0, "42501", "{role}: {sql}");
        }
    }
}

#[tokio::test]
async fn a_callers_own_objects_shadow_nothing() {
    let db = database().await;
    db.run(
        "DO $$ BEGIN CREATE ROLE it_mallory; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT rowlock_enqueuer, rowlock_worker, rowlock_admin TO it_mallory;
         CREATE SCHEMA mallory AUTHORIZATION it_mallory",
    )
    .await;
    let mallory = connect(&db.url).await;
    mallory
        .batch_execute(
            "SET ROLE it_mallory;
             SET search_path = mallory, pg_temp, pg_catalog;
             CREATE TEMP TABLE ready (LIKE pg_class); CREATE TEMP TABLE queue (id int); CREATE TEMP TABLE tally (n int);
             CREATE TEMP TABLE unique_key (key text); CREATE TEMP TABLE worker (id uuid); CREATE TEMP TABLE jobs (id uuid); CREATE TEMP TABLE lane (n int);
             CREATE TABLE mallory.lease (n int); CREATE TABLE mallory.scheduled (n int);
             CREATE FUNCTION mallory.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
             CREATE FUNCTION mallory.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '1999-01-01'::timestamptz FROM mallory.trap() $$;
             CREATE FUNCTION mallory.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '1999-01-01'::timestamptz FROM mallory.trap() $$;
             CREATE FUNCTION mallory.octet_length(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 FROM mallory.trap() $$;
             CREATE FUNCTION mallory.isfinite(timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true FROM mallory.trap() $$;
             CREATE FUNCTION mallory.name_problem(text) RETURNS text LANGUAGE sql AS $$ SELECT NULL::text $$;
             CREATE FUNCTION mallory.job_problem(jsonb, int, int, timestamptz, text, timestamptz) RETURNS text LANGUAGE sql AS $$ SELECT NULL::text $$;
             CREATE FUNCTION mallory.make_id(timestamptz, int, smallint, bigint) RETURNS uuid LANGUAGE sql AS $$ SELECT NULL::uuid $$;
             CREATE FUNCTION mallory.int8_eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT true FROM mallory.trap() $$;
             CREATE OPERATOR mallory.~ (RIGHTARG = int, FUNCTION = pg_catalog.int4um);
             CREATE OPERATOR mallory.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = mallory.int8_eq)",
        )
        .await
        .unwrap();
    for sql in [
        "SELECT rowlock.enqueue('t', '{}', 'default', 7, 3, pg_catalog.now() - interval '1 s', 'k')",
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"unique_key\": \"l\"}]')",
        "SELECT rowlock.claim_v1(rowlock.register_worker_v1('w', 'i', '{default}', 1), '{default}', 1)",
        "SELECT rowlock.list_jobs()",
        "SELECT rowlock.demand()",
        "SELECT rowlock.lead_v1('00000000-0000-0000-0000-000000000002', 'c')",
        "SELECT rowlock.subscribe_queues_v1(1, '{default}')",
        "SELECT rowlock.observe_v1('{default}')",
        "SELECT rowlock.put_schedule('{\"name\": \"s\", \"type\": \"t\", \"every\": \"1 hour\"}')",
        "SELECT rowlock.drain_v1(1, '{00000000-0000-0000-0000-000000000001}')",
        "SELECT rowlock.end_replicas_v1(1, '{nobody}')",
        "SELECT * FROM rowlock.jobs",
        "SELECT * FROM rowlock.queues",
        "SELECT rowlock.pause_queue('default')",
        "SELECT rowlock.maintain_v1('00000000-0000-0000-0000-000000000001')",
    ] {
        if let Err(e) = mallory.batch_execute(sql).await {
            panic!("{sql}: {e:?}");
        }
    }
    assert_eq!(refusal(&mallory, "SELECT rowlock.enqueue('')").await.0, "RL001");
    assert_eq!(refusal(&mallory, "SELECT rowlock.enqueue('t', priority => 99999)").await.0, "RL004");
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE created_at > now() - interval '1 minute'", &[]).await,
        2
    );
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE status = 'running' AND priority = 7", &[]).await,
        1
    );
    assert_eq!(mallory.query_one("SELECT count(*) FROM pg_temp.jobs", &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn every_definer_function_pins_its_search_path() {
    let db = database().await;
    let loose: i64 = db
        .one(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'rowlock'::regnamespace AND prosecdef
              AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, rowlock, pg_temp']",
            &[],
        )
        .await;
    assert_eq!(loose, 0);
}
