//! A server in one odd state after another, under load: no worker ends, nothing is lost, no attempt is consumed, and
//! every worker is back at work soon after a state has passed. Half of the workers are behind PgBouncer.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rowlock::JobQueue;
use tokio_postgres::{Client, NoTls};

use crate::{
    fleet::{Chance, Worker, count_of, now, turn, until},
    pooler::Pooler,
    postgres::all_begin,
    scene::Scene,
    server::Server,
    support::connect,
};

const WORKERS: usize = 4;
/// The bar: every worker runs a job again so soon after a state has passed.
const AGAIN: Duration = Duration::from_secs(2);
/// What makes those answer with an error that write: see [`State::Answers`].
const REFUSE: &str = "
    CREATE TABLE public.refusal (code text);
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE v_code text := (SELECT code FROM public.refusal LIMIT 1);
    BEGIN
      IF v_code IS NOT NULL THEN RAISE EXCEPTION 'a test says so' USING ERRCODE = v_code; END IF;
      RETURN NULL;
    END $$;";
/// The tables that a worker's calls write.
const WRITTEN: [&str; 4] = ["worker", "lease", "history", "scheduled"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State {
    /// A managed disk-full, a switch-over: 25006 for all, at once.
    ReadOnly,
    /// A connection to what was the primary: its own 25006 lasts as long as it does.
    OldPrimary,
    /// Writes are answered with this SQLSTATE: no space, no memory, too many locks, a deadlock, …
    Answers(&'static str),
    /// Every connection is taken, and those of workers have ended: 53300.
    Full,
    /// The database's `statement_timeout` meets a lock: 57014.
    StatementTimeout,
    /// Its `lock_timeout` does: 55P03.
    LockTimeout,
    /// A lock and no timeout.
    Lock,
    /// An administrator cancels what runs: 57014.
    Cancels,
    /// An administrator ends connections: 57P01.
    Terminations,
    /// The server is stopped and started.
    Restart,
    /// The server is killed and recovers.
    Crash,
    /// One of its processes is killed: all others end, too: 57P02.
    BackendCrash,
}

const STATES: [State; 16] = [
    State::ReadOnly,
    State::OldPrimary,
    State::Answers("53100"),
    State::Answers("53200"),
    State::Answers("53400"),
    State::Answers("40P01"),
    State::Answers("58030"),
    State::Full,
    State::StatementTimeout,
    State::LockTimeout,
    State::Lock,
    State::Cancels,
    State::Terminations,
    State::Restart,
    State::Crash,
    State::BackendCrash,
];

struct Weather {
    server: Server,
    scene: Scene,
    pooler: Pooler,
}

impl Weather {
    async fn start() -> Weather {
        let turn = turn().await;
        let server = Server::start_with(&["max_connections=60"]).await;
        let db = server.db().await;
        JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
        let pooler = Pooler::start(&db.url);
        let pooled = pooler.url(&db.url);
        until("PgBouncer answers", || async { JobQueue::connect(&pooled).await.is_ok() }).await;
        db.run(REFUSE).await;
        for table in WRITTEN {
            let when = "BEFORE INSERT OR UPDATE OR DELETE ON rowlock";
            db.run(&format!(
                "CREATE TRIGGER refuse {when}.{table} FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()"
            ))
            .await;
        }
        let direct = db.url.clone();
        let mut scene = Scene::on(turn, db, &["--lease", "3s", "--concurrency", "4"]).await;
        scene.fleet.set_urls(vec![direct, pooled]);
        Weather { server, scene, pooler }
    }

    /// Is in a state for a while. Answers when it had passed.
    async fn pass(&mut self, state: State, time: Duration) -> u64 {
        match state {
            State::ReadOnly => {
                self.set("ALTER SYSTEM SET default_transaction_read_only = on").await;
                tokio::time::sleep(time).await;
                self.set("ALTER SYSTEM RESET default_transaction_read_only").await;
            }
            State::OldPrimary => {
                self.configure("default_transaction_read_only = on").await;
                tokio::time::sleep(time).await;
                self.scene.db.run("ALTER DATABASE postgres RESET default_transaction_read_only").await;
                // Who uses a pooler cannot leave the pooler's connections: its administrator does.
                self.pooler.reconnect().await;
            }
            State::Answers(code) => {
                self.scene.db.run(&format!("INSERT INTO public.refusal VALUES ('{code}')")).await;
                tokio::time::sleep(time).await;
                self.scene.db.run("DELETE FROM public.refusal").await;
            }
            State::Full => self.fill(time).await,
            State::StatementTimeout => {
                self.configure("statement_timeout = '400ms'").await;
                self.lock(time).await;
                self.reset("statement_timeout").await;
            }
            State::LockTimeout => {
                self.configure("lock_timeout = '200ms'").await;
                self.lock(time).await;
                self.reset("lock_timeout").await;
            }
            State::Lock => self.lock(time).await,
            State::Cancels => self.repeat(time, "pg_cancel_backend", "state = 'active'").await,
            State::Terminations => self.repeat(time, "pg_terminate_backend", "true").await,
            State::Restart | State::Crash => {
                if state == State::Restart {
                    self.server.die().await
                } else {
                    self.server.be_killed().await
                }
                tokio::time::sleep(time).await;
                self.server.up().await;
                self.scene.db = self.server.db().await;
            }
            State::BackendCrash => {
                self.server.kill_a_backend(&self.scene.db).await;
                let url = self.scene.db.url.clone();
                until("all are cut off", || std::future::ready(self.scene.db.client.is_closed())).await;
                until("it has recovered", || async { tokio_postgres::connect(&url, NoTls).await.is_ok() }).await;
                self.scene.db = self.server.db().await;
            }
        }
        now()
    }

    async fn set(&self, sql: &str) {
        self.scene.db.run(sql).await;
        self.scene.db.run("SELECT pg_reload_conf()").await;
    }

    /// A setting of the database, for connections from now on; those of before end.
    async fn configure(&self, setting: &str) {
        self.scene.db.run(&format!("ALTER DATABASE postgres SET {setting}")).await;
        self.on_backends("pg_terminate_backend", "true").await;
    }

    async fn reset(&self, setting: &str) {
        self.scene.db.run(&format!("ALTER DATABASE postgres RESET {setting}")).await;
        self.on_backends("pg_terminate_backend", "true").await;
    }

    /// A table is locked, as by a migration.
    async fn lock(&self, time: Duration) {
        let table = ["ready", "lease", "worker", "history"][usize::try_from(now() % 4).unwrap()];
        let mut other = connect(&self.scene.db.url).await;
        let held = other.transaction().await.unwrap();
        held.batch_execute(&format!("LOCK TABLE rowlock.{table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
        tokio::time::sleep(time).await;
        held.rollback().await.unwrap();
    }

    async fn on_backends(&self, function: &str, which: &str) {
        let sql = format!(
            "SELECT count({function}(pid)) FROM pg_stat_activity WHERE application_name = 'rowlock' AND {which}"
        );
        // It may be answered with the state's own refusal.
        let _ = self.scene.db.client.execute(&sql, &[]).await;
    }

    async fn repeat(&self, time: Duration, function: &str, which: &str) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.on_backends(function, which).await;
            // A pace, not a wait.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes every connection that is to be had.
    async fn fill(&self, time: Duration) {
        let mut taken: Vec<Client> = Vec::new();
        let started = Instant::now();
        while started.elapsed() < time {
            self.on_backends("pg_terminate_backend", "true").await;
            while let Ok((client, connection)) = tokio_postgres::connect(&self.scene.db.url, NoTls).await {
                tokio::spawn(connection);
                taken.push(client);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every state as often as any other, in random order.
fn plan(chance: &mut Chance, states: usize) -> Vec<State> {
    let mut plan: Vec<State> = STATES.into_iter().cycle().take(states).collect();
    for n in (1..plan.len()).rev() {
        plan.swap(n, chance.below(n + 1));
    }
    plan
}

/// Workers that ended though nobody asked them to, by the state that ended them; others take their places.
fn replace_ended(weather: &Weather, workers: &mut [Worker], state: State, ended: &mut Vec<String>) {
    for worker in workers.iter_mut() {
        if let Some(status) = worker.ended() {
            ended.push(format!("{state:?}: {status}: {}", weather.scene.fleet.last_error()));
            *worker = weather.scene.fleet.start();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bar of time: make soak, on a machine with nothing else to do"]
async fn no_state_of_the_server_ends_a_worker_or_costs_a_job_an_attempt() {
    let mut weather = Weather::start().await;
    let states = count_of(STATES.len(), 200);
    let mut workers: Vec<_> = (0..WORKERS).map(|_| weather.scene.fleet.start()).collect();
    let (mut ended, mut again) = (Vec::new(), BTreeMap::<State, Duration>::new());
    let started = Instant::now();
    for state in plan(&mut weather.scene.chance, states) {
        weather.scene.enqueue_anew(150, |chance| 20 + chance.below(100)).await;
        until("work goes on", || async { weather.scene.ledger.busy().await.len() == WORKERS }).await;
        // Sometimes longer than a lease.
        let longest = if weather.scene.chance.below(4) == 0 { 4500 } else { 800 };
        let time = Duration::from_millis(500) + weather.scene.chance.millis(longest);
        let passed = weather.pass(state, time).await;
        weather.scene.enqueue_anew(150, |chance| 20 + chance.below(100)).await;
        replace_ended(&weather, &mut workers, state, &mut ended);
        let worst = all_begin(&weather.scene.ledger, &workers, passed).await.into_iter().max().unwrap();
        let slowest = again.entry(state).or_default();
        *slowest = worst.max(*slowest);
        replace_ended(&weather, &mut workers, state, &mut ended);
    }
    let took = started.elapsed();
    let mut scene = weather.scene;
    let lost = scene.lost().await;
    let v = scene.judge(&HashMap::new()).await;
    eprintln!(
        "states: {states} in {took:.1?}: {} of {} jobs accepted, {lost} lost, {} extra runs, 0 attempts consumed; {} \
         workers \
         ended: {ended:#?}; back to work after, at worst, {again:.2?}",
        v.completed,
        scene.jobs.len(),
        v.extra_runs,
        ended.len(),
    );
    assert_eq!((ended.len(), v.completed, lost), (0, scene.jobs.len(), 0));
    let late: Vec<_> = again.into_iter().filter(|(_, time)| *time > AGAIN).collect();
    assert!(late.is_empty(), "back to work too late: {late:?}");
}
