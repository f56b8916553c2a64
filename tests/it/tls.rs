//! TLS against a real server, grade by grade: what libpq's `sslmode` promises, and what is said when it fails.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rowlock::{
    Error, JobQueue, Status,
    local_postgres::{LocalPostgres, Options},
};

use crate::{
    binary::program,
    support::{self, Db, connect, eventually},
    work::{Working, ends, options, put_type, shell},
};

/// The only name in the server's certificate. Connections go to 127.0.0.1, whatever they call it.
const NAME: &str = "db.example";

struct Server {
    port: u16,
    /// Signed the server's certificate.
    right: PathBuf,
    /// Did not, though it bears the same name.
    wrong: PathBuf,
    _postgres: LocalPostgres,
}

pub type Ca = CertifiedIssuer<'static, KeyPair>;

pub fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "CA of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a server with this certificate is given: the certificate and its key.
pub fn certificate(ca: &Ca, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// Into the data directory, which goes with the server: private, and the server's own.
pub fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(dir).unwrap();
    chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    file
}

/// A server with TLS. It takes connections without it too, but not to the database `secret`.
async fn start((certificate, key): (String, String), cas: [&str; 2]) -> Server {
    let postgres = LocalPostgres::start(Options { persist: None, ram: true, ..Options::default() }).await.unwrap();
    let admin = connect(&postgres.url("postgres")).await;
    let dir: String = admin.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let dir = Path::new(&dir);
    write(dir, "server.crt", &certificate);
    write(dir, "server.key", &key);
    let hba = std::fs::read_to_string(dir.join("pg_hba.conf")).unwrap();
    write(dir, "pg_hba.conf", &format!("hostnossl secret all all reject\n{hba}"));
    for sql in ["ALTER SYSTEM SET ssl = on", "CREATE DATABASE secret", "SELECT pg_reload_conf()"] {
        admin.batch_execute(sql).await.unwrap();
    }
    eventually("TLS is on", || async {
        let fresh = connect(&postgres.url("postgres")).await;
        fresh.query_one("SHOW ssl", &[]).await.unwrap().get::<_, &str>(0) == "on"
    })
    .await;
    let port = postgres.url("").split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap();
    let [right, wrong] = cas;
    Server { port, right: write(dir, "right.pem", right), wrong: write(dir, "wrong.pem", wrong), _postgres: postgres }
}

/// The one server of these tests.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let make = || {
            let (right, wrong) = (ca(), ca());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(start(certificate(&right, &[NAME]), [&right.pem(), &wrong.pem()]))
        };
        std::thread::spawn(make).join().unwrap()
    })
}

impl Server {
    fn url(&self, host: &str, database: &str, options: &str) -> String {
        format!("postgres://rowlock@{host}:{}/{database}?hostaddr=127.0.0.1&{options}", self.port)
    }
}

/// Whether the connection is encrypted, by the server's own word.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let queue = JobQueue::connect(url).await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(queue.pool().get().await?.query_typed(sql, &[]).await?[0].get(0))
}

