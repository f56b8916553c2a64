//! What the controller cannot do is counted, by reason, and nothing else suffers from it.

use std::time::Instant;

use rowlock::{
    JobQueue,
    controller::{
        self, InvalidLimits, Limits,
        local::LocalOptions,
        target::{Replica, Scaled, Snapshot, Target, TargetError},
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    controller_scale::{Scaling, limits, local},
    metrics::scraped,
    support::{Db, eventually},
    work::with_type,
};

async fn faults(db: &Db, deployment: &str, reason: &str) -> f64 {
    let name = format!("rowlock_scaler_errors_total{{deployment=\"{deployment}\",reason=\"{reason}\"}}");
    scraped(db).await.get(&name).copied().unwrap_or(0.0)
}

#[tokio::test]
async fn a_local_process_that_cannot_be_started_is_counted_and_tried_again() {
    let (q, db) = with_type(json!({"command": ["true"], "expected": "1 second"})).await;
    let program = "/no/such/program".into();
    let options = LocalOptions { program, ..local(&db, limits(2, std::time::Duration::from_secs(1)), 1) };
    let scaling = Scaling::of(&q, options, controller::Options::default());
    q.enqueue("t", json!({})).await.unwrap();
    eventually("two tries have failed", async || faults(&db, "dev", "grow").await >= 2.0).await;
    scaling.stop().await;
}

/// Three Deployments: one that cannot be understood, one that cannot be scaled, and one that can.
#[derive(Default)]
struct Three {
    observed: u32,
    grown: u32,
}

fn deployment(name: &str, limits: Result<Limits, InvalidLimits>, replicas: u32) -> Scaled {
    let replica = |n| Replica { key: format!("{name}-{n}"), group: "one".into(), ordered: Instant::now(), up: true };
    Scaled { name: name.into(), limits, replicas: (0..replicas).map(replica).collect(), unschedulable: 0, hold: None }
}

fn failed(act: &str) -> TargetError {
    TargetError::Process { act: act.into(), source: std::io::Error::other("of this test") }
}

impl Target for Three {
    async fn observe(&mut self) -> Result<Snapshot, TargetError> {
        self.observed += 1;
        if self.observed == 3 {
            return Err(failed("not to be seen this time"));
        }
        let wrong = InvalidLimits { annotations: vec![("rowlock.dev/slots".into(), "expected a number".into())] };
        let limits = || Ok(Limits::new(vec!["default".into()]));
        let deployments = vec![
            deployment("wrong", Err(wrong), 0),
            deployment("refused", limits(), 0),
            deployment("good", limits(), self.grown),
        ];
        Ok(Snapshot { deployments, ..Snapshot::default() })
    }

    async fn grow(&mut self, deployment: &str, to: u32) -> Result<bool, TargetError> {
        if deployment != "good" {
            return Err(failed("it is refused"));
        }
        self.grown = to;
        Ok(true)
    }

    async fn stop(&mut self, _: &str, _: &[String], _: u32) -> Result<bool, TargetError> {
        Ok(true)
    }
}

#[tokio::test]
async fn a_deployment_that_cannot_be_scaled_is_counted_and_keeps_no_other_from_it() {
    let (q, db) = with_type(json!({"command": ["true"], "expected": "1 second"})).await;
    q.enqueue("t", json!({})).await.unwrap();
    let end = CancellationToken::new();
    let run = tokio::spawn(controller::run(q, Three::default(), controller::Options::default(), end.clone()));
    eventually("all is counted", async || {
        let counted = [
            faults(&db, "wrong", "invalid_annotations").await,
            faults(&db, "refused", "grow").await,
            faults(&db, "refused", "look").await,
            faults(&db, "good", "look").await,
        ];
        counted.iter().all(|n| *n >= 1.0)
    })
    .await;
    end.cancel();
    assert_eq!(run.await.unwrap().unwrap().grown, 1);
    assert_eq!(faults(&db, "good", "grow").await, 0.0);
}

/// The only Deployment has wrong annotations: they are counted although there is no queue to observe.
#[tokio::test]
async fn a_wrong_annotation_is_counted_where_nothing_else_is_scaled() {
    struct Wrong;
    impl Target for Wrong {
        async fn observe(&mut self) -> Result<Snapshot, TargetError> {
            let wrong = InvalidLimits { annotations: vec![("rowlock.dev/queues".into(), "expected names".into())] };
            Ok(Snapshot { deployments: vec![deployment("wrong", Err(wrong), 0)], ..Snapshot::default() })
        }
        async fn grow(&mut self, _: &str, _: u32) -> Result<bool, TargetError> {
            Ok(true)
        }
        async fn stop(&mut self, _: &str, _: &[String], _: u32) -> Result<bool, TargetError> {
            Ok(true)
        }
    }
    let db = crate::support::database().await;
    let q = JobQueue::connect(&db.url).await.unwrap();
    let end = CancellationToken::new();
    let run = tokio::spawn(controller::run(q, Wrong, controller::Options::default(), end.clone()));
    eventually("it is counted", async || faults(&db, "wrong", "invalid_annotations").await >= 1.0).await;
    end.cancel();
    run.await.unwrap().unwrap();
}
