//! Two controllers, of which one leads: killed, frozen, thawed. Nothing happens twice.
#![allow(clippy::print_stdout)] // the figure is what a test is for

use std::time::{Duration, Instant};

use rowlock::JobQueue;
use serde_json::json;

use crate::{
    support::{Db, database, eventually},
    work::{Program, Working, job, options, put_type},
};

/// Short, so that fifty leaders can be killed in CI.
const LEASE: Duration = Duration::from_secs(1);

/// How often the leader is killed; another number on demand.
fn kills() -> usize {
    std::env::var("ROWLOCK_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

fn controller(db: &Db) -> Program {
    Program::run(db, &["controller", "--lease", "1s"])
}

/// The reign, and the process of who leads; none if nobody does.
async fn reign(db: &Db) -> Option<(i64, u32)> {
    let sql = "SELECT epoch, split_part(name, ':', 2) FROM rowlock.leader WHERE held_until > clock_timestamp()";
    let row = db.client.query_opt(sql, &[]).await.unwrap()?;
    Some((row.get(0), row.get::<_, String>(1).parse().unwrap()))
}

async fn schedule(db: &Db) {
    let schedule = json!({"name": "s", "type": "t", "every": "1 second", "catch_up": "all"});
    db.client.execute("SELECT rowlock.put_schedule($1)", &[&schedule]).await.unwrap();
}

/// Ticks that were enqueued twice, and those that were left out between the first and the last.
async fn twice_and_missing(db: &Db) -> (i64, i64, i64) {
    let row = db
        .client
        .query_one(
            "WITH tick AS (SELECT (headers ->> 'rowlock-tick')::timestamptz AS at, count(*) AS n FROM rowlock.jobs
                            WHERE headers ? 'rowlock-tick' GROUP BY 1)
             SELECT count(*) FILTER (WHERE n > 1), coalesce(extract(epoch FROM max(at) - min(at))::int8 + 1 - count(*), 0), count(*) FROM tick",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_again_and_again_loses_no_tick_and_does_none_twice() {
    let db = database().await;
    put_type(&db, json!({"command": ["true"]})).await;
    schedule(&db).await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let working = Working::start(&q, options());
    let mut controllers = vec![controller(&db), controller(&db)];
    eventually("one leads", || async { reign(&db).await.is_some() }).await;
    let (mut slowest, mut ids) = (Duration::ZERO, Vec::new());
    for _ in 0..kills() {
        eventually("a tick is done in this reign", || async {
            db.one::<bool>(
                "SELECT coalesce(max(last_at) > clock_timestamp() - interval '1 second', false) FROM rowlock.schedule",
                &[],
            )
            .await
        })
        .await;
        for _ in 0..50 {
            ids.push(q.enqueue("t", json!({})).await.unwrap().id);
        }
        let (epoch, leader) = reign(&db).await.unwrap();
        let at = controllers.iter().position(|c| c.0.id() == leader).expect("the leader is one of ours");
        let killed = Instant::now();
        drop(controllers.remove(at));
        eventually("the other leads", || async { reign(&db).await.is_some_and(|(e, _)| e > epoch) }).await;
        slowest = slowest.max(killed.elapsed());
        controllers.push(controller(&db));
    }
    println!("the slowest of {} took over after {slowest:?}", kills());
    assert!(slowest <= LEASE + Duration::from_secs(1), "the slowest took {slowest:?}");
    eventually("the last tick is done", || async { twice_and_missing(&db).await.1 == 0 }).await;
    drop(controllers);
    let (twice, missing, ticks) = twice_and_missing(&db).await;
    assert_eq!((twice, missing), (0, 0), "of {ticks} ticks");
    assert!(ticks as usize > kills());
    for id in ids {
        eventually("the job ends", || async { job(&q, id).await.status == rowlock::Status::Completed }).await;
    }
    working.stop().await;
}

#[tokio::test]
async fn a_frozen_leader_thawed_after_another_took_over_changes_nothing() {
    let db = database().await;
    schedule(&db).await;
    let controllers = [controller(&db), controller(&db)];
    eventually("ticks are done", || async { twice_and_missing(&db).await.2 > 1 }).await;
    let (epoch, leader) = reign(&db).await.unwrap();
    let old = controllers.iter().find(|c| c.0.id() == leader).unwrap();
    old.signal("-STOP");
    eventually("the other leads", || async { reign(&db).await.is_some_and(|(e, _)| e > epoch) }).await;
    let (newer, other) = reign(&db).await.unwrap();
    assert_ne!(leader, other);
    old.signal("-CONT");
    // Until it has had the time to do harm: it looks at the schedules each second.
    let thawed = Instant::now();
    eventually("the new leader did four ticks more", || async {
        thawed.elapsed() > 2 * LEASE && twice_and_missing(&db).await.1 == 0
    })
    .await;
    assert_eq!(reign(&db).await.unwrap(), (newer, other), "the new one leads on");
    assert_eq!(twice_and_missing(&db).await.0, 0);
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_over_at_once() {
    let db = database().await;
    let mut first = Program::run(&db, &["controller", "--lease", "60s"]);
    eventually("it leads", || async { reign(&db).await.is_some() }).await;
    let second = Program::run(&db, &["controller", "--lease", "60s"]);
    first.signal("-TERM");
    eventually("the other leads", || async { reign(&db).await.is_some_and(|(_, pid)| pid == second.0.id()) }).await;
    let mut code = None;
    eventually("it ends", || {
        code = first.0.try_wait().unwrap();
        async move { code.is_some() }
    })
    .await;
    assert!(code.unwrap().success());
}

#[tokio::test]
async fn every_write_of_a_reign_that_is_over_is_refused_and_changes_nothing() {
    let db = database().await;
    schedule(&db).await;
    let worker = db.worker(60.0).await;
    let lead = async |name: &str| {
        let sql = "SELECT epoch FROM rowlock.lead_v1(md5($1)::uuid, $1)";
        db.one::<Option<i64>>(sql, &[&name]).await
    };
    assert_eq!((lead("a").await, lead("a").await, lead("b").await), (Some(1), Some(1), None));
    db.run("UPDATE rowlock.leader SET held_until = clock_timestamp()").await;
    assert_eq!(lead("b").await, Some(2));
    let changes = "(SELECT count(*) FROM rowlock.subscription) + (SELECT count(*) FROM rowlock.decision) + (SELECT count(*) FROM rowlock.total_scaler) + (SELECT count(*) FROM rowlock.jobs)
         + (SELECT count(*) FROM rowlock.worker WHERE draining OR lease_until < clock_timestamp()) + (SELECT count(next_at) FROM rowlock.schedule)";
    for call in [
        "subscribe_queues_v1(1, '{default}')".to_owned(),
        r#"record_decisions_v1(1, '[{"at": "now", "deployment": "d", "current": 0, "wanted": 0, "reason": "enough", "inputs": {}}]')"#.to_owned(),
        "scaler_error_v1(1, 'd', 'grow')".to_owned(),
        format!("drain_v1(1, '{{{worker}}}')"),
        format!("confirm_drained_v1(1, '{{{worker}}}')"),
        "end_replicas_v1(1, '{host}')".to_owned(),
        "plan_schedule_v1(1, 's', (SELECT updated_at FROM rowlock.schedule), now())".to_owned(),
        "fire_schedule_v1(1, 's', (SELECT updated_at FROM rowlock.schedule), now(), '{}', now() + interval '1 s')".to_owned(),
    ] {
        let (code, message) = db.refusal(&format!("SELECT rowlock.{call}")).await;
        assert_eq!((code.as_str(), message.as_str()), ("RL030", "epoch: the term 1 is over, nothing was changed"), "{call}");
        assert_eq!(db.one::<i64>(&format!("SELECT {changes}"), &[]).await, 0, "{call}");
    }
    // One whose lease ended, with nobody after it, is over too: it does not know that nobody was there.
    db.run("UPDATE rowlock.leader SET held_until = clock_timestamp()").await;
    assert_eq!(db.refusal("SELECT rowlock.subscribe_queues_v1(2, '{default}')").await.0, "RL030");
    assert_eq!(lead("b").await, Some(3));
    db.run("SELECT rowlock.subscribe_queues_v1(3, '{default}')").await;
}