#[tokio::test]
async fn each_sslmode_encrypts_and_checks_as_much_as_it_says() {
    let s = server();
    let (right, wrong) = (s.right.display(), s.wrong.display());
    let ca = "not signed by a CA in sslrootcert";
    let name = "db.example";
    let (plain, tls): (Result<bool, &str>, Result<bool, &str>) = (Ok(false), Ok(true));
    for (host, options, want) in [
        (NAME, "sslmode=disable".to_owned(), plain),
        (NAME, "application_name=x".to_owned(), tls),
        // As libpq: TLS only if the server insists.
        (NAME, "sslmode=allow".to_owned(), plain),
        (NAME, "sslmode=prefer".to_owned(), tls),
        (NAME, "sslmode=require".to_owned(), tls),
        ("other.example", "sslmode=require".to_owned(), tls),
        // As libpq: a root makes it check the chain.
        ("other.example", format!("sslmode=require&sslrootcert={right}"), tls),
        (NAME, format!("sslmode=require&sslrootcert={wrong}"), Err(ca)),
        (NAME, format!("sslmode=verify-ca&sslrootcert={right}"), tls),
        ("other.example", format!("sslmode=verify-ca&sslrootcert={right}"), tls),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={right}"), tls),
        (NAME, format!("sslmode=verify-ca&sslrootcert={wrong}"), Err(ca)),
        (NAME, format!("sslmode=verify-full&sslrootcert={right}"), tls),
        ("other.example", format!("sslmode=verify-full&sslrootcert={right}"), Err(name)),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={right}"), Err(name)),
        (NAME, format!("sslmode=verify-full&sslrootcert={wrong}"), Err(ca)),
        ("other.example", format!("sslmode=verify-full&sslrootcert={wrong}"), Err(ca)),
        // The system's roots did not sign it either.
        (NAME, "sslmode=verify-full&sslrootcert=system".to_owned(), Err(ca)),
    ] {
        match (encrypted(&s.url(host, "postgres", &options)).await, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{host} {options}"),
            (Err(error), Err(want)) => {
                assert!(matches!(error, Error::Tls(_)), "{host} {options}: {error:?}");
                let said = error.to_string();
                assert!(said.starts_with("sslmode: ") && said.contains(want), "{host} {options}: {said}");
                // Trying again changes nothing.
                assert!(!error.is_transient(), "{said}");
            }
            (got, want) => panic!("{host} {options}: expected {want:?}, got {got:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let url = support::server().url("postgres");
    for mode in ["require", "verify-ca", "verify-full"] {
        let root = server().right.display();
        let url = url.replace("sslmode=disable", &format!("sslmode={mode}&sslrootcert={root}"));
        let error = encrypted(&url).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::Tls(_)) && said.contains("the server does not offer TLS"), "{error:?}");
        assert!(said.starts_with("sslmode: ") && said.contains("ssl = on"), "{said}");
    }
    for mode in ["prefer", "allow", "disable"] {
        assert!(!encrypted(&url.replace("=disable", &format!("={mode}"))).await.unwrap(), "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_insists_on_tls_says_so_to_a_client_without() {
    let error = encrypted(&server().url(NAME, "secret", "sslmode=disable")).await.unwrap_err();
    assert_eq!(error.code(), Some("28000"));
    assert!(error.to_string().contains("sslmode=require"), "{error}");
    assert!(encrypted(&server().url(NAME, "secret", "sslmode=require")).await.unwrap());
}

#[tokio::test]
async fn a_certificate_signed_by_itself_is_its_own_root() {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    // As `openssl req -x509` makes it, which Postgres's manual tells people to use.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own: Ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pair = (own.pem(), own.key().serialize_pem());
    let s = start(pair, [&own.pem(), &ca().pem()]).await;
    for (host, mode, root, works) in [
        (NAME, "verify-ca", &s.right, true),
        (NAME, "verify-full", &s.right, true),
        ("other.example", "verify-ca", &s.right, true),
        ("other.example", "verify-full", &s.right, false),
        (NAME, "verify-ca", &s.wrong, false),
        (NAME, "verify-full", &s.wrong, false),
    ] {
        let options = format!("sslmode={mode}&sslrootcert={}", root.display());
        let got = encrypted(&s.url(host, "postgres", &options)).await;
        assert_eq!(got.is_ok(), works, "{host} {mode} {}: {got:?}", root.display());
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_even_where_it_is_its_own_root() {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let own: Ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let s = start((own.pem(), own.key().serialize_pem()), [&own.pem(), &own.pem()]).await;
    for mode in ["verify-ca", "verify-full"] {
        let options = format!("sslmode={mode}&sslrootcert={}", s.right.display());
        let error = encrypted(&s.url(NAME, "postgres", &options)).await.unwrap_err();
        assert!(error.to_string().starts_with("sslmode: the server's certificate has expired"), "{error:?}");
    }
    assert!(encrypted(&s.url(NAME, "postgres", "sslmode=require")).await.unwrap());
}

#[tokio::test]
async fn a_root_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for file in [Path::new("/no/such/ca.pem"), &empty] {
        let url = server().url(NAME, "postgres", &format!("sslmode=verify-ca&sslrootcert={}", file.display()));
        let error = encrypted(&url).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(said.starts_with("sslrootcert: ") && said.contains(file.to_str().unwrap()), "{said}");
    }
}

#[tokio::test]
async fn the_command_line_says_what_to_do() {
    let s = server();
    for (url, say) in [
        (
            s.url("other.example", "postgres", &format!("sslmode=verify-full&sslrootcert={}", s.right.display())),
            "verify-ca",
        ),
        (s.url(NAME, "postgres", &format!("sslmode=verify-full&sslrootcert={}", s.wrong.display())), "sslrootcert"),
        (support::server().url("postgres").replace("=disable", "=require"), "sslmode=prefer"),
    ] {
        let mut command = program();
        let output = command.args(["queues", "list"]).env_clear().env("DATABASE_URL", &url).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: sslmode: ") && said.contains(say), "{said}");
    }
}

/// The server shows another certificate from now on, and to those too that are connected.
async fn show(db: &Db, s: &Server, url: &str, (certificate, key): &(String, String), believed: bool) {
    let dir = s.right.parent().unwrap();
    write(dir, "server.crt", certificate);
    write(dir, "server.key", key);
    db.run("SELECT pg_reload_conf()").await;
    eventually("the server shows it", || async { encrypted(url).await.is_ok() == believed }).await;
    db.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL",
    )
    .await;
}

#[tokio::test]
async fn a_worker_outlives_a_certificate_that_goes_bad_but_does_not_start_with_one() {
    let (right, wrong) = (ca(), ca());
    let (good, bad) = (certificate(&right, &[NAME]), certificate(&wrong, &[NAME]));
    let s = start(good.clone(), [&right.pem(), &wrong.pem()]).await;
    let plain = s.url("127.0.0.1", "postgres", "sslmode=disable");
    let url = s.url(NAME, "postgres", &format!("sslmode=verify-full&sslrootcert={}", s.right.display()));
    let db = Db { client: connect(&plain).await, url: url.clone() };
    let q = JobQueue::connect(&url).await.unwrap();
    q.migrate().await.unwrap();
    put_type(&db, serde_json::json!({"command": shell("true")})).await;
    let options = rowlock::worker::WorkerOptions { lease: Duration::from_secs(1), ..options() };
    let worker = Working::start(&q, options.clone());
    let alive = "SELECT EXISTS (SELECT FROM rowlock.worker WHERE lease_until > clock_timestamp())";
    eventually("it works", || async { db.one::<bool>(alive, &[]).await }).await;

    show(&db, &s, &url, &bad, false).await;
    eventually("its lease is over", || async { !db.one::<bool>(alive, &[]).await }).await;
    let started = Working::start(&q, options).ended().await;
    assert!(matches!(started, Err(Error::Tls(_))), "{started:?}");
    show(&db, &s, &url, &good, true).await;
    let other = JobQueue::connect(&plain).await.unwrap();
    let id = other.enqueue("t", serde_json::json!({})).await.unwrap().id;
    assert_eq!(ends(&other, id).await.status, Status::Completed);
    assert_eq!(worker.stop().await.completed, 1);
}
