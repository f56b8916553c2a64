//! A password that changes under a running controller and a running worker. Out of a file it is read anew, and they go
//! on. Out of a variable only another start sees the new one, so that they end.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Instant,
};

use rowlock::JobQueue;
use serde_json::json;

use crate::{
    binary::PROGRAM,
    connection_strings::{Secret, Server, private, start},
    support::{Db, PATIENCE, connect, eventually},
    work::put_type,
};

/// The program with a log; killed with the value.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(server: &Server, name: &str, args: &[&str], env: &[(&str, &str)]) -> Running {
        let env: HashMap<String, String> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let log = server.dir.path().join(format!("{name}.log"));
        let mut command = server.command(Path::new(PROGRAM), &env);
        command.args(args).args(["--http", "127.0.0.1:0"]).process_group(0);
        let child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Running { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code, when it has ended. A login that was under way when the password changed may have been let in: not
    /// twice.
    async fn ends_cut_off(&mut self, secret: &Secret<'_>) -> i32 {
        eventually("it has ended, for its login is refused", || {
            let ended = !self.runs();
            async move {
                if !ended {
                    secret.cut_off().await;
                }
                ended
            }
        })
        .await;
        self.ends().await
    }

    /// Its exit code, when it has ended.
    async fn ends(&mut self) -> i32 {
        let mut code = None;
        eventually("it has ended", || {
            code = self.child.try_wait().unwrap();
            std::future::ready(code.is_some())
        })
        .await;
        code.unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The database of `by_password`, seen by another user.
async fn database(server: &Server) -> Db {
    let url = server.postgres.url("app");
    JobQueue::connect(&url).await.unwrap().migrate().await.unwrap();
    let db = Db { client: connect(&url).await, url };
    put_type(&db, json!({"command": ["true"]})).await;
    db
}

const CONTROLLER: [&str; 3] = ["controller", "--lease", "2s"];
const WORKER: [&str; 3] = ["worker", "--lease", "6s"];

async fn both_work(db: &Db) {
    eventually("one leads, and a job is done", || async {
        let id: uuid::Uuid = db.one("SELECT id FROM rowlock.enqueue('t')", &[]).await;
        let done = async || db.status(id).await.as_deref() == Some("completed");
        let asked = Instant::now();
        while !done().await && asked.elapsed() < PATIENCE / 10 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        done().await && db.one::<bool>("SELECT held_until > clock_timestamp() FROM rowlock.leader", &[]).await
    })
    .await;
}

#[tokio::test]
async fn with_the_password_in_a_variable_a_controller_and_a_worker_end_when_it_is_refused() {
    let server = start().await;
    let secret = Secret { server: &server, file: server.dir.path().join("url") };
    secret.change("one").await;
    let db = database(&server).await;
    let without = format!("postgresql://by_password@127.0.0.1:{}/app", server.port);
    for (n, env) in [&[("DATABASE_URL", &*secret.url("one"))][..], &[("DATABASE_URL", &without), ("PGPASSWORD", "one")]]
        .into_iter()
        .enumerate()
    {
        secret.change("one").await;
        let mut controller = Running::start(&server, &format!("controller{n}"), &CONTROLLER, env);
        let mut worker = Running::start(&server, &format!("worker{n}"), &WORKER, env);
        both_work(&db).await;
        assert!(controller.runs() && worker.runs());
        secret.change("two").await;
        for running in [&mut controller, &mut worker] {
            assert_eq!(running.ends_cut_off(&secret).await, 1, "{}", running.said());
            let said = running.said();
            let last = said.lines().last().unwrap_or_default();
            assert!(last.starts_with("error: database: ") && last.contains("SQLSTATE 28P01"), "{said}");
        }
    }
}

#[tokio::test]
async fn with_the_password_in_a_file_a_controller_and_a_worker_read_it_anew_and_go_on() {
    let server = start().await;
    let dir = server.dir.path();
    let secret = Secret { server: &server, file: dir.join("url") };
    secret.change("one").await;
    let db = database(&server).await;
    let without = format!("postgresql://by_password@127.0.0.1:{}/app", server.port);
    let (url_file, passfile, services) = (dir.join("url"), dir.join("rotated"), dir.join("services"));
    let names = [&url_file, &passfile, &services].map(|file| file.to_str().unwrap());
    let write = |password: &str| {
        fs::write(&url_file, secret.url(password)).unwrap();
        private(dir, "rotated", &format!("*:*:*:*:{password}\n"));
        private(
            dir,
            "services",
            &format!(
                "[jobs]\nhost=127.0.0.1\nport={}\nuser=by_password\ndbname=app\npassword={password}\n",
                server.port
            ),
        );
    };
    for (n, env) in [
        &[("DATABASE_URL_FILE", names[0])][..],
        &[("DATABASE_URL", &without), ("PGPASSFILE", names[1])],
        &[("PGSERVICEFILE", names[2]), ("PGSERVICE", "jobs")],
    ]
    .into_iter()
    .enumerate()
    {
        secret.change("one").await;
        write("one");
        let mut controller = Running::start(&server, &format!("controller{n}"), &CONTROLLER, env);
        let mut worker = Running::start(&server, &format!("worker{n}"), &WORKER, env);
        both_work(&db).await;
        secret.change("two").await;
        for running in [&controller, &worker] {
            // A login that was under way when the password changed may have been let in: not twice.
            eventually("its login is refused", || async {
                secret.cut_off().await;
                running.said().contains("The password came from")
            })
            .await;
        }
        write("two");
        both_work(&db).await;
        assert!(controller.runs() && worker.runs(), "{} {}", controller.said(), worker.said());
    }
}

#[tokio::test]
async fn a_controller_that_nobody_lets_in_ends_at_once_and_says_why() {
    let server = start().await;
    let secret = Secret { server: &server, file: server.dir.path().join("url") };
    secret.change("one").await;
    fs::write(&secret.file, secret.url("wrong")).unwrap();
    let guest = |database: &str| format!("postgresql://guest@127.0.0.1:{}/{database}", server.port);
    let file = secret.file.to_str().unwrap();
    for (n, (env, say)) in [
        (("DATABASE_URL", &*secret.url("wrong")), "SQLSTATE 28P01"),
        (("DATABASE_URL_FILE", file), "The password came from"),
        (("DATABASE_URL", &guest("nowhere")), "\"nowhere\" does not exist"),
        (("DATABASE_URL", &guest("app")), "rowlock migrate up"),
    ]
    .into_iter()
    .enumerate()
    {
        for what in ["controller", "worker"] {
            let mut running = Running::start(&server, &format!("{what}{n}"), &[what], &[env]);
            assert_eq!(running.ends().await, 1, "{what} {env:?}: {}", running.said());
            assert!(running.said().contains(say), "{what} {env:?}: {}", running.said());
        }
    }
}
