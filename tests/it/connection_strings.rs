//! Connection strings through psql and through Rowlock, against one server: the same server, user, database and TLS, or
//! a refusal that names the part. And passwords that change while a process runs.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{CertificateParams, DnType, KeyPair};
use rowlock::{
    Error, JobQueue, Target,
    local_postgres::{LocalPostgres, Options},
};

use crate::{
    binary::PROGRAM,
    support::{self, connect, eventually},
    tls::{Ca, ca, certificate, write},
};

/// The name in the server's certificate.
const NAME: &str = "db.example";

/// Who is connected to what, and how; one line. psql runs the same.
const FACTS: &str = "SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()), current_user,
    current_database(), coalesce(host(inet_server_addr()), 'socket'), s.ssl, s.version, s.client_dn,
    current_setting('geqo'), current_setting('transaction_read_only'))
  FROM pg_stat_ssl s WHERE pid = pg_backend_pid()";

pub struct Server {
    pub postgres: LocalPostgres,
    pub port: u16,
    /// Sockets, certificates, password files: gone with the test.
    pub dir: tempfile::TempDir,
}

/// For a client: the certificate and the key, ours alone.
pub fn private(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    file
}

fn client_certificate(ca: &Ca, user: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// A server on TCP with TLS and on sockets, with users for each way in.
pub async fn start() -> Server {
    let dir = tempfile::Builder::new().prefix("rl").tempdir().unwrap();
    let sockets = dir.path().join("run");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&sockets, PermissionsExt::from_mode(0o777)).unwrap();
    let settings = vec![format!("unix_socket_directories={},/tmp", sockets.display())];
    let options = Options { persist: None, ram: true, settings, ..Options::default() };
    let postgres = LocalPostgres::start(options).await.unwrap();
    let admin = connect(&postgres.url("postgres")).await;
    let data: String = admin.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let data = Path::new(&data);
    let (right, wrong) = (ca(), ca());
    let (crt, key) = certificate(&right, &[NAME]);
    write(data, "server.crt", &crt);
    write(data, "server.key", &key);
    write(data, "clients.crt", &right.pem());
    private(dir.path(), "right.pem", &right.pem());
    private(dir.path(), "wrong.pem", &wrong.pem());
    let (crt, key) = client_certificate(&right, "by_cert");
    private(dir.path(), "client.crt", &crt);
    private(dir.path(), "client.key", &key);
    fs::copy(dir.path().join("client.key"), dir.path().join("loose.key")).unwrap();
    fs::set_permissions(dir.path().join("loose.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let me = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
    write(
        data,
        "pg_hba.conf",
        &format!(
            "local all {me} peer\nlocal all all trust\nhostssl all by_cert 127.0.0.1/32 cert\n\
             host all by_password 127.0.0.1/32 scram-sha-256\nhostnossl secret all all reject\n\
             hostssl plain all all reject\nhost all all 127.0.0.1/32 trust\n"
        ),
    );
    for sql in [
        "ALTER SYSTEM SET ssl = on",
        "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'",
        "CREATE DATABASE secret",
        "CREATE DATABASE plain",
        "CREATE DATABASE app",
        "CREATE DATABASE \"two words\"",
        "CREATE DATABASE reads",
        "ALTER DATABASE reads SET default_transaction_read_only = on",
        "CREATE ROLE by_cert LOGIN SUPERUSER",
        "CREATE ROLE by_password LOGIN SUPERUSER PASSWORD 's3 cr/t:@'",
        "CREATE ROLE guest LOGIN SUPERUSER",
        &format!("CREATE DATABASE \"{me}\""),
        &format!("CREATE ROLE \"{me}\" LOGIN SUPERUSER"),
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    eventually("TLS is on", || async {
        let fresh = connect(&postgres.url("postgres")).await;
        fresh.query_one("SHOW ssl", &[]).await.unwrap().get::<_, &str>(0) == "on"
    })
    .await;
    let port = port_of(&postgres);
    Server { postgres, port, dir }
}

fn port_of(postgres: &LocalPostgres) -> u16 {
    postgres.url("").split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// How a string has to end: as psql does with it, as psql does with another string, or in a refusal by a name.
enum As {
    Psql,
    Psqls(&'static str),
    Refused(&'static str),
}

use As::{Psql, Psqls, Refused};

struct Case {
    string: &'static str,
    env: &'static [(&'static str, &'static str)],
    end: As,
}

const fn case(string: &'static str, end: As) -> Case {
    Case { string, env: &[], end }
}

const fn with(env: &'static [(&'static str, &'static str)], string: &'static str, end: As) -> Case {
    Case { string, env, end }
}

/// `{p}` is the port, `{d}` the directory, `{q}` the port of another server, which has no TLS.
const CASES: &[Case] = &[
    // TCP, both forms.
    case("postgresql://guest@127.0.0.1:{p}/app", Psql),
    case("postgres://guest@127.0.0.1:{p}/app", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app\n", Psqls("postgresql://guest@127.0.0.1:{p}/app")),
    case("postgresql://guest@127.0.0.1:{p}/two%20words", Psql),
    case("postgresql://guest@127.0.0.1:{p}", Psql), // a database named as the user, which is not there
    case("postgresql://127.0.0.1:{p}/app", Psql),
    case("postgresql://127.0.0.1:{p}", Psql),
    case("postgresql://?host=127.0.0.1&port={p}&user=guest&dbname=app", Psql),
    case("host=127.0.0.1 port={p} user=guest dbname=app", Psql),
    case("host = 127.0.0.1 port ={p} user= guest dbname = 'two words'", Psql),
    case("hostaddr=127.0.0.1 port={p} user=guest dbname=app", Psql),
    case("host=nowhere.example hostaddr=127.0.0.1 port={p} user=guest dbname=app", Psql),
    case("postgresql://guest@127.0.0.1:{p}/nowhere", Psql),
    case("postgresql://nobody_here@127.0.0.1:{p}/app", Psql),
    case("postgresql://guest@127.0.0.1:1/app", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?options=-c%20geqo%3Doff", Psql),
    case("host=127.0.0.1 port={p} user=guest dbname=app options='-c geqo=off'", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?connect_timeout=3&application_name=x&keepalives=0", Psql),
    case("postgresql://guest@127.0.0.1:x/app", Psql),
    case("postgresql://gu%zzest@127.0.0.1:{p}/app", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?hostname=x", Psql),
    // Sockets.
    case("host={d}/run port={p} user=guest dbname=app", Psql),
    case("postgresql:///app?host={d}/run&port={p}&user=guest", Psql),
    case("postgresql://guest@{e}:{p}/app", Psql),
    case("postgresql://{e}:{p}/app", Psql), // peer
    case("postgresql://{e}:{p}", Psql),
    case("postgresql://guest@{e}:{p}/app?sslmode=disable", Psql),
    case("postgresql://guest@{e}:{p}/app?sslmode=require", Psql),
    case("postgresql://guest@{e}:{p}/secret?sslmode=verify-full&sslrootcert={d}/right.pem", Psql),
    case("host=/tmp port={p} user=guest dbname=app", Psql),
    case("port={p} user=guest dbname=app", Psqls("host=/tmp port={p} user=guest dbname=app")),
    case("postgresql://guest@:{p}/app", Psqls("host=/tmp port={p} user=guest dbname=app")),
    case("host={d}/nowhere port={p} user=guest dbname=app", Psql),
    case("host={d}/run,127.0.0.1 port=1,{p} user=guest dbname=app", Psql),
    // TLS.
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=disable", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=allow", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=prefer", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=require", Psql),
    case("host=127.0.0.1 port={p} user=guest dbname=app sslmode = require", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?ssl=true", Psql),
    case("postgresql://guest@127.0.0.1:{q}/postgres?sslmode=require", Psql),
    case("postgresql://rowlock@127.0.0.1:{q}/postgres?sslmode=prefer", Psql),
    case("postgresql://guest@127.0.0.1:{p}/secret?sslmode=disable", Psql),
    case("postgresql://guest@127.0.0.1:{p}/secret?sslmode=allow", Psql),
    case("postgresql://guest@127.0.0.1:{p}/plain?sslmode=prefer", Psql),
    case("postgresql://guest@127.0.0.1:{p}/plain?sslmode=require", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=require&sslrootcert={d}/right.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=require&sslrootcert={d}/wrong.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=prefer&sslrootcert={d}/right.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=prefer&sslrootcert={d}/wrong.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=verify-ca&sslrootcert={d}/right.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=verify-ca&sslrootcert={d}/wrong.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=verify-ca", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=verify-full&sslrootcert={d}/right.pem", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=verify-full", Psql),
    case(
        "postgresql://guest@db.example:{p}/app?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={d}/right.pem",
        Psql,
    ),
    case(
        "postgresql://guest@db.example:{p}/app?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={d}/wrong.pem",
        Psql,
    ),
    case("hostaddr=127.0.0.1 port={p} user=guest dbname=app sslmode=verify-full sslrootcert={d}/right.pem", Psql),
    case(
        "postgresql://guest@db.example:{p}/app?hostaddr=127.0.0.1&sslmode=require&ssl_max_protocol_version=TLSv1.2",
        Psql,
    ),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=require&ssl_min_protocol_version=TLSv1.3", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslmode=perhaps", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslrootcert=system", Refused("sslmode: ")),
    case("postgresql://guest@127.0.0.1:{p}/app?sslrootcert={d}/gone.pem&sslmode=verify-ca", Psql),
    // Client certificates.
    case("postgresql://by_cert@127.0.0.1:{p}/app?sslmode=require&sslcert={d}/client.crt&sslkey={d}/client.key", Psql),
    case("postgresql://by_cert@127.0.0.1:{p}/app?sslmode=require&sslcert={d}/client.crt&sslkey={d}/loose.key", Psql),
    case("postgresql://by_cert@127.0.0.1:{p}/app?sslmode=require", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?sslcert={d}/client.crt&sslkey={d}/client.key", Psql),
    // Passwords.
    case("postgresql://by_password:s3%20cr%2Ft%3A%40@127.0.0.1:{p}/app", Psql),
    case("host=127.0.0.1 port={p} user=by_password dbname=app password='s3 cr/t:@'", Psql),
    case("postgresql://by_password:wrong@127.0.0.1:{p}/app", Psql),
    case("postgresql://by_password@127.0.0.1:{p}/app", Psql),
    with(&[("PGPASSWORD", "s3 cr/t:@")], "postgresql://by_password@127.0.0.1:{p}/app", Psql),
    with(&[("PGPASSFILE", "{d}/pass")], "postgresql://by_password@127.0.0.1:{p}/app", Psql),
    case("postgresql://by_password@127.0.0.1:{p}/app?passfile={d}/pass", Psql),
    case("postgresql://by_password@127.0.0.1:{p}/app?passfile={d}/loose.pass", Psql),
    case("postgresql://by_password@127.0.0.1:{p}/app?passfile={d}/gone", Psql),
    case("postgresql://by_password:s3%20cr%2Ft%3A%40@127.0.0.1:{p}/app?channel_binding=require", Psql),
    case("postgresql://by_password:s3%20cr%2Ft%3A%40@127.0.0.1:{p}/app?channel_binding=require&sslmode=disable", Psql),
    case("postgresql://by_password:s3%20cr%2Ft%3A%40@127.0.0.1:{p}/app?channel_binding=disable", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?channel_binding=require", Psql),
    // Several hosts.
    case("postgresql://guest@127.0.0.1:1,127.0.0.1:{p}/app", Psql),
    case("postgresql://rowlock@127.0.0.1:{q},127.0.0.1:{p}/postgres", Psql),
    case("postgresql://guest@127.0.0.1:{p},127.0.0.1:1/nowhere", Psql),
    case("postgresql://guest@127.0.0.1:{p}/reads?target_session_attrs=any", Psql),
    case("postgresql://guest@127.0.0.1:{p}/reads?target_session_attrs=read-only", Psql),
    case("postgresql://guest@127.0.0.1:{p}/reads?target_session_attrs=read-write", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?target_session_attrs=read-write", Psql),
    case("postgresql://guest@127.0.0.1:{p}/reads?target_session_attrs=primary", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?target_session_attrs=standby", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?target_session_attrs=prefer-standby", Psql),
    case("postgresql://rowlock@127.0.0.1:{p},127.0.0.1:{q}/reads?target_session_attrs=read-write", Psql),
    case("postgresql://rowlock@127.0.0.1:{q},127.0.0.1:{p}/reads?target_session_attrs=read-only", Psql),
    case("postgresql://guest@127.0.0.1:{p}/app?target_session_attrs=writable", Psql),
    // Variables and services.
    with(&[("PGHOST", "127.0.0.1"), ("PGPORT", "{p}"), ("PGUSER", "guest"), ("PGDATABASE", "app")], "", Psql),
    with(&[("PGHOST", "{d}/run"), ("PGPORT", "{p}"), ("PGUSER", "guest")], "dbname=app", Psql),
    with(&[("PGSSLMODE", "require")], "postgresql://guest@127.0.0.1:{p}/app", Psql),
    with(&[("PGSSLMODE", "require")], "postgresql://guest@127.0.0.1:{p}/app?sslmode=disable", Psql),
    with(&[("PGOPTIONS", "-c geqo=off")], "postgresql://guest@127.0.0.1:{p}/app", Psql),
    with(&[("PGSERVICEFILE", "{d}/services")], "service=app", Psql),
    with(&[("PGSERVICEFILE", "{d}/services"), ("PGSERVICE", "app")], "dbname=postgres", Psql),
    with(&[("PGSERVICEFILE", "{d}/services")], "service=nowhere", Psql),
    with(&[("PGSERVICEFILE", "{d}/services"), ("PGHOST", "nowhere.example")], "postgresql://?service=app", Psql),
    // Drivers and ORMs.
    case("postgresql+asyncpg://guest@127.0.0.1:{p}/app", Psqls("postgresql://guest@127.0.0.1:{p}/app")),
    case(
        "postgresql+psycopg2://guest@127.0.0.1:{p}/app?sslmode=require",
        Psqls("postgresql://guest@127.0.0.1:{p}/app?sslmode=require"),
    ),
    case("jdbc:postgresql://127.0.0.1:{p}/app?user=guest", Psqls("postgresql://guest@127.0.0.1:{p}/app")),
    case("jdbc:postgresql://db.example:{p}/app?user=guest&hostaddr=127.0.0.1&ssl=true", Refused("sslmode: ")),
    case(
        "postgresql://guest@127.0.0.1:{p}/app?schema=public&pgbouncer=true&connection_limit=1",
        Psqls("postgresql://guest@127.0.0.1:{p}/app"),
    ),
    case(
        "postgresql://guest@127.0.0.1:{p}/app?sslmode=no-verify",
        Psqls("postgresql://guest@127.0.0.1:{p}/app?sslmode=require"),
    ),
    case(
        "postgresql://guest@127.0.0.1:{p}/app?ssl=false",
        Psqls("postgresql://guest@127.0.0.1:{p}/app?sslmode=disable"),
    ),
    case("mysql://guest@127.0.0.1:{p}/app", Refused("the scheme mysql: ")),
    case("postgresql://guest@127.0.0.1:{p}/app?search_path=x", Refused("search_path: ")),
    // What psql can and Rowlock cannot is refused by its name.
    case("postgresql://guest@{e}:{p}/app?requirepeer=postgres", Refused("requirepeer: ")),
    case("postgresql://guest@127.0.0.1:{p}/app?sslcrl={d}/right.pem", Refused("sslcrl: ")),
    case("postgresql://guest@127.0.0.1:{p}/app?gssencmode=require", Refused("gssencmode: ")),
    case("postgresql://guest@127.0.0.1:{p}/app?replication=database", Refused("replication: ")),
];

impl Server {
    fn fill(&self, text: &str, other: u16) -> String {
        let dir = self.dir.path().to_str().unwrap();
        let encoded = format!("{dir}/run").replace('/', "%2F");
        text.replace("{p}", &self.port.to_string())
            .replace("{q}", &other.to_string())
            .replace("{d}", dir)
            .replace("{e}", &encoded)
    }

    /// Nothing of the caller's environment gets in, and the home is empty.
    pub fn command(&self, program: &Path, env: &HashMap<String, String>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path()).envs(env);
        command
    }

    fn psql(&self, string: &str, env: &HashMap<String, String>) -> Result<String, String> {
        // The server's programs may be links to their own directory.
        let postgres = self.postgres.bin_dir().join("postgres").canonicalize().unwrap();
        let beside = postgres.with_file_name("psql");
        let mut psql = self.command(if beside.exists() { &beside } else { Path::new("psql") }, env);
        said(psql.args(["-X", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", FACTS, "-d", string]))
    }

    /// In a process of its own: the variables of this one are every test's.
    fn rowlock(&self, string: &str, env: &HashMap<String, String>) -> Result<String, String> {
        let mut test = self.command(&std::env::current_exe().unwrap(), env);
        test.args(["--exact", "connection_strings::prints_what_it_is_connected_to", "--ignored", "--nocapture"]);
        let text = said(test.env("TEST_CONNECTION_STRING", string)).unwrap();
        let line = |start: &str| text.lines().find_map(|line| line.split_once(start)).map(|(_, rest)| rest.to_owned());
        line("connected: ").ok_or_else(|| line("refused: ").unwrap_or_else(|| panic!("{text}")))
    }
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
#[ignore = "the other side of the comparison below, in a process of its own"]
#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn prints_what_it_is_connected_to() {
    let string = std::env::var("TEST_CONNECTION_STRING").unwrap();
    let answer = async {
        let client = JobQueue::connect_to(&string, &["default"], 1).await?.pool().get().await?;
        Ok::<String, Error>(client.query_typed(FACTS, &[]).await?[0].get(0))
    };
    match answer.await {
        Ok(facts) => println!("\nconnected: {facts}"),
        Err(error) => println!("\nrefused: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_and_rowlock_understand_the_same_by_a_connection_string() {
    let server = start().await;
    let other = port_of(support::server());
    support::connect(&support::server().url("postgres")).await.batch_execute("CREATE DATABASE reads").await.unwrap();
    let pass = "127.0.0.1:*:app:by_password:s3 cr/t\\:@\n";
    private(server.dir.path(), "pass", pass);
    let loose = private(server.dir.path(), "loose.pass", pass);
    fs::set_permissions(loose, PermissionsExt::from_mode(0o644)).unwrap();
    let services = format!("[app]\nhost=127.0.0.1\nport={}\nuser=guest\ndbname=app\nsslmode=require\n", server.port);
    private(server.dir.path(), "services", &services);
    let mut wrong = Vec::new();
    let (mut alike, mut refused) = (0, 0);
    for case in CASES {
        let env: HashMap<String, String> =
            case.env.iter().map(|(name, value)| ((*name).to_owned(), server.fill(value, other))).collect();
        let string = server.fill(case.string, other);
        let ours = server.rowlock(&string, &env);
        let shown = format!("{:?} {:?}", case.string, case.env);
        let theirs = match &case.end {
            Refused(part) => {
                refused += 1;
                match ours {
                    Err(said) if said.starts_with(part) => {}
                    other => wrong.push(format!("{shown}: expected a refusal {part:?}, got {other:?}")),
                }
                continue;
            }
            Psql => server.psql(&string, &env),
            Psqls(other_string) => server.psql(&server.fill(other_string, other), &env),
        };
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) if ours == theirs => alike += 1,
            (Err(_), Err(_)) => alike += 1,
            _ => wrong.push(format!("{shown}:\n  Rowlock {ours:?}\n  psql    {theirs:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    assert!(alike >= 60 && refused >= 5, "{alike} alike, {refused} refused by name");
}

/// A password and its file, as a mounted Secret has them.
pub struct Secret<'a> {
    pub server: &'a Server,
    pub file: PathBuf,
}

impl Secret<'_> {
    pub fn url(&self, password: &str) -> String {
        format!("postgresql://by_password:{password}@127.0.0.1:{}/app", self.server.port)
    }

    /// In the server only; who is connected is cut off.
    pub async fn change(&self, password: &str) {
        let admin = connect(&self.server.postgres.url("postgres")).await;
        admin.batch_execute(&format!("ALTER ROLE by_password PASSWORD '{password}'")).await.unwrap();
        self.cut_off().await;
    }

    /// Who is connected has to log in anew.
    pub async fn cut_off(&self) {
        let admin = connect(&self.server.postgres.url("postgres")).await;
        let cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'by_password'";
        admin.batch_execute(cut).await.unwrap();
    }
}

async fn answers(queue: &JobQueue) -> Result<i32, Error> {
    // The first may be a connection that was cut off and does not know yet.
    let mut answer = Err(Error::Pool("nobody asked".into()));
    for _ in 0..3 {
        answer = async { Ok(queue.pool().get().await?.query_typed("SELECT 1", &[]).await?[0].get(0)) }.await;
        if !answer.as_ref().is_err_and(|e: &Error| e.is_transient()) {
            break;
        }
    }
    answer
}

#[tokio::test]
async fn a_password_that_changes_in_a_file_needs_no_restart() {
    let server = start().await;
    let secret = Secret { server: &server, file: server.dir.path().join("url") };
    let passfile = server.dir.path().join("pgpass");
    let line = |password: &str| format!("127.0.0.1:*:*:*:{password}\n");
    secret.change("one").await;
    fs::write(&secret.file, secret.url("one") + "\n").unwrap();
    private(server.dir.path(), "pgpass", &line("one"));
    let by_file = JobQueue::connect_target(Target::from_file(&secret.file).unwrap(), &["default"], 2).await.unwrap();
    let url = format!("postgresql://by_password@127.0.0.1:{}/app?passfile={}", server.port, passfile.display());
    let by_passfile = JobQueue::connect_to(&url, &["default"], 2).await.unwrap();
    let by_text = JobQueue::connect_to(&secret.url("one"), &["default"], 2).await.unwrap();
    for queue in [&by_file, &by_passfile, &by_text] {
        assert_eq!(answers(queue).await.unwrap(), 1);
    }

    secret.change("two").await;
    for (queue, file) in [(&by_file, &secret.file), (&by_passfile, &passfile)] {
        let error = answers(queue).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::Login { .. }) && error.code() == Some("28P01"), "{error:?}");
        assert!(said.contains(file.to_str().unwrap()) && !said.contains("one@") && !said.contains("one:"), "{said}");
        // Who runs waits for the new password, who starts does not.
        assert!(error.may_pass() && !error.is_transient());
    }
    let error = answers(&by_text).await.unwrap_err();
    assert!(error.code() == Some("28P01") && !error.may_pass(), "only a new start sees a new variable: {error:?}");

    // For a moment the file is empty, as some editors have it.
    fs::write(&secret.file, "").unwrap();
    assert!(matches!(answers(&by_file).await.unwrap_err(), Error::Login { .. }));
    fs::write(&secret.file, secret.url("two")).unwrap();
    private(server.dir.path(), "pgpass", &line("two"));
    for queue in [&by_file, &by_passfile] {
        assert_eq!(answers(queue).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_root_that_changes_in_its_file_is_read_again_after_it_was_refused() {
    let server = start().await;
    let dir = server.dir.path();
    let root = dir.join("root.pem");
    fs::copy(dir.join("right.pem"), &root).unwrap();
    let url =
        format!("postgresql://guest@127.0.0.1:{}/app?sslmode=verify-ca&sslrootcert={}", server.port, root.display());
    let target = Target::parse(&url).unwrap();
    assert!(target.listen_connection().await.is_ok());
    fs::copy(dir.join("wrong.pem"), &root).unwrap();
    assert!(target.listen_connection().await.is_ok(), "what is believed is not read again");
    let target = Target::parse(&url).unwrap();
    assert!(matches!(target.listen_connection().await.err(), Some(Error::Tls(_))));
    fs::copy(dir.join("right.pem"), &root).unwrap();
    assert!(target.listen_connection().await.is_ok());
}

#[tokio::test]
async fn the_program_takes_its_database_from_a_file_or_from_libpqs_variables() {
    let server = start().await;
    let port = server.port.to_string();
    let secret = Secret { server: &server, file: server.dir.path().join("url") };
    secret.change("pass").await;
    fs::write(&secret.file, secret.url("pass") + "\n").unwrap();
    let file = secret.file.to_str().unwrap().to_owned();
    let rowlock = |args: &[&str], env: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut command = server.command(Path::new(PROGRAM), &env);
        let output = command.args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(rowlock(&["migrate", "up", "--database-url-file", &file], &[]).0, 0);
    let ask = ["queues", "list"];
    for env in [
        &[("ROWLOCK_DATABASE_URL_FILE", &*file)][..],
        &[("DATABASE_URL_FILE", &file)],
        &[("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "guest"), ("PGDATABASE", "app")],
        // A flag's own variable goes before those of others.
        &[("ROWLOCK_DATABASE_URL_FILE", &file), ("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")],
    ] {
        assert_eq!(rowlock(&ask, env), (0, String::new()), "{env:?}");
    }
    let (code, said) = rowlock(&ask, &[("DATABASE_URL_FILE", "/no/such/file")]);
    assert!(code == 2 && said.contains("/no/such/file"), "{code} {said}");
    let (code, said) = rowlock(&ask, &[]);
    assert!(code == 2 && said.contains("DATABASE_URL_FILE") && said.contains("PGHOST"), "{code} {said}");
}
