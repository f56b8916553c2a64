//! What the hot and the periodic calls touch does not grow with the backlog: in Postgres's own buffer
//! counts, not in time.
#![allow(clippy::print_stdout)] // the figures are what this test is for

use rowlock::metrics::{Reading, exposition};
use serde_json::Value;

use crate::support::{Db, connect, database};

const METRICS: &str = "SELECT * FROM rowlock.metrics_v1()";

async fn fill(db: &Db, jobs: usize) {
    for _ in 0..jobs.div_ceil(10_000) {
        let n = jobs.min(10_000);
        db.run(&format!(
            "SELECT count(*) FROM (SELECT array_agg('t'::text) t, array_agg('{{\"a\": 1}}'::jsonb) p FROM generate_series(1, {n})) a, rowlock.enqueue_batch_v1(a.t, a.p)"
        ))
        .await;
    }
    db.keep().await;
    for table in ["ready", "tally", "total"] {
        db.run(&format!("VACUUM ANALYZE rowlock.{table}")).await;
    }
}

/// Buffers a statement touched, hit or read. Run twice: the first fills the session's caches.
async fn buffers(db: &Db, sql: &str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
    db.one::<Value>(&explain, &[]).await;
    let plan: Value = db.one(&explain, &[]).await;
    let top = &plan[0]["Plan"];
    top["Shared Hit Blocks"].as_i64().unwrap() + top["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn a_million_waiting_jobs_cost_a_call_no_more_than_a_thousand() {
    let (mut touched, mut dbs) = (Vec::new(), Vec::new());
    for jobs in [1000, 1_000_000] {
        let db = database().await;
        fill(&db, jobs).await;
        let worker = db.worker(600.0).await;
        let middle: uuid::Uuid = db.one("SELECT id FROM rowlock.ready OFFSET 500 LIMIT 1", &[]).await;
        let calls = [
            ("claim", format!("SELECT * FROM rowlock.claim_v1('{worker}', '{{default}}', 10)")),
            ("get_job", format!("SELECT * FROM rowlock.get_job('{middle}')")),
            ("cancel", "SELECT rowlock.cancel(id) FROM (SELECT id FROM rowlock.ready OFFSET 500 LIMIT 1) j".to_owned()),
            ("queues", "SELECT * FROM rowlock.queues".to_owned()),
            ("metrics", METRICS.to_owned()),
            ("demand", "SELECT * FROM rowlock.demand()".to_owned()),
            ("observe", "SELECT rowlock.observe_v1('{default}')".to_owned()),
            ("list", "SELECT * FROM rowlock.list_jobs('pending')".to_owned()),
            ("keep", format!("SELECT * FROM rowlock.maintain_v1('{worker}')")),
        ];
        let mut counts = Vec::new();
        for (name, sql) in calls {
            // Whoever calls next is the keeper, and has a fold to do.
            db.run("UPDATE rowlock.keeper SET held_until = '-infinity', folded_at = '-infinity'").await;
            counts.push((name, buffers(&db, &sql).await));
        }
        touched.push(counts);
        dbs.push(db);
    }
    for call in ["metrics", "observe"] {
        let of = |counts: &[(&str, i64)]| counts.iter().find(|(name, _)| *name == call).unwrap().1 as f64;
        assert!(of(&touched[1]) <= of(&touched[0]) * 1.5, "{call}: {touched:?}");
    }
    reads_take_as_long(&dbs[0], &dbs[1]).await;
    for ((name, small), (_, large)) in touched[0].iter().zip(&touched[1]) {
        println!("{name}: {small} buffers with 1,000 waiting, {large} with 1,000,000");
        assert!(
            *large <= small * 3 + 50 && *large < 1000,
            "{name}: {small} buffers with 1,000 waiting, {large} with 1,000,000"
        );
    }
}

/// In time, too: the two take turns, so that what else the machine does meets both alike.
async fn reads_take_as_long(small: &Db, large: &Db) {
    let facts = rowlock::metrics::Facts::new("controller");
    for (name, scrape) in [("/metrics", true), ("the demand's read", false)] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..101 {
            for (db, times) in [small, large].into_iter().zip(&mut times) {
                let asked = std::time::Instant::now();
                if scrape {
                    let reading = Reading::read(&db.client).await.unwrap();
                    assert!(exposition(Some(&reading), None, &facts.known()).contains("rowlock_jobs{"));
                } else {
                    db.one::<Value>("SELECT rowlock.observe_v1('{default}')", &[]).await;
                }
                times.push(asked.elapsed());
            }
        }
        let [small, large] = times.map(|mut t| {
            t.sort();
            // The quicker ones: what is slow is slow by what else goes on.
            t[t.len() / 4]
        });
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!("{name}: {small:?} with 1,000 waiting, {large:?} with 1,000,000: {ratio:.2} times");
        assert!(ratio <= 1.5, "{name}: {small:?} with 1,000 waiting, {large:?} with 1,000,000");
    }
}

