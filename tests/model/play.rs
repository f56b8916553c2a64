//! Plays a sequence on both sides and compares them after each step.

use crate::{
    call::{Call, Claim, QUEUES},
    model::Model,
    op::{Op, resolve},
    seen::differences,
    world::World,
};

/// At rest a job looks the same by its id and in a list, and what was to be folded is folded.
const AT_REST: &str = "
SELECT format('%s jobs look different by get_job, %s are missing in list_jobs, %s lines of the tally are not folded',
  (SELECT count(*) FROM rowlock.jobs j WHERE (SELECT to_jsonb(g) FROM rowlock.get_job(j.id) g) IS DISTINCT FROM to_jsonb(j)),
  (SELECT count(*) FROM (SELECT to_jsonb(j) FROM rowlock.jobs j EXCEPT SELECT to_jsonb(l) FROM rowlock.list_jobs(max => 1000) l) m),
  (SELECT count(*) FROM rowlock.tally))";
const RESTED: &str =
    "0 jobs look different by get_job, 0 are missing in list_jobs, 0 lines of the tally are not folded";

/// How many calls were made, or at which one the sides part.
pub async fn play(world: &mut World, ops: &[Op]) -> Result<usize, String> {
    let mut game = Game::new(world).await?;
    for op in ops {
        for call in resolve(op, &game.model) {
            game.step(&call).await?;
        }
    }
    game.end().await
}

pub struct Game<'a> {
    world: &'a mut World,
    model: Model,
    log: Vec<Call>,
}

impl<'a> Game<'a> {
    /// Two workers are there from the start.
    pub async fn new(world: &'a mut World) -> Result<Game<'a>, String> {
        let mut game = Game { world, model: Model::default(), log: Vec::new() };
        for lease in [2, 5] {
            game.step(&Call::Register { lease }).await?;
        }
        Ok(game)
    }

    pub async fn step(&mut self, call: &Call) -> Result<(), String> {
        self.log.push(call.clone());
        let (expected, real) = (self.model.apply(call), self.world.apply(call).await);
        if expected != real {
            return Err(self.report(&format!("  expected {expected:?}\n  the database says {real:?}\n")));
        }
        let mut out = String::new();
        differences("", &self.model.seen(), &self.world.look().await, &mut out);
        if out.is_empty() { Ok(()) } else { Err(self.report(&out)) }
    }

    /// Everything becomes due, counts are folded, and one consumer claims all that is there.
    pub async fn end(mut self) -> Result<usize, String> {
        for queue in (0..QUEUES.len()).filter(|q| self.model.paused[*q]).collect::<Vec<_>>() {
            self.step(&Call::Resume(queue)).await?;
        }
        self.step(&Call::Advance(8)).await?;
        self.step(&Call::Keep).await?;
        let rested: String = self.world.client.query_one(AT_REST, &[]).await.unwrap().get(0);
        if rested != RESTED {
            return Err(self.report(&format!("  {rested}\n")));
        }
        let worker = self.model.workers.len();
        self.step(&Call::Register { lease: 9 }).await?;
        let claim = Claim { queues: vec![1, 0, 2], max: 100, hints: false };
        self.step(&Call::Claim { worker, claim }).await?;
        Ok(self.log.len())
    }

    fn report(&self, what: &str) -> String {
        let calls: String = self.log.iter().enumerate().map(|(n, call)| format!("{n:4}. {call:?}\n")).collect();
        format!("after\n{calls}{what}")
    }
}
