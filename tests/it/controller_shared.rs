//! Several Deployments on one queue, and a target that cannot take replicas away: what the decisions say then.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rowlock::controller::{
    self, Hold, Limits,
    target::{Notice, Replica, Scaled, Snapshot, Target, TargetError},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{support::eventually, work::with_type};

/// Deployments that exist only here. Their replicas never start.
#[derive(Clone, Default)]
struct Paper {
    sizes: Arc<Mutex<BTreeMap<String, u32>>>,
    /// What was said at a Deployment.
    said: Arc<Mutex<Vec<String>>>,
    hold: Option<Hold>,
}

impl Paper {
    fn of(names: &[&str], size: u32) -> Paper {
        let sizes = names.iter().map(|n| ((*n).to_owned(), size)).collect();
        Paper { sizes: Arc::new(Mutex::new(sizes)), ..Paper::default() }
    }

    fn sizes(&self) -> Vec<u32> {
        self.sizes.lock().unwrap().values().copied().collect()
    }
}

impl Target for Paper {
    async fn observe(&mut self) -> Result<Snapshot, TargetError> {
        let sizes = self.sizes.lock().unwrap().clone();
        let replica = |name: &str, n| Replica {
            key: format!("{name}-{n}"),
            group: "one".into(),
            ordered: Instant::now(),
            up: true,
        };
        let scaled = |(name, size): (String, u32)| Scaled {
            limits: Ok(Limits {
                slots: Some(1),
                scale_down_delay: Duration::ZERO,
                ..Limits::new(vec!["default".into()])
            }),
            replicas: (0..size).map(|n| replica(&name, n)).collect(),
            name,
            unschedulable: 0,
            hold: self.hold,
        };
        Ok(Snapshot { deployments: sizes.into_iter().map(scaled).collect(), ..Snapshot::default() })
    }

    async fn grow(&mut self, deployment: &str, to: u32) -> Result<bool, TargetError> {
        self.sizes.lock().unwrap().insert(deployment.to_owned(), to);
        Ok(true)
    }

    async fn stop(&mut self, _: &str, _: &[String], _: u32) -> Result<bool, TargetError> {
        panic!("none of these can be stopped");
    }

    fn publish(&mut self, deployment: &str, notice: Notice<'_>) {
        self.said.lock().unwrap().push(format!("{deployment}: {notice}"));
    }
}

/// buildkite/buildkite-agent-scaler#20: each was sized for all of the work.
#[tokio::test]
async fn two_deployments_on_one_queue_are_sized_for_its_work_once() {
    let (q, db) = with_type(json!({"command": ["true"], "expected": "1 minute"})).await;
    for _ in 0..8 {
        q.enqueue("t", json!({})).await.unwrap();
    }
    let paper = Paper::of(&["on-demand", "spot"], 0);
    let end = CancellationToken::new();
    let run = tokio::spawn(controller::run(q, paper.clone(), controller::Options::default(), end.clone()));
    eventually("the work has its replicas", async || paper.sizes().iter().sum::<u32>() >= 8).await;
    let decided = "SELECT count(*) FROM rowlock.decisions WHERE (inputs ->> 'share')::float8 < 1 AND wanted = current";
    eventually("it was decided again", async || db.one::<i64>(decided, &[]).await > 0).await;
    assert_eq!(paper.sizes()[1], 0, "the first has room for all of it");
    end.cancel();
    run.await.unwrap().unwrap();
}

/// argoproj/argo-rollouts#2109: decisions, Events and `explain` said that replicas went, and none did.
#[tokio::test]
async fn a_scale_in_that_the_target_holds_back_is_no_decision_to_scale_in() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let paper = Paper { hold: Some(Hold::Rollout), ..Paper::of(&["mail"], 3) };
    let end = CancellationToken::new();
    let run = tokio::spawn(controller::run(q, paper.clone(), controller::Options::default(), end.clone()));
    let decided = "SELECT count(*) FROM rowlock.decisions WHERE reason = 'rollout' AND (current, wanted) = (3, 3)";
    eventually("the reason is in the decision", async || db.one::<i64>(decided, &[]).await > 0).await;
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.decisions WHERE wanted < current", &[]).await, 0);
    end.cancel();
    run.await.unwrap().unwrap();
}

/// The second release was ready, healthy and silent, and never scaled.
#[tokio::test]
async fn a_release_on_the_database_of_another_namespaces_release_is_not_ready_and_says_so_at_its_deployments() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let other: uuid::Uuid = db.one("SELECT gen_random_uuid()", &[]).await;
    let lead = "SELECT epoch FROM rowlock.lead_v1($1, 'other-7d9 in namespace shop', 60)";
    let epoch: i64 = db.one(lead, &[&other]).await;
    let paper = Paper::of(&["mail"], 0);
    let facts = rowlock::metrics::Facts::new("controller");
    let options = controller::Options { namespace: Some("mail".into()), facts: facts.clone(), ..Default::default() };
    let end = CancellationToken::new();
    let run = tokio::spawn(controller::run(q, paper.clone(), options, end.clone()));
    let says = |text: &str| text.contains("other-7d9 in namespace shop leads on this database");
    eventually("it is not ready", async || facts.known().problem.is_some_and(|p| says(&p))).await;
    eventually("its Deployment says so", async || paper.said.lock().unwrap().iter().any(|s| says(s))).await;
    db.run(&format!("SELECT rowlock.resign_v1({epoch})")).await;
    eventually("it leads, and is well", async || {
        let known = facts.known();
        known.leader == Some(true) && known.problem.is_none()
    })
    .await;
    end.cancel();
    run.await.unwrap().unwrap();
}
