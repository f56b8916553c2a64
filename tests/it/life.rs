//! What becomes of a job.

use crate::support::{connect, database, eventually};

#[tokio::test]
async fn pausing_or_configuring_a_new_queue_makes_it_and_takes_effect() {
    let db = database().await;
    db.run("SELECT rowlock.pause_queue('first')").await;
    db.run("SELECT rowlock.configure_queue('second', 9, 1)").await;
    let paused: i64 = db.one("SELECT count(*) FROM rowlock.queue WHERE name = 'first' AND paused", &[]).await;
    let configured: i64 = db
        .one("SELECT count(*) FROM rowlock.queue WHERE name = 'second' AND priority = 9 AND max_retries = 1", &[])
        .await;
    assert_eq!((paused, configured), (1, 1));
}

#[tokio::test]
async fn a_lease_that_has_expired_is_refused_everywhere_and_its_jobs_are_rescued_without_an_attempt() {
    let db = database().await;
    let id = db.enqueue().await;
    let late = db.worker(0.2).await;
    let job = db.claim_one(late).await;
    eventually("the lease has expired", || async {
        db.one::<bool>("SELECT lease_until < clock_timestamp() FROM rowlock.worker WHERE id = $1", &[&late]).await
    })
    .await;
    assert_eq!(db.complete(late, std::slice::from_ref(&job)).await, [id]);
    assert_eq!(db.fail(late, &job, "x", true).await, "lease lost");
    assert_eq!(db.release(late, &job, None, false).await, 1);
    let extend = format!("SELECT * FROM rowlock.extend_v1('{late}')");
    assert_eq!(db.refusal(&extend).await.0, "RL020");
    assert_eq!(db.refusal(&format!("SELECT * FROM rowlock.claim_v1('{late}', '{{default}}', 1)")).await.0, "RL020");
    assert_eq!(db.status(id).await.as_deref(), Some("running"));

    assert_eq!(db.keep().await.1, 1);
    assert_eq!(db.status(id).await.as_deref(), Some("pending"));
    let next = db.worker(30.0).await;
    let again = db.claim_one(next).await;
    assert_eq!((again.id, again.attempts, again.pos), (id, 0, job.pos));
    // The first worker's right does not come back with the second's.
    assert_eq!(db.complete(late, &[job]).await, [id]);
    assert!(db.complete(next, &[again]).await.is_empty());
}

#[tokio::test]
async fn a_job_that_loses_five_workers_has_failed() {
    let db = database().await;
    let id = db.enqueue().await;
    for _ in 0..5 {
        let worker = db.worker(30.0).await;
        db.claim_one(worker).await;
        db.run(&format!(
            "UPDATE rowlock.worker SET lease_until = clock_timestamp() - interval '1 s' WHERE id = '{worker}'"
        ))
        .await;
        assert_eq!(db.keep().await.1, 1);
    }
    assert_eq!(db.status(id).await.as_deref(), Some("failed"));
    assert_eq!(db.one::<String>("SELECT reason FROM rowlock.history", &[]).await, "crash_loop");
}

#[tokio::test]
async fn a_completion_is_accepted_once_and_a_receipt_may_end_in_parts() {
    let db = database().await;
    for _ in 0..3 {
        db.enqueue().await;
    }
    let worker = db.worker(30.0).await;
    let mut jobs = db.claim(worker, 3).await;
    let last = jobs.pop().unwrap();
    assert!(db.complete(worker, &jobs).await.is_empty());
    assert_eq!(db.complete(worker, &jobs).await.len(), 2);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.jobs WHERE status = 'running'", &[]).await, 1);
    assert!(db.complete(worker, &[last]).await.is_empty());
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.lease", &[]).await, 0);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.history", &[]).await, 3);
}

