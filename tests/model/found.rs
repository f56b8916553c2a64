//! Sequences that once had another end than the model's, in their shortest form. A seed says the same only
//! as long as nobody changes how sequences are made.

use crate::{
    call::{Call, Claim, New},
    play::Game,
    support::database,
    world::World,
};

const CLAIM: Claim = Claim { queues: Vec::new(), max: 9, hints: false };

async fn plays(calls: &[Call]) {
    let mut world = World::open(database().await.client).await;
    let mut game = Game::new(&mut world).await.unwrap();
    for call in calls {
        game.step(call).await.unwrap_or_else(|e| panic!("{e}"));
    }
    game.end().await.unwrap_or_else(|e| panic!("{e}"));
}

fn claim() -> Call {
    Call::Claim { worker: 0, claim: Claim { queues: vec![0], ..CLAIM } }
}

#[tokio::test]
async fn a_completion_that_is_refused_leaves_a_request_to_stop_the_job_as_it_is() {
    plays(&[
        Call::Enqueue(New::default()),
        claim(),
        Call::Release { worker: 0, grants: vec![(0, 0)], delay: None, retried: false },
        claim(),
        Call::Cancel(0),
        Call::Complete { worker: 0, grants: vec![(0, 0)], claim: None },
        Call::Extend { worker: 0, lease: 1, drain: false, knows: false },
    ])
    .await;
}

#[tokio::test]
async fn jobs_released_at_once_are_due_in_the_order_in_which_they_were_named() {
    plays(&[
        Call::EnqueueMany(vec![New::default(); 3]),
        claim(),
        Call::Release { worker: 0, grants: vec![(0, 2), (0, 0), (0, 1)], delay: Some(0), retried: false },
        claim(),
    ])
    .await;
}
