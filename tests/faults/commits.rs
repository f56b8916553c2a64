//! The connection is cut after COMMIT was sent and before its reply came: the client cannot know, asks again with
//! the same unique key, and there is one job.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rowlock::{Error, JobQueue, NewJob};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    fleet::{Chance, count, turn},
    support::{connect, database},
};

/// When a connection is cut, counted from the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// As soon as it is sent: the server may or may not have done it.
    Sent,
    /// When the server has answered, which the client never sees.
    Answered,
}

/// A wire to Postgres that is cut at the next commit, as often as it is armed.
struct Wire {
    url: String,
    /// 0 for none, else a cut.
    armed: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Wire {
    async fn to(url: &str) -> Wire {
        let (user, rest) = url.split_once('@').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{user}@127.0.0.1:{}/{database}", listener.local_addr().unwrap().port());
        let (armed, cuts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (address, seen) = (address.to_owned(), (armed.clone(), cuts.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.unwrap();
                wires.spawn(carry(client, server, seen.clone()));
            }
        });
        Wire { url, armed, cuts, _tasks: tasks }
    }

    fn arm(&self, cut: Cut) {
        self.armed.store(1 + cut as usize, Ordering::SeqCst);
    }

    fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Both directions of one connection, until it ends or is cut.
async fn carry(client: TcpStream, server: TcpStream, (armed, cuts): (Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
    let mute = AtomicBool::new(false);
    let forth = async {
        // What comes first has a length and no type.
        let mut typed = false;
        while let Some(sent) = message(&mut from, typed).await {
            let cut = if typed && commits(&sent) { armed.swap(0, Ordering::SeqCst) } else { 0 };
            mute.store(cut > 0, Ordering::SeqCst);
            if to.write_all(&sent).await.is_err() || cut == 1 + Cut::Sent as usize {
                return;
            }
            typed = true;
        }
    };
    let answered = async {
        let mut answer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = answers.read(&mut answer).await {
            if mute.load(Ordering::SeqCst) || back.write_all(&answer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = answered => {}
    }
    // Before the client can see that it is cut.
    cuts.fetch_add(usize::from(mute.load(Ordering::SeqCst)), Ordering::SeqCst);
}

/// One message, whole.
async fn message(from: &mut OwnedReadHalf, typed: bool) -> Option<Vec<u8>> {
    let mut bytes = vec![0; if typed { 5 } else { 4 }];
    from.read_exact(&mut bytes).await.ok()?;
    let head = bytes.len();
    let length = u32::from_be_bytes(bytes[head - 4..].try_into().unwrap()) as usize;
    bytes.resize(head - 4 + length, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(bytes)
}

/// Whether a message ends a transaction: COMMIT, or the Sync after a statement outside of one. (A Sync inside of
/// one ends nothing, but the test arms the wire for the right one.)
fn commits(message: &[u8]) -> bool {
    message[0] == b'S' || (message[0] == b'Q' && message[5..].starts_with(b"COMMIT"))
}

/// Enqueues by a call of its own: its Sync is the commit.
async fn alone(q: &JobQueue, wire: &Wire, cut: Option<Cut>, job: &NewJob) -> Result<Uuid, Error> {
    // A connection that is there already, so that nothing else comes between.
    drop(q.pool().get().await.map_err(|e| Error::Pool(e.to_string()))?);
    if let Some(cut) = cut {
        wire.arm(cut);
    }
    Ok(q.enqueue_job(job).await?.id)
}

/// Enqueues in a transaction of the client's own.
async fn within(q: &JobQueue, wire: &Wire, cut: Option<Cut>, job: &NewJob) -> Result<Uuid, Error> {
    let mut pooled = q.pool().get().await.map_err(|e| Error::Pool(e.to_string()))?;
    let client: &mut tokio_postgres::Client = &mut pooled;
    let transaction = client.transaction().await?;
    let id = q.enqueue_in(&transaction, job).await?.id;
    if let Some(cut) = cut {
        wire.arm(cut);
    }
    transaction.commit().await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_heard_of_its_commit_asks_again_and_there_is_one_job() {
    let _turn = turn().await;
    let keys = count(500);
    let db = database().await;
    let wire = Wire::to(&db.url).await;
    let q = JobQueue::connect(&wire.url).await.unwrap();
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
            let done = if own { within(&q, &wire, armed, &job).await } else { alone(&q, &wire, armed, &job).await };
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
        "commits: {keys} keys, {} connections cut: {} before the answer could come, {} after it, all of these committed; \
         {} jobs, {doubled} doubled",
        wire.cuts(),
        committed[0],
        committed[1],
        rows.len()
    );
    assert_eq!((rows.len(), wire.cuts(), committed[0] + committed[1]), (keys, keys, keys));
    for (n, id) in told.iter().enumerate() {
        let row = rows.iter().find(|r| r.get::<_, Uuid>(0) == *id).unwrap_or_else(|| panic!("{id} is not there"));
        assert_eq!(row.get::<_, String>(1), format!("key-{n}"));
    }
}
