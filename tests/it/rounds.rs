//! The rounds of maintenance: who makes them, what one finds, and what goes wrong in a part.

use uuid::Uuid;

use crate::support::{Db, connect, database};

async fn later(db: &Db, seconds: i32) -> Uuid {
    db.one(
        "SELECT id FROM rowlock.enqueue('t', execute_at => clock_timestamp() + make_interval(secs => $1::int))",
        &[&seconds],
    )
    .await
}

/// Logical replication, a change feed, an upgrade by publication.
#[tokio::test]
async fn with_a_publication_of_all_tables_every_call_works() {
    let db = database().await;
    let unnamed: Vec<String> = db
        .client
        .query(
            "SELECT c.relname::text FROM pg_class c
              WHERE c.relnamespace = 'rowlock'::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident <> 'f'
                AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(unnamed, Vec::<String>::new(), "a row of these could not be deleted");
    db.run("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let worker = db.worker(60.0).await;
    let id = later(&db, 3600).await;
    db.make_due().await;
    let job = db.claim_one(worker).await;
    assert_eq!(db.fail(worker, &job, "x", false).await, "failed");
    db.run(&format!("SELECT rowlock.retry('{id}')")).await;
    db.run("UPDATE rowlock.keeper SET folded_at = '-infinity', swept_at = '-infinity'").await;
    db.keep().await;
    assert_eq!(db.one::<String>("SELECT failures::text FROM rowlock.keeper", &[]).await, "{}");
}

#[tokio::test]
async fn a_part_of_a_round_that_goes_wrong_stops_no_other_and_is_told() {
    let db = database().await;
    db.run(
        "CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER broken BEFORE DELETE ON rowlock.tally EXECUTE FUNCTION public.broken()",
    )
    .await;
    later(&db, 3600).await;
    db.run("UPDATE rowlock.scheduled SET execute_at = clock_timestamp() - interval '1 second'").await;
    let lost = db.worker(60.0).await;
    db.enqueue().await;
    db.claim_one(lost).await;
    db.run("UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 second'").await;
    assert_eq!(db.keep().await, (1, 1), "promoted and rescued");
    let told = "SELECT value FROM rowlock.metrics_v1() WHERE what = 'maintenance_failures' AND label = 'fold'";
    assert_eq!(db.one::<f64>(told, &[]).await, 1.0);
    let why: String = db.one("SELECT failures -> 'fold' ->> 'error' FROM rowlock.keeper", &[]).await;
    assert!(why.contains("broken"), "{why}");
    let shown: String = db
        .one("SELECT type FROM rowlock.metrics_v1() WHERE what = 'maintenance_failed_at' AND label = 'fold'", &[])
        .await;
    assert_eq!(shown, why);
    let never = "SELECT array_agg(label ORDER BY label) FROM rowlock.metrics_v1()
                  WHERE what = 'maintenance_failures' AND value = 0";
    let never: Vec<String> = db.one(never, &[]).await;
    assert_eq!(never, ["promote", "rescue", "sweep", "wake"], "a counter begins before its first failure");
}

/// A job may complete in a transaction of its own, which is open for a while.
#[tokio::test]
async fn lost_workers_whose_jobs_others_have_locked_keep_no_other_from_being_rescued() {
    let db = database().await;
    let stranger = connect(&db.url).await;
    for _ in 0..30 {
        let worker = db.worker(60.0).await;
        db.enqueue().await;
        db.claim_one(worker).await;
    }
    stranger.batch_execute("BEGIN; SELECT FROM rowlock.lease FOR UPDATE").await.unwrap();
    db.run("UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 minute'").await;
    assert_eq!(db.keep().await.1, 0);
    let lost = db.worker(60.0).await;
    db.enqueue().await;
    db.claim_one(lost).await;
    db.run("UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until > '-infinity'").await;
    assert_eq!(db.keep().await.1, 1, "the last one");
    stranger.batch_execute("COMMIT").await.unwrap();
    assert_eq!(db.keep().await.1, 30);
}

/// A server whose clock was ahead has been replaced by one whose clock is right.
#[tokio::test]
async fn a_deadline_of_a_clock_that_went_back_holds_nobody_up() {
    let db = database().await;
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let keeper = "SELECT keeper FROM rowlock.maintain_v1($1)";
    assert!(db.one::<bool>(keeper, &[&a]).await);
    db.run("UPDATE rowlock.keeper SET held_until = held_until + interval '1 hour'").await;
    assert!(db.one::<bool>(keeper, &[&b]).await, "the place of the keeper");

    let leads = "SELECT epoch FROM rowlock.lead_v1($1, 'c', 15)";
    let old: i64 = db.one(leads, &[&a]).await;
    db.run("UPDATE rowlock.leader SET held_until = held_until + interval '1 hour'").await;
    let (code, _) = db.refusal(&format!("SELECT rowlock.record_decisions_v1({old}, '[]')")).await;
    assert_eq!(code, "RL030");
    assert!(db.one::<Option<i64>>(leads, &[&b]).await > Some(old), "the leadership");

    // A worker has a lease from now on: it may live.
    let worker = db.worker(60.0).await;
    db.run("UPDATE rowlock.worker SET lease_until = lease_until + interval '1 hour'").await;
    db.keep().await;
    let left = "SELECT lease_until <= clock_timestamp() + interval '1 minute' FROM rowlock.worker WHERE id = $1";
    assert!(db.one::<bool>(left, &[&worker]).await);
}

#[tokio::test]
async fn a_keeper_that_stops_gives_its_place_back() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    let keeper = "SELECT keeper FROM rowlock.maintain_v1($1)";
    assert!(db.one::<bool>(keeper, &[&worker]).await);
    assert!(!db.one::<bool>(keeper, &[&Uuid::now_v7()]).await);
    db.run(&format!("SELECT rowlock.stop_worker_v1('{worker}')")).await;
    assert!(db.one::<bool>(keeper, &[&Uuid::now_v7()]).await);
}

#[tokio::test]
async fn after_a_time_without_anybody_jobs_run_in_the_order_in_which_they_became_due() {
    let db = database().await;
    let (early, first, second) = (db.enqueue().await, later(&db, 100).await, later(&db, 200).await);
    // They became due, and then others came, before anybody looked.
    db.run("UPDATE rowlock.scheduled SET execute_at = execute_at - interval '201 seconds'").await;
    db.run("UPDATE rowlock.ready SET created_at = created_at - interval '300 s', execute_at = execute_at - interval '300 s'").await;
    let mut newer = Vec::new();
    for _ in 0..1500 {
        newer.push(db.enqueue().await);
    }
    let retry = later(&db, 100).await;
    db.run("UPDATE rowlock.scheduled SET execute_at = clock_timestamp() - interval '150 s' WHERE pos = (SELECT max(pos) FROM rowlock.scheduled)").await;
    db.keep().await;
    let worker = db.worker(60.0).await;
    let claimed: Vec<Uuid> = db.claim(worker, 6).await.iter().map(|j| j.id).collect();
    assert_eq!(claimed, [early, retry, first, second, newer[0], newer[1]]);
}

#[tokio::test]
async fn many_jobs_that_are_found_late_keep_their_order_and_a_released_one_its_place() {
    let db = database().await;
    db.run("SELECT rowlock.enqueue('t', jsonb_build_object('n', n), execute_at => clock_timestamp() + n * interval '1 ms' + interval '1 hour') FROM generate_series(1, 1900) n").await;
    db.run("UPDATE rowlock.scheduled SET execute_at = execute_at - interval '2 hours'").await;
    db.enqueue().await;
    db.keep().await;
    let worker = db.worker(3600.0).await;
    let jobs = db.claim(worker, 1000).await;
    let order: Vec<i32> = db
        .client
        .query("SELECT (j.payload ->> 'n')::int FROM rowlock.lease l, unnest(l.jobs) j ORDER BY j.pos", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(order, (1..=1000).collect::<Vec<_>>());
    for job in jobs.iter().rev() {
        assert_eq!(db.release(worker, job, None, false).await, 0);
    }
    let again: Vec<Uuid> = db.claim(worker, 1000).await.iter().map(|j| j.id).collect();
    assert_eq!(again, jobs.iter().map(|j| j.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_busy_queue_hides_nothing_of_a_quiet_one_from_the_controller() {
    let db = database().await;
    db.run(
        "SELECT rowlock.enqueue('busy', queue => 'busy', execute_at => clock_timestamp() + interval '1 h') FROM generate_series(1, 1500);
         SELECT rowlock.enqueue('mine', queue => 'mine', execute_at => clock_timestamp() + interval '61 min');
         SELECT rowlock.enqueue('mine', queue => 'mine') FROM generate_series(1, 2);
         SELECT rowlock.enqueue('busy', queue => 'busy') FROM generate_series(1, 1000)",
    )
    .await;
    let worker: Uuid = db.one("SELECT rowlock.register_worker_v1('w', 'host/1', '{busy, mine}', 1000, 600)", &[]).await;
    let mine = db.claim_from(worker, "mine", 2).await;
    for _ in 0..300 {
        db.claim_from(worker, "busy", 1).await;
    }
    assert!(db.complete(worker, &mine[..1]).await.is_empty());
    let busy = db.claim_from(worker, "busy", 700).await;
    assert!(db.complete(worker, &busy).await.is_empty());
    db.keep().await;
    let seen: serde_json::Value = db.one("SELECT rowlock.observe_v1('{mine}', soon_seconds => 7200)", &[]).await;
    for part in ["soon", "ended", "running"] {
        assert_eq!(seen[part][0]["type"], "mine", "{part}: {seen}");
        assert_eq!(seen[part].as_array().unwrap().len(), 1, "{part}: {seen}");
    }
}

#[tokio::test]
async fn a_type_with_many_running_jobs_hides_no_other_of_its_queue() {
    let db = database().await;
    let worker: Uuid = db.one("SELECT rowlock.register_worker_v1('w', 'host/1', '{default}', 1000, 600)", &[]).await;
    db.run("SELECT rowlock.enqueue('many') FROM generate_series(1, 400); SELECT rowlock.enqueue('rare')").await;
    for _ in 0..41 {
        db.claim(worker, 10).await;
    }
    let seen: serde_json::Value = db.one("SELECT rowlock.observe_v1('{default}')", &[]).await;
    let mut types: Vec<&str> =
        seen["running"].as_array().unwrap().iter().map(|r| r["type"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["many", "rare"], "{seen}");
}

/// Back-filled jobs are due at once; they have not waited since 1970.
#[tokio::test]
async fn a_wait_begins_when_the_job_came_even_if_its_time_is_long_ago() {
    let db = database().await;
    db.run("SELECT rowlock.enqueue('t', execute_at => '1970-01-01T00:00:00Z')").await;
    let age: f64 = db.one("SELECT oldest_age_seconds FROM rowlock.queues", &[]).await;
    let told: f64 = db.one("SELECT value FROM rowlock.metrics_v1() WHERE what = 'queue_oldest_age'", &[]).await;
    let seen: serde_json::Value = db.one("SELECT rowlock.observe_v1('{default}')", &[]).await;
    let seen = seen["lanes"][0]["types"]["t"].as_f64().unwrap();
    let worker = db.worker(60.0).await;
    db.claim_one(worker).await;
    let waited: f64 = db.one("SELECT sum(seconds) FROM rowlock.tally WHERE wait IS NOT NULL", &[]).await;
    for (what, seconds) in [("queues", age), ("metrics", told), ("observe", seen), ("wait", waited)] {
        assert!((0.0..60.0).contains(&seconds), "{what}: {seconds}");
    }
    // What people asked for is kept.
    assert!(db.one::<bool>("SELECT execute_at = '1970-01-01T00:00:00Z' FROM rowlock.jobs", &[]).await);
}
