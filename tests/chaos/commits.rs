//! The connection is cut after COMMIT was sent and before its reply came: the client cannot know, asks again with
//! the same unique key, and there is one job.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rowlock::{Error, JobQueue, NewJob};
use serde_json::json;
use uuid::Uuid;

use crate::{
    fleet::{Chance, count, turn},
    proxy::{Cut, Proxy},
    support::{connect, database},
};

/// Cuts a wire to Postgres under the next call, as often as it is armed.
struct Trap {
    armed: Arc<Mutex<Option<Cut>>>,
    cuts: Arc<AtomicUsize>,
}

impl Trap {
    fn on(proxy: &Proxy) -> Trap {
        let (armed, cuts): (Arc<Mutex<Option<Cut>>>, Arc<AtomicUsize>) = (Arc::default(), Arc::default());
        let (trap, seen) = (armed.clone(), cuts.clone());
        proxy.cut_by(move |call| {
            let cut = trap.lock().unwrap().take_if(|cut| (*cut == Cut::Answered) == call.answer.is_some())?;
            seen.fetch_add(1, Ordering::SeqCst);
            Some(cut)
        });
        Trap { armed, cuts }
    }

    fn arm(&self, cut: Cut) {
        *self.armed.lock().unwrap() = Some(cut);
    }

    fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Enqueues by a call of its own, which is the transaction.
async fn alone(q: &JobQueue, trap: &Trap, cut: Option<Cut>, job: &NewJob) -> Result<Uuid, Error> {
    // A connection that is there already, so that nothing else comes between.
    drop(q.pool().get().await.map_err(|e| Error::Pool(e.to_string()))?);
    if let Some(cut) = cut {
        trap.arm(cut);
    }
    Ok(q.enqueue_job(job).await?.id)
}

/// Enqueues in a transaction of the client's own.
async fn within(q: &JobQueue, trap: &Trap, cut: Option<Cut>, job: &NewJob) -> Result<Uuid, Error> {
    let mut pooled = q.pool().get().await.map_err(|e| Error::Pool(e.to_string()))?;
    let client: &mut tokio_postgres::Client = &mut pooled;
    let transaction = client.transaction().await?;
    let id = q.enqueue_in(&transaction, job).await?.id;
    if let Some(cut) = cut {
        trap.arm(cut);
    }
    transaction.commit().await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_heard_of_its_commit_asks_again_and_there_is_one_job() {
    let _turn = turn().await;
    let keys = count(500);
    let db = database().await;
    let proxy = Proxy::to(&db.url).await;
    let q = JobQueue::connect(&proxy.url(&db.url)).await.unwrap();
    let trap = Trap::on(&proxy);
    let mut chance = Chance::new();
    let (mut told, mut committed) = (Vec::new(), [0, 0]);
    // Another wire to look with.
    let look = connect(&db.url).await;
    for n in 0..keys {
        let key = format!("key-{n}");
        let job = NewJob::new("t", json!({"n": n})).unique_key(&key);
        let cut = [Cut::Sent, Cut::Answered][chance.below(2)];
        let own = chance.below(2) == 0;
        let (mut plan, mut tries) = (Some(cut), 0);
        let id = loop {
            let armed = plan.take();
            let done = if own { within(&q, &trap, armed, &job).await } else { alone(&q, &trap, armed, &job).await };
            tries += 1;
            match done {
                Ok(id) => break id,
                Err(error) => assert!(error.is_transient() && tries < 10, "{error:?}"),
            }
            if tries == 1 && cut == Cut::Answered {
                let there: bool = look
                    .query_one("SELECT EXISTS (SELECT FROM rowlock.unique_key WHERE key = $1)", &[&key])
                    .await
                    .unwrap()
                    .get(0);
                committed[1] += usize::from(there);
            } else if tries == 1 {
                committed[0] += 1;
            }
        };
        assert!(tries > 1, "{key}: nothing was cut");
        told.push(id);
    }
    let rows = look.query("SELECT id, unique_key FROM rowlock.ready ORDER BY pos", &[]).await.unwrap();
    let doubled = rows.len().saturating_sub(keys);
    eprintln!(
        "commits: {keys} keys, {} connections cut: {} before the answer could come, {} after it, all of these \
         committed; \
         {} jobs, {doubled} doubled",
        trap.cuts(),
        committed[0],
        committed[1],
        rows.len()
    );
    assert_eq!((rows.len(), trap.cuts(), committed[0] + committed[1]), (keys, keys, keys));
    for (n, id) in told.iter().enumerate() {
        let row = rows.iter().find(|r| r.get::<_, Uuid>(0) == *id).unwrap_or_else(|| panic!("{id} is not there"));
        assert_eq!(row.get::<_, String>(1), format!("key-{n}"));
    }
}