#[tokio::test]
async fn a_finished_failed_or_cancelled_job_frees_its_key() {
    let db = database().await;
    let worker = db.worker(30.0).await;
    let keyed = "SELECT (rowlock.enqueue('a', unique_key => 'k', max_retries => 0)).id";
    for how in ["complete", "fail", "cancel"] {
        let id: uuid::Uuid = db.one(keyed, &[]).await;
        match how {
            "complete" => drop(db.complete(worker, &[db.claim_one(worker).await]).await),
            "fail" => assert_eq!(db.fail(worker, &db.claim_one(worker).await, "x", true).await, "failed"),
            _ => assert_eq!(db.one::<String>("SELECT rowlock.cancel($1)", &[&id]).await, "cancelled"),
        }
        assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.unique_key", &[]).await, 0, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_racing_on_a_thousand_keys_leave_a_thousand_jobs() {
    let db = database().await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..64_usize {
        let url = db.url.clone();
        tasks.spawn(async move {
            let client = connect(&url).await;
            let mut inserted = 0_i64;
            for n in 0..1000 {
                let key = format!("key {}", (n * 7 + seed * 31) % 1000);
                let row = client
                    .query_one("SELECT inserted FROM rowlock.enqueue('a', unique_key => $1)", &[&key])
                    .await
                    .unwrap();
                inserted += i64::from(row.get::<_, bool>(0));
            }
            inserted
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<i64>(), 1000);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.ready", &[]).await, 1000);
}

#[tokio::test]
async fn totals_say_what_a_count_says_after_every_kind_of_transition() {
    let db = database().await;
    let worker = db.worker(30.0).await;
    for n in 0..40 {
        db.run(&format!(
            "SELECT rowlock.enqueue('a', max_retries => {}, execute_at => {})",
            n % 2,
            if n % 5 == 0 { "now() + '1 h'" } else { "null" }
        ))
        .await;
    }
    for (n, job) in db.claim(worker, 20).await.into_iter().enumerate() {
        match n % 5 {
            0 | 1 => drop(db.complete(worker, &[job]).await),
            2 => drop(db.fail(worker, &job, "x", true).await),
            3 => drop(db.release(worker, &job, Some(0.0), true).await),
            _ => {}
        }
    }
    db.run("SELECT rowlock.cancel(id) FROM (SELECT id FROM rowlock.jobs WHERE status = 'pending' LIMIT 3) j").await;
    db.run(
        "SELECT rowlock.retry(id) FROM (SELECT id FROM rowlock.jobs WHERE status IN ('failed', 'cancelled') LIMIT 2) j",
    )
    .await;
    for folded in [false, true] {
        if folded {
            db.keep().await;
            assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.tally", &[]).await, 0);
        }
        let wrong: i64 = db
            .one(
                "SELECT count(*) FROM rowlock.queues q WHERE (pending, scheduled, running, failed) IS DISTINCT FROM (
                   (SELECT count(*) FROM rowlock.ready), (SELECT count(*) FROM rowlock.scheduled),
                   (SELECT count(*) FROM rowlock.jobs WHERE status = 'running'), (SELECT count(*) FROM rowlock.jobs WHERE status = 'failed'))",
                &[],
            )
            .await;
        assert_eq!(wrong, 0, "folded: {folded}");
    }
}

#[tokio::test]
async fn history_of_no_time_is_not_kept_and_only_an_expired_partition_is_emptied() {
    let db = database().await;
    db.run("SELECT rowlock.put_job_type('{\"name\": \"brief\", \"command\": [\"true\"], \"keep_completed\": \"0\"}')")
        .await;
    let worker = db.worker(30.0).await;
    db.run("SELECT rowlock.enqueue('brief'), rowlock.enqueue('lasting')").await;
    let jobs = db.claim(worker, 2).await;
    assert!(db.complete(worker, &jobs).await.is_empty());
    assert_eq!(db.one::<String>("SELECT string_agg(type, ' ') FROM rowlock.history", &[]).await, "lasting");
    // The same job as if it had ended just before its ring came round to the partition of the past.
    db.run(
        "INSERT INTO rowlock.history SELECT (floor(extract(epoch FROM clock_timestamp()) / 21600)::int8 + 7) % 8, gen_random_uuid(), queue, rank, attempts,
           max_retries, status, created_at, execute_at, started_at, finished_at, 'past', payload FROM rowlock.history",
    )
    .await;
    db.run("SELECT rowlock.sweep()").await;
    assert_eq!(db.one::<String>("SELECT string_agg(type, ' ') FROM rowlock.history", &[]).await, "lasting");
}

#[tokio::test]
async fn a_job_can_complete_inside_its_own_transaction_or_not_at_all() {
    let db = database().await;
    let id = db.enqueue().await;
    let worker = db.worker(30.0).await;
    let job = db.claim_one(worker).await;
    let complete = format!("SELECT * FROM rowlock.complete_v1('{worker}', ARRAY[{}], ARRAY['{id}'::uuid])", job.lease);
    db.run("CREATE TABLE effect (n int)").await;
    db.run(&format!("BEGIN; INSERT INTO effect VALUES (1); {complete}; ROLLBACK")).await;
    assert_eq!(db.status(id).await.as_deref(), Some("running"));
    db.run(&format!("BEGIN; INSERT INTO effect VALUES (1); {complete}; COMMIT")).await;
    assert_eq!(db.status(id).await.as_deref(), Some("completed"));
    assert_eq!(db.one::<i64>("SELECT count(*) FROM effect", &[]).await, 1);
}

/// Of one job all ways to look say the same.
#[tokio::test]
async fn a_job_looks_the_same_by_its_id_in_a_list_and_in_the_view_wherever_it_is() {
    let db = database().await;
    let worker = db.worker(60.0).await;
    let ended = db.enqueue().await;
    let job = db.claim_one(worker).await;
    assert!(db.complete(worker, &[job]).await.is_empty());
    let running = db.enqueue().await;
    db.claim_one(worker).await;
    let later = "SELECT id FROM rowlock.enqueue('t', execute_at => clock_timestamp() + interval '1 hour')";
    let later: uuid::Uuid = db.one(later, &[]).await;
    let ready = db.enqueue().await;
    for id in [ended, running, later, ready] {
        let same = "SELECT (SELECT to_jsonb(g) FROM rowlock.get_job($1) g) = to_jsonb(j)
                       AND (SELECT to_jsonb(l) FROM rowlock.list_jobs() l WHERE l.id = $1) = to_jsonb(j)
                      FROM rowlock.jobs j WHERE j.id = $1";
        assert!(db.one::<bool>(same, &[&id]).await);
    }
    // A job for later was last changed when it came, not when it will be due.
    let updated = "SELECT updated_at = created_at FROM rowlock.get_job($1)";
    assert!(db.one::<bool>(updated, &[&later]).await);
}