#[tokio::test]
async fn under_an_old_transaction_a_scrape_with_hints_does_not_walk_what_is_gone() {
    let db = database().await;
    let old = connect(&db.url).await;
    fill(&db, 20_000).await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM rowlock.queue").await.unwrap();
    let worker = db.worker(600.0).await;
    for _ in 0..19 {
        let jobs = db.claim(worker, 1000).await;
        assert!(db.complete(worker, &jobs).await.is_empty());
    }
    let without = buffers(&db, METRICS).await;
    let hints = "(SELECT array_agg(queue::int4) q, array_agg(label::int2) r, array_agg(value::int8) a FROM rowlock.metrics_v1() WHERE what = 'searched')";
    let row = db.client.query_one(&format!("SELECT h.q, h.r, h.a FROM {hints} h"), &[]).await.unwrap();
    let (q, r, a): (Vec<i32>, Vec<i16>, Vec<i64>) = (row.get(0), row.get(1), row.get(2));
    let with = buffers(
        &db,
        &format!("SELECT * FROM rowlock.metrics_v1(ARRAY{q:?}::int4[], ARRAY{r:?}::int2[], ARRAY{a:?}::int8[])"),
    )
    .await;
    println!("metrics with 19,000 rows gone: {without} buffers, {with} with hints");
    assert!(with * 4 < without, "{without} buffers, {with} with hints");
    // The same is told.
    let age = "SELECT value > 0 FROM rowlock.metrics_v1";
    for args in ["()".to_owned(), format!("(ARRAY{q:?}, ARRAY{r:?}::int2[], ARRAY{a:?}::int8[])")] {
        assert!(db.one::<bool>(&format!("{age}{args} WHERE what = 'queue_oldest_age'"), &[]).await);
    }
}

/// A job's row is made by a function a place, and the planner has to see through it.
#[tokio::test]
async fn the_functions_of_a_job_s_row_are_a_part_of_the_query_and_indexes_are_used() {
    let db = database().await;
    fill(&db, 20_000).await;
    let plan =
        async |sql: &str| db.one::<Value>(&format!("EXPLAIN (VERBOSE, FORMAT JSON) {sql}"), &[]).await.to_string();
    let pending = plan("SELECT * FROM rowlock.jobs WHERE status = 'pending' LIMIT 5").await;
    assert!(pending.contains("\"ready\"") && !pending.contains("history") && !pending.contains("lease"), "{pending}");
    let by_place = "SELECT j.* FROM rowlock.ready r CROSS JOIN LATERAL rowlock.ready_job(r, 'q') j
                     WHERE r.queue = 1 AND r.rank = -6 AND r.pos = 5";
    let by_place = plan(by_place).await;
    assert!(by_place.contains("ready_pkey"), "{by_place}");
    let by_id = "SELECT j.* FROM rowlock.history h CROSS JOIN LATERAL rowlock.ended_job(h, 'q') j
                  WHERE h.id = '00000000-0000-7000-8000-000000000000'";
    let by_id = plan(by_id).await;
    assert!(by_id.contains("history_0_id_idx"), "{by_id}");
    for plan in [pending, by_place, by_id, plan("SELECT * FROM rowlock.jobs").await] {
        assert!(!plan.contains("_job("), "{plan}");
    }
}

/// Called IMMUTABLE, a function that is not would be planned anew in every call instead of becoming a part of it.
#[tokio::test]
async fn small_functions_are_a_part_of_the_query() {
    let db = database().await;
    let sql = "EXPLAIN (VERBOSE, FORMAT JSON)
               SELECT rowlock.history_slot(t.at, t.keep), rowlock.bucket(t.seconds), rowlock.make_id(t.n, t.queue, t.rank, t.n),
                      rowlock.name_problem(t.name), rowlock.job_problem('{}', t.queue, t.queue, t.at, t.name, t.at)
                 FROM (SELECT now() AS at, interval '1 day' AS keep, 1.0::float8 AS seconds, 1::int8 AS n, 1 AS queue, 1::int2 AS rank,
                              'a'::text AS name OFFSET 0) t";
    let plan = db.one::<Value>(sql, &[]).await.to_string();
    for name in ["history_slot(", "bucket(", "make_id(", "name_problem(", "job_problem("] {
        let called = plan.match_indices(name).any(|(at, _)| !plan[..at].ends_with("width_"));
        assert!(!called, "{name} {plan}");
    }
}
