//! From a connection URL to a pool: libpq's `sslmode` and `sslrootcert`, keepalives. Its room: `tls`, by rustls.

mod tls;

use std::{str::FromStr, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use self::tls::Check;
use crate::Error;

/// Where the database is and how to speak to it, parsed once.
#[derive(Clone)]
pub struct Target {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

impl Target {
    /// Reads a `postgres://` URL or a `key=value` string. `sslmode` may be any of libpq's up to
    /// `verify-full`; `sslrootcert` is a PEM file, or `system` (the default when verifying).
    ///
    /// # Errors
    /// [`Error::Config`], which says what is wrong but never repeats the URL: it holds a password.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@localhost/app?sslmode=prefer").unwrap();
    /// assert!(rowlock::Target::parse("postgres://localhost/app?sslmode=perhaps").is_err());
    /// ```
    pub fn parse(url: &str) -> Result<Target, Error> {
        let (rest, mode, root) = take_ssl_options(url);
        let (ssl_mode, check) = match mode.as_deref() {
            None | Some("prefer" | "allow") => (SslMode::Prefer, Check::Nothing),
            Some("disable") => (SslMode::Disable, Check::Nothing),
            Some("require") if root.is_some() => (SslMode::Require, Check::Chain), // as libpq does
            Some("require") => (SslMode::Require, Check::Nothing),
            Some("verify-ca") => (SslMode::Require, Check::Chain),
            Some("verify-full") => (SslMode::Require, Check::ChainAndName),
            Some(other) => {
                return Err(Error::Config(format!(
                    "sslmode: expected disable, allow, prefer, require, verify-ca or verify-full, got {other}"
                )));
            }
        };
        let mut config = tokio_postgres::Config::from_str(&rest)
            .map_err(|e| Error::Config(format!("the database URL cannot be read: {}", source_text(&e))))?;
        config.ssl_mode(ssl_mode);
        tune(&mut config);
        Ok(Target { config, tls: MakeRustlsConnect::new(tls::client_config(check, root.as_deref())?) })
    }

    /// The host that the string names first, and its port; none for a socket's directory.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@db.example/app").unwrap();
    /// assert_eq!(target.host(), Some(("db.example", 5432)));
    /// ```
    pub fn host(&self) -> Option<(&str, u16)> {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        match self.config.get_hosts().first()? {
            tokio_postgres::config::Host::Tcp(host) => Some((host, port)),
            _ => None,
        }
    }

    /// The same database, reached at another address. TLS verifies the same name as before.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@db.example/app").unwrap();
    /// let tunnel = target.by(([127, 0, 0, 1], 15432).into());
    /// assert_eq!(tunnel.host(), Some(("db.example", 15432)));
    /// ```
    pub fn by(mut self, address: std::net::SocketAddr) -> Target {
        let host = self.host().map(|(host, _)| host.to_owned());
        let mut config = tokio_postgres::Config::new();
        config.host(host.unwrap_or_else(|| address.ip().to_string())).hostaddr(address.ip()).port(address.port());
        if let Some(user) = self.config.get_user() {
            config.user(user);
        }
        if let Some(password) = self.config.get_password() {
            config.password(password);
        }
        if let Some(database) = self.config.get_dbname() {
            config.dbname(database);
        }
        if let Some(options) = self.config.get_options() {
            config.options(options);
        }
        config
            .ssl_mode(self.config.get_ssl_mode())
            .ssl_negotiation(self.config.get_ssl_negotiation())
            .channel_binding(self.config.get_channel_binding());
        tune(&mut config);
        self.config = config;
        self
    }

    pub(crate) fn pool(&self, size: usize) -> Result<Pool, Error> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let wait = Some(Duration::from_secs(15));
        Pool::builder(manager)
            .max_size(size)
            .wait_timeout(wait)
            .create_timeout(wait)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| Error::Pool(e.to_string()))
    }

    /// One connection of its own, for LISTEN: a pooled one belongs to nobody. The caller polls it.
    ///
    /// # Errors
    /// [`Error::Database`] if nobody answers, [`Error::Tls`] if the server is not believed.
    ///
    /// ```no_run
    /// # async fn f(queue: rowlock::JobQueue) -> Result<(), rowlock::Error> {
    /// let (client, connection) = queue.target().listen_connection().await?;
    /// tokio::spawn(connection);
    /// client.batch_execute("LISTEN rowlock").await?;
    /// # Ok(()) }
    /// ```
    pub async fn listen_connection(&self) -> Result<(tokio_postgres::Client, Connection), Error> {
        Ok(self.config.connect(self.tls.clone()).await?)
    }
}

/// A connection that its owner polls.
pub type Connection = tokio_postgres::Connection<
    tokio_postgres::Socket,
    <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
>;

/// What a URL need not say.
fn tune(config: &mut tokio_postgres::Config) {
    // The library's default is two hours: a cut connection would go unnoticed for as long.
    config
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        // Keepalives do not watch a connection on which something is under way.
        .tcp_user_timeout(Duration::from_secs(20));
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(10));
    }
    if config.get_application_name().is_none() {
        config.application_name("rowlock");
    }
}

/// The URL without `sslmode` and `sslrootcert`, and what they were.
fn take_ssl_options(url: &str) -> (String, Option<String>, Option<String>) {
    let (mut mode, mut root) = (None, None);
    let mut keep = |pair: &str| match pair.split_once('=') {
        Some(("sslmode", v)) => {
            mode = Some(v.trim_matches('\'').to_owned());
            false
        }
        Some(("sslrootcert", v)) => {
            root = Some(v.trim_matches('\'').replace("%2F", "/").replace("%2f", "/"));
            false
        }
        _ => true,
    };
    let rest = if url.contains("://") {
        match url.split_once('?') {
            Some((base, query)) => {
                let kept: Vec<&str> = query.split('&').filter(|p| keep(p)).collect();
                if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) }
            }
            None => url.to_owned(),
        }
    } else {
        url.split_whitespace().filter(|p| keep(p)).collect::<Vec<_>>().join(" ")
    };
    (rest, mode, root)
}

fn source_text(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}
