//! From settings to a plan: which servers, in which order, as whom, and how the line is protected. It asks nobody.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::config::ChannelBinding;

use super::{
    files,
    protection::{self, Check, Mode, TlsPlan},
    refusal::wrong,
    settings::{Settings, Surroundings},
};
use crate::Error;

/// A connection string, understood.
#[derive(Clone)]
pub(super) struct Plan {
    pub servers: Vec<Server>,
    pub session: SessionAttrs,
    /// Try the servers in a random order.
    pub shuffle: bool,
    pub user: String,
    pub database: String,
    password: Option<String>,
    /// The service file, if that password is out of it.
    password_file: Option<PathBuf>,
    passfile: Option<PathBuf>,
    pub options: Option<String>,
    pub application_name: String,
    /// None waits for ever.
    pub connect_timeout: Option<Duration>,
    pub keepalives: Option<Keepalives>,
    pub tcp_user_timeout: Option<Duration>,
    pub channel_binding: ChannelBinding,
    pub mode: Mode,
    /// TLS without asking for it first, which PostgreSQL 17 can.
    pub direct: bool,
    pub tls: TlsPlan,
}

/// One place to look for the database.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Server {
    pub place: Place,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// No host was named: the directory in which the socket is.
    AnySocket,
    Socket(PathBuf),
    /// The name is looked up, unless the address is given.
    Tcp {
        name: String,
        address: Option<IpAddr>,
    },
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Keepalives {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

/// A password, and the file that it was read from.
#[derive(Default)]
pub(super) struct Password {
    pub text: Option<String>,
    pub file: Option<PathBuf>,
    /// Why the password file was not used.
    pub unused: Option<String>,
}

/// Where a socket is by default: libpq has one of these compiled in.
pub(super) const SOCKET_DIRS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

impl Plan {
    pub(super) fn read(text: &str, around: &Surroundings) -> Result<Plan, Error> {
        let s = Settings::gather(text, around)?;
        let (mode, tls) = protection::read(&s, around)?;
        let servers = servers(&s)?;
        if mode == Mode::Require
            && tls.check == Check::ChainAndName
            && s.get("host").is_none()
            && s.get("hostaddr").is_some()
        {
            return Err(wrong("sslmode", "verify-full needs the server's name: give host beside hostaddr"));
        }
        let user = s.get("user").map(str::to_owned).or_else(|| around.user.clone());
        let user = user.ok_or_else(|| wrong("user", "none is named, and the user of this process has no name"))?;
        let direct = s.choice("sslnegotiation", &["postgres", "direct"])? == Some(1);
        if direct && mode != Mode::Require {
            return Err(wrong("sslnegotiation", "direct needs sslmode=require, verify-ca or verify-full"));
        }
        let keepalives = Keepalives {
            // The system's own default is two hours: a cut connection would go unnoticed for as long.
            idle: seconds(&s, "keepalives_idle")?.unwrap_or(Duration::from_secs(10)),
            interval: seconds(&s, "keepalives_interval")?.unwrap_or(Duration::from_secs(5)),
            count: s.number("keepalives_count")?.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(3),
        };
        let millis = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0).map(Duration::from_millis);
        let binding = s.choice("channel_binding", &["disable", "prefer", "require"])?;
        let passfile = s.get("passfile").map(PathBuf::from);
        Ok(Plan {
            servers,
            session: session(&s)?,
            shuffle: s.choice("load_balance_hosts", &["disable", "random"])? == Some(1),
            database: s.get("dbname").unwrap_or(&user).to_owned(),
            user,
            password: s.get("password").map(str::to_owned),
            password_file: s.password_file.clone(),
            passfile: passfile.or_else(|| around.home.as_ref().map(|home| home.join(".pgpass"))),
            options: s.get("options").map(str::to_owned),
            application_name: s
                .get("application_name")
                .or_else(|| s.get("fallback_application_name"))
                .unwrap_or("rowlock")
                .to_owned(),
            connect_timeout: match s.number("connect_timeout")? {
                None => Some(Duration::from_secs(10)),
                Some(n) => u64::try_from(n).ok().filter(|n| *n > 0).map(Duration::from_secs),
            },
            keepalives: s.number("keepalives")?.is_none_or(|n| n != 0).then_some(keepalives),
            // Keepalives do not watch a connection on which something is under way.
            tcp_user_timeout: s.number("tcp_user_timeout")?.map_or(Some(Duration::from_secs(20)), millis),
            channel_binding: match binding {
                Some(0) => ChannelBinding::Disable,
                Some(2) => ChannelBinding::Require,
                _ => ChannelBinding::Prefer,
            },
            mode,
            direct,
            tls,
        })
    }

    /// The password for a server: the one that was given, else the password file's, which is read each time.
    pub(super) fn password_for(&self, server: &Server) -> Password {
        if self.password.is_some() {
            return Password { text: self.password.clone(), file: self.password_file.clone(), unused: None };
        }
        let Some(file) = &self.passfile else { return Password::default() };
        let host = match &server.place {
            Place::AnySocket => "localhost".to_owned(),
            Place::Socket(dir) if SOCKET_DIRS.iter().any(|default| dir.as_os_str() == *default) => "localhost".into(),
            Place::Socket(dir) => dir.display().to_string(),
            Place::Tcp { name, .. } => name.clone(),
        };
        match files::read_passfile(file) {
            Ok(text) => {
                let text = text.and_then(|t| files::password(&t, &host, server.port, &self.database, &self.user));
                Password { file: text.is_some().then(|| file.clone()), text, unused: None }
            }
            Err(why) => Password { unused: Some(why), ..Password::default() },
        }
    }

    /// The same database by way of another address.
    pub(super) fn redirect(&mut self, to: std::net::SocketAddr) {
        let name = self.servers.iter().find_map(|s| match &s.place {
            Place::Tcp { name, .. } => Some(name.clone()),
            _ => None,
        });
        let place = Place::Tcp { name: name.unwrap_or_else(|| to.ip().to_string()), address: Some(to.ip()) };
        self.servers = vec![Server { place, port: to.port() }];
    }
}

