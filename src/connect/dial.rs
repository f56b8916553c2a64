//! From a plan to a connection: servers in turn, TLS by libpq's rules, a session of the kind that was asked for.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    time::{Duration, Instant},
};

use tokio_postgres::{
    Client, Config, SimpleQueryMessage,
    config::{SslMode, SslNegotiation},
};

use super::{
    plan::{Place, Plan, SOCKET_DIRS, Server, SessionAttrs},
    presence::{Absence, Presence},
    protection::Mode,
    stream::{Connection, Tls},
};
use crate::Error;

/// Connects to the first server that answers and has the kind of session that is wanted.
pub(super) async fn dial(plan: &Plan, tls: &Tls, presence: &Presence) -> Result<(Client, Connection), Error> {
    let began = Instant::now();
    use SessionAttrs::{Any, PreferStandby, Standby};
    let passes: &[SessionAttrs] = if plan.session == PreferStandby { &[Standby, Any] } else { &[plan.session] };
    let mut order: Vec<&Server> = plan.servers.iter().collect();
    if plan.shuffle {
        shuffle(&mut order);
    }
    let (mut failed, mut signs) = (None, Vec::new());
    for wanted in passes {
        for server in &order {
            let mut sign = Absence::Unknown;
            match knock(plan, tls, server, *wanted, &mut sign).await {
                Ok(connected) => {
                    presence.met();
                    return Ok(connected);
                }
                Err(error) if ends_the_search(&error) => {
                    presence.met();
                    return Err(error);
                }
                Err(error) => {
                    failed = Some(error);
                    signs.push(sign);
                }
            }
        }
    }
    presence.missed(began, &signs);
    Err(failed.expect("a plan has a server"))
}

fn shuffle(order: &mut [&Server]) {
    for last in (1..order.len()).rev() {
        let random = RandomState::new().hash_one(last) as usize;
        order.swap(last, random % (last + 1));
    }
}

/// As libpq: who was refused by a server asks no other. A server that is not there, or not ready, refuses nobody.
fn ends_the_search(error: &Error) -> bool {
    match error {
        Error::Pool(_) => false,
        Error::Database(_) => error.code().is_some_and(|code| code != "57P03"),
        _ => true,
    }
}

/// One server, without and with TLS as the mode has it.
async fn knock(
    plan: &Plan,
    tls: &Tls,
    server: &Server,
    wanted: SessionAttrs,
    sign: &mut Absence,
) -> Result<(Client, Connection), Error> {
    let (first, second) = match (&server.place, plan.mode) {
        (Place::AnySocket | Place::Socket(_), _) | (_, Mode::Disable) => (SslMode::Disable, None),
        (_, Mode::Allow) => (SslMode::Disable, Some(SslMode::Require)),
        (_, Mode::Prefer) => (SslMode::Prefer, Some(SslMode::Disable)),
        (_, Mode::Require) => (SslMode::Require, None),
    };
    let (mut client, mut connection) = match once(plan, tls, server, first, sign).await {
        Ok(connected) => connected,
        Err(error) => match second {
            // Only where the other way can end otherwise: pg_hba.conf knows with and without TLS.
            Some(second) if matches!(error, Error::Tls(_)) || error.code() == Some("28000") => {
                match once(plan, tls, server, second, sign).await {
                    Ok(connected) => connected,
                    // Without the first try nobody would learn why it came to the second.
                    Err(_) if plan.mode == Mode::Prefer => return Err(error),
                    Err(Error::Tls(_)) => return Err(error),
                    Err(second) => return Err(second),
                }
            }
            _ => return Err(error),
        },
    };
    if wanted != SessionAttrs::Any {
        let (read_only, standby) = within(plan, server, ask(&mut client, &mut connection)).await?;
        let fits = match wanted {
            SessionAttrs::ReadWrite => !read_only,
            SessionAttrs::ReadOnly => read_only,
            SessionAttrs::Primary => !standby,
            SessionAttrs::Standby => standby,
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        };
        if !fits {
            let is = if standby {
                *sign = Absence::Standby;
                "a standby"
            } else if read_only {
                "read-only"
            } else {
                "a writable primary"
            };
            let server = named(server);
            return Err(Error::Pool(format!("target_session_attrs: {server} is {is}, and no other server was found")));
        }
    }
    Ok((client, connection))
}

