//! PgBouncer before a test's server.

use std::{
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    process::{Child, Command, Stdio},
};

pub struct Pooler {
    child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Pooler {
    /// Before the server of this URL, in transaction mode.
    pub fn start(database_url: &str) -> Pooler {
        Pooler::start_in("transaction", database_url)
    }

    pub fn start_in(mode: &str, database_url: &str) -> Pooler {
        Pooler::start_for(&["rowlock"], mode, database_url)
    }

    /// The first of the users may use its console.
    pub fn start_for(known: &[&str], mode: &str, database_url: &str) -> Pooler {
        let config: tokio_postgres::Config = database_url.parse().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let ini = dir.path().join("pgbouncer.ini");
        let users = dir.path().join("users.txt");
        let lines: String = known.iter().map(|user| format!("\"{user}\" \"\"\n")).collect();
        std::fs::write(&users, lines).unwrap();
        let mut file = std::fs::File::create(&ini).unwrap();
        write!(
            file,
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = \
             {port}\nauth_type = trust\n\
             auth_file = {}\nadmin_users = rowlock\npool_mode = {mode}\ndefault_pool_size = 4\nmax_client_conn = 200\n\
             server_login_retry = 1\nunix_socket_dir =\n",
            config.get_ports()[0],
            users.display()
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root, as it should.
        if let Some((uid, gid)) = unprivileged() {
            for path in [dir.path(), &ini, &users] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
            command.uid(uid).gid(gid);
        }
        let child = command
            .arg(&ini)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is installed: make setup");
        Pooler { child, _dir: dir, port }
    }

    /// The URL through it.
    pub fn url(&self, database_url: &str) -> String {
        let direct: tokio_postgres::Config = database_url.parse().unwrap();
        let database = direct.get_dbname().unwrap();
        format!("postgres://rowlock@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// It gives up its connections to the server as soon as nobody uses them.
    pub async fn reconnect(&self) {
        let console = format!("postgres://rowlock@127.0.0.1:{}/pgbouncer?sslmode=disable", self.port);
        let (client, connection) = tokio_postgres::connect(&console, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.simple_query("RECONNECT").await.unwrap();
        connection.abort();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nobody, if this is root.
fn unprivileged() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|l| l.starts_with("Uid:\t0\t"));
    root.then_some((65534, 65534))
}