fn seconds(s: &Settings, name: &str) -> Result<Option<Duration>, Error> {
    Ok(s.number(name)?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_secs))
}

/// One server for each host or address, as libpq pairs hosts, addresses and ports.
fn servers(s: &Settings) -> Result<Vec<Server>, Error> {
    let list = |name| s.get(name).map_or_else(Vec::new, |text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        let (hosts, addresses) = (hosts.len(), addresses.len());
        return Err(wrong("hostaddr", format!("expected one address for each of {hosts} hosts, got {addresses}")));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(wrong("port", format!("expected one port, or one for each of {count} hosts, got {}", ports.len())));
    }
    let at = |list: &[&str], n: usize| list.get(n).copied().unwrap_or_default().to_owned();
    let server = |n: usize| {
        let port = if ports.len() == 1 { at(&ports, 0) } else { at(&ports, n) };
        // The text is not repeated: behind a slash in a password it may be the password.
        let number = if port.is_empty() { Some(5432) } else { port.parse().ok().filter(|port| *port > 0) };
        let help = "expected a number from 1 to 65535; write a slash, colon or @ in a password as %2F, %3A or %40";
        let port = number.ok_or_else(|| wrong("port", help))?;
        let address = at(&addresses, n);
        let address: Option<IpAddr> = if address.is_empty() {
            None
        } else {
            Some(address.parse().map_err(|_| wrong("hostaddr", "expected an IP address; a name belongs into host"))?)
        };
        Ok(Server { place: place(at(&hosts, n), address)?, port })
    };
    (0..count).map(server).collect()
}

fn place(host: String, address: Option<IpAddr>) -> Result<Place, Error> {
    match (host, address) {
        (host, Some(address)) if host.is_empty() => {
            Ok(Place::Tcp { name: address.to_string(), address: Some(address) })
        }
        (name, Some(address)) => Ok(Place::Tcp { name, address: Some(address) }),
        (host, None) if host.is_empty() => Ok(Place::AnySocket),
        (host, None)
            if host.starts_with('/') && host.rsplit('/').next().is_some_and(|f| f.starts_with(".s.PGSQL.")) =>
        {
            Err(wrong("host", "expected the directory of a socket, not the socket; its number goes into port"))
        }
        (host, None) if host.starts_with('/') => Ok(Place::Socket(host.into())),
        (host, None) if host.starts_with('@') => {
            Err(wrong("host", "sockets without a file are not supported; name the directory of one, such as /tmp"))
        }
        // The text is not repeated: before the @ it is the end of a password.
        (host, None) if host.contains('@') => {
            Err(wrong("host", "expected a name without @; write an @ in a user or a password as %40"))
        }
        (host, None) if host.contains(':') && host.parse::<IpAddr>().is_err() => {
            Err(wrong("host", "expected a name or an address alone; the port goes into port"))
        }
        (name, None) => Ok(Place::Tcp { name, address: None }),
    }
}

fn session(s: &Settings) -> Result<SessionAttrs, Error> {
    use SessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    let values = ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];
    let attrs = [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby];
    Ok(s.choice("target_session_attrs", &values)?.map_or(Any, |n| attrs[n]))
}