/// Whether a session is read-only, and whether its server is a standby. Nobody else polls the connection yet.
async fn ask(client: &mut Client, connection: &mut Connection) -> Result<(bool, bool), Error> {
    let sql = "SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery()";
    let answer = tokio::select! {
        answer = client.simple_query(sql) => answer?,
        ended = connection => {
            ended?;
            return Err(Error::Pool("the server closed the connection".into()));
        }
    };
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0) == Some("on"), row.get(1) == Some("t"))),
        _ => None,
    });
    row.ok_or_else(|| Error::Pool("the server did not say whether it is read-only".into()))
}

/// One try, which ends within the connect timeout: a server that accepts and says nothing must not hold us.
async fn once(
    plan: &Plan,
    tls: &Tls,
    server: &Server,
    mode: SslMode,
    sign: &mut Absence,
) -> Result<(Client, Connection), Error> {
    let password = plan.password_for(server);
    let mut config = Config::new();
    match &server.place {
        Place::AnySocket => config.host_path(socket_dir(server.port)),
        Place::Socket(dir) => config.host_path(dir),
        Place::Tcp { name, address } => {
            config.host(name);
            address.map(|address| config.hostaddr(address));
            &mut config
        }
    };
    config.port(server.port).user(&plan.user).dbname(&plan.database).application_name(&plan.application_name);
    config.ssl_mode(mode).channel_binding(plan.channel_binding);
    if plan.direct && mode == SslMode::Require {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    if let Some(text) = &password.text {
        config.password(text);
    }
    if let Some(options) = &plan.options {
        config.options(options);
    }
    if let Some(timeout) = plan.connect_timeout {
        config.connect_timeout(timeout);
    }
    if let Some(timeout) = plan.tcp_user_timeout {
        config.tcp_user_timeout(timeout);
    }
    match &plan.keepalives {
        None => config.keepalives(false),
        Some(k) => config.keepalives_idle(k.idle).keepalives_interval(k.interval).keepalives_retries(k.count),
    };
    let connecting = async {
        config.connect(tls.clone()).await.map_err(|error| {
            *sign = Absence::of(&error);
            error.into()
        })
    };
    let answer = within(plan, server, connecting).await;
    answer.map_err(|error| explain(error, server, password.file.as_deref(), password.unused))
}

async fn within<T>(plan: &Plan, server: &Server, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match plan.connect_timeout {
        None => work.await,
        // The connecting itself keeps the bound for each address of a name; this one is for what follows.
        Some(timeout) => match tokio::time::timeout(timeout + Duration::from_secs(1), work).await {
            Ok(answer) => answer,
            Err(_) => {
                let (server, seconds) = (named(server), timeout.as_secs());
                Err(Error::Pool(format!("{server} did not answer within {seconds} s (connect_timeout)")))
            }
        },
    }
}

/// Where a server with this port has its socket; if there is none, where it should be.
fn socket_dir(port: u16) -> &'static str {
    let file = format!(".s.PGSQL.{port}");
    let socket = SOCKET_DIRS.into_iter().find(|dir| Path::new(dir).join(&file).exists());
    socket.or_else(|| SOCKET_DIRS.into_iter().find(|dir| Path::new(dir).is_dir())).unwrap_or("/tmp")
}

fn named(server: &Server) -> String {
    match &server.place {
        Place::AnySocket => format!("the socket {}/.s.PGSQL.{}", socket_dir(server.port), server.port),
        Place::Socket(dir) => format!("the socket {}/.s.PGSQL.{}", dir.display(), server.port),
        Place::Tcp { name, .. } => format!("{name}, port {}", server.port),
    }
}

/// Adds what only the caller knows: which socket, and where the password came from.
fn explain(error: Error, server: &Server, file: Option<&Path>, unused: Option<String>) -> Error {
    let login = error.is_refused_login();
    match &error {
        Error::Database(e) if login => match (file, e.as_db_error()) {
            (Some(file), Some(db)) => Error::login(db, file),
            _ => error,
        },
        Error::Database(e) if e.code().is_none() => {
            let cause = std::error::Error::source(e).map(ToString::to_string).unwrap_or_default();
            if cause == "password missing" {
                let why = unused.unwrap_or_else(|| "give one in the connection string, PGPASSWORD or passfile".into());
                Error::Config(format!("password: the server asks for one, and there is none: {why}"))
            } else if e.to_string() == "authentication error" {
                Error::Config(format!("authentication: {cause}"))
            } else if matches!(server.place, Place::Socket(_) | Place::AnySocket) {
                Error::Pool(format!("{}: {cause}", named(server)))
            } else {
                error
            }
        }
        _ => error,
    }
}
