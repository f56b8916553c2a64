//! From a connection string to connections, as libpq understands it. Its rooms, in the order in which a string goes
//! through them:
//!
//! - `text`, `dialect`: the grammar; what ORMs write. `settings`, `files`: libpq's options from the string, a service
//!   and the environment; the service file and the password file.
//! - `plan`, `protection`: which servers, as whom, with how much TLS. `tls`, `stream`: the same by rustls.
//! - `dial`: a connection. `presence`: whether a server that is not reached is away for everybody. `lent`: a pooled
//!   connection for one call.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod cases;
mod dial;
mod dialect;
mod files;
pub(crate) mod lent;
mod plan;
pub(crate) mod presence;
mod protection;
mod refusal;
mod settings;
mod stream;
mod text;
mod tls;

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub use self::stream::Connection;
use self::{
    plan::{Place, Plan},
    presence::Presence,
    settings::Surroundings,
    stream::Tls,
};
use crate::Error;

/// Where the database is and how to speak to it, understood once. What comes from files is read anew when it matters:
/// the password file and the file of a connection string for each connection, certificates after they were refused.
#[derive(Clone)]
pub struct Target {
    source: Source,
    /// The address by which the server is reached instead of its own.
    by: Option<SocketAddr>,
    current: Arc<Mutex<Arc<Ready>>>,
    presence: Arc<Presence>,
}

#[derive(Clone)]
enum Source {
    Text(String),
    File(PathBuf),
}

/// A connection string with what it needs to connect.
struct Ready {
    text: String,
    plan: Plan,
    tls: Tls,
    /// Something in it was refused: the files behind it may have changed.
    is_stale: AtomicBool,
}

impl Ready {
    fn read(text: String, by: Option<SocketAddr>) -> Result<Ready, Error> {
        let mut plan = Plan::read(&text, &Surroundings::of_this_process())?;
        if let Some(address) = by {
            plan.redirect(address);
        }
        let tls = Tls(Arc::new(tls::client_config(&plan.tls, plan.direct)?));
        Ok(Ready { text, plan, tls, is_stale: AtomicBool::new(false) })
    }
}

impl fmt::Debug for Target {
    /// The string may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads a connection string, which means what it means to libpq: a `postgresql://` URI or `key=value` words,
    /// sockets, several hosts, `PG*` variables, a service, a password file. What drivers and ORMs add is understood
    /// (`postgresql+asyncpg:`, `jdbc:postgresql:`, `pgbouncer=true`), or refused by name.
    ///
    /// # Errors
    /// [`Error::Config`], which names the part that is wrong but never repeats the string: it holds a password.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@localhost/app?sslmode=prefer").unwrap();
    /// assert!(rowlock::Target::parse("postgres://localhost/app?sslmode=perhaps").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Target, Error> {
        Target::new(Source::Text(text.to_owned()), None)
    }

    /// Reads a connection string from a file, such as a mounted Secret. The file is read again for each connection, so
    /// that a changed password needs no restart.
    ///
    /// # Errors
    /// [`Error::Config`] if the file cannot be read, or as [`Target::parse`].
    ///
    /// ```
    /// let missing = rowlock::Target::from_file("/no/such/file").err().unwrap();
    /// assert!(missing.to_string().contains("/no/such/file"));
    /// ```
    pub fn from_file(file: impl AsRef<Path>) -> Result<Target, Error> {
        Target::new(Source::File(file.as_ref().to_owned()), None)
    }

    fn new(source: Source, by: Option<SocketAddr>) -> Result<Target, Error> {
        let ready = Ready::read(source.text()?, by)?;
        Ok(Target { source, by, current: Arc::new(Mutex::new(Arc::new(ready))), presence: Arc::default() })
    }

    /// The host that the string names first, and its port; none for a socket's directory.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@db.example/app").unwrap();
    /// assert_eq!(target.host(), Some(("db.example".to_owned(), 5432)));
    /// ```
    pub fn host(&self) -> Option<(String, u16)> {
        match self.current().plan.servers.first()? {
            plan::Server { place: Place::Tcp { name, .. }, port } => Some((name.clone(), *port)),
            _ => None,
        }
    }

    /// The texts by which one could log in as this process does: the connection string, if a password is in it, and the
    /// passwords themselves, also those out of files.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let ready = self.current();
        let mut secrets: Vec<String> =
            ready.plan.servers.iter().filter_map(|server| ready.plan.password_for(server).text).collect();
        if !secrets.is_empty() {
            secrets.push(ready.text.trim().to_owned());
        }
        secrets
    }

    /// The same database, reached at another address. TLS verifies the same name as before.
    ///
    /// # Errors
    /// As [`Target::parse`]: what is in files is read anew.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@db.example/app").unwrap();
    /// let tunnel = target.by(([127, 0, 0, 1], 15432).into()).unwrap();
    /// assert_eq!(tunnel.host(), Some(("db.example".to_owned(), 15432)));
    /// ```
    pub fn by(&self, address: SocketAddr) -> Result<Target, Error> {
        Target::new(self.source.clone(), Some(address))
    }

    pub(crate) fn pool(&self, size: usize) -> Result<Pool, Error> {
        let manager = Manager::from_connect(
            tokio_postgres::Config::new(),
            Dialer(self.clone()),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let wait = Duration::from_secs(15);
        let plan = &self.current().plan;
        // Each server in turn has its own time, and one more try where TLS may be left out.
        let servers = u32::try_from(plan.servers.len()).unwrap_or(1);
        let create = plan.connect_timeout.map(|timeout| wait.max(2 * servers * (timeout + Duration::from_secs(1))));
        Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(wait))
            .create_timeout(create)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| Error::Pool(e.to_string()))
    }

    /// One connection of its own, for LISTEN: a pooled one belongs to nobody. The caller polls it.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Pool`] if nobody answers, [`Error::Tls`] if the server is not believed.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let (client, connection) = queue.target().listen_connection().await?;
    /// tokio::spawn(connection);
    /// client.batch_execute("LISTEN rowlock").await?;
    /// # Ok(()) }
    /// ```
    pub async fn listen_connection(&self) -> Result<(Client, Connection), Error> {
        let ready = self.refreshed();
        let answer = dial::dial(&ready.plan, &ready.tls, &self.presence).await;
        answer.map_err(|error| {
            let login = error.is_refused_login();
            if login || matches!(error, Error::Tls(_)) {
                ready.is_stale.store(true, Ordering::Relaxed);
            }
            match (&self.source, error) {
                // All of it came from that file, the password too.
                (Source::File(file), Error::Database(e)) => match e.as_db_error() {
                    Some(db) if login => Error::login(db, file),
                    _ => Error::Database(e),
                },
                (_, error) => error,
            }
        })
    }

    /// The signs by which this program knows whether the server is away for everybody.
    pub(crate) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    fn current(&self) -> Arc<Ready> {
        self.current.lock().expect("no code panics while it holds this lock").clone()
    }

    /// The plan to connect with now. A file that cannot be read or understood at this moment may be being written: then
    /// what was read last still holds.
    fn refreshed(&self) -> Arc<Ready> {
        let current = self.current();
        let text = self.source.text();
        let is_changed = text.as_ref().is_ok_and(|text| *text != current.text);
        if !is_changed && !current.is_stale.load(Ordering::Relaxed) {
            return current;
        }
        match text.and_then(|text| Ready::read(text, self.by)) {
            Ok(ready) => {
                let ready = Arc::new(ready);
                *self.current.lock().expect("no code panics while it holds this lock") = ready.clone();
                ready
            }
            Err(error) => {
                tracing::warn!(%error, "the connection string was not read again");
                current
            }
        }
    }
}

impl Source {
    fn text(&self) -> Result<String, Error> {
        match self {
            Source::Text(text) => Ok(text.clone()),
            Source::File(file) => {
                let wrong = |e: &dyn std::fmt::Display| {
                    Error::Config(format!("the file of the connection string: {}: {e}", file.display()))
                };
                let text = fs::read_to_string(file).map_err(|e| wrong(&e))?;
                // It would mean the socket of this machine, which nobody means who has a file.
                if text.trim().is_empty() { Err(wrong(&"it is empty")) } else { Ok(text) }
            }
        }
    }
}

/// How the pool connects.
struct Dialer(Target);

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl deadpool_postgres::Connect for Dialer {
    fn connect(&self, _: &tokio_postgres::Config) -> Connecting<'_> {
        Box::pin(async {
            match self.0.listen_connection().await {
                Ok((client, connection)) => {
                    let presence = self.0.presence.clone();
                    Ok((client, tokio::spawn(async move { presence.serve(connection).await })))
                }
                Err(error) => Err(error.carried().await),
            }
        })
    }
}
