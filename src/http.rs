//! `/livez`, `/readyz` and `/metrics` on one port. Its rooms: `cache`, the readings of the database and their rarity;
//! `ready`, the checklist.
//!
//! A worker, a controller and `dev` all call [`serve`] with a [`State`] of their own, and leave facts there:
//! [`Facts::tick`] after each round, a controller also [`Facts::set_leader`] and
//! [`Facts::set_replicas`]. Nothing here may hang or cost more when it is asked more: connections are few and
//! short, and a storm of scrapes is answered from one read of the database.

mod cache;
mod ready;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State as Of,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::cache::ReadingCache;
use crate::{
    JobQueue,
    metrics::{self, Facts},
};

/// The default address. The same port of `::1` is served with it, where there is one.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// So many connections may be open at once; more are closed unread.
const MAX_CONNECTIONS: usize = 64;
/// The head of a request may take this time, and a connection may be idle for as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is used for this time. Then it ends after the request under way, within [`LAST_REQUEST_TIMEOUT`].
const CONNECTION_AGE: Duration = Duration::from_secs(60);
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The database and the process that a server tells of.
#[derive(Clone)]
pub struct State {
    facts: Facts,
    cache: Arc<ReadingCache>,
}

impl State {
    /// The state of a process that leaves its `facts` here and works on the database of `queue`.
    ///
    /// ```no_run
    /// # fn f(queue: rowlock::JobQueue) {
    /// let state = rowlock::http::State::new(queue, rowlock::metrics::Facts::new("worker"));
    /// # }
    /// ```
    pub fn new(queue: JobQueue, facts: Facts) -> State {
        State { facts, cache: Arc::new(ReadingCache::new(queue)) }
    }
}

/// A server that ends when this is dropped.
pub struct Served {
    /// The address it listens on, with the port that was asked for, or found if that was 0.
    pub address: SocketAddr,
    _end: DropGuard,
}

/// Serves until the returned value is dropped. `[::]` serves IPv6 and IPv4, whatever the system's default is, and IPv4
/// alone on a system without IPv6.
///
/// # Errors
/// The error of the listener, such as that the address is in use.
///
/// ```no_run
/// # async fn f(queue: rowlock::JobQueue) -> std::io::Result<()> {
/// use rowlock::{http, metrics::Facts};
/// let facts = Facts::new("controller");
/// let served = http::serve("127.0.0.1:0".parse().unwrap(), http::State::new(queue, facts)).await?;
/// println!("http://{}/metrics", served.address);
/// # Ok(()) }
/// ```
pub async fn serve(address: SocketAddr, state: State) -> io::Result<Served> {
    let (listener, other) = listen(address).await?;
    let address = listener.local_addr()?;
    let (router, room) = (router(state), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let end = CancellationToken::new();
    for listener in [Some(listener), other].into_iter().flatten() {
        let (end, router, room) = (end.clone(), router.clone(), room.clone());
        tokio::spawn(async move { end.run_until_cancelled(accept(listener, router, room)).await });
    }
    Ok(Served { address, _end: end.drop_guard() })
}

/// Opens an address, and the same port of the other family where the address stands for both.
async fn listen(address: SocketAddr) -> io::Result<(TcpListener, Option<TcpListener>)> {
    let both = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let listener = match TcpListener::bind(address).await {
        Err(error) if both && is_without_ipv6(&error) => {
            return Ok((TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?, None));
        }
        bound => bound?,
    };
    let port = listener.local_addr()?.port();
    let other: Option<IpAddr> = match address {
        // It is refused as in use where the first listener takes IPv4 connections as well: then all is served.
        _ if both => Some(Ipv4Addr::UNSPECIFIED.into()),
        DEFAULT_ADDRESS => Some(Ipv6Addr::LOCALHOST.into()),
        _ => None,
    };
    Ok(match other {
        Some(ip) => (listener, TcpListener::bind((ip, port)).await.ok()),
        None => (listener, None),
    })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

async fn accept(listener: TcpListener, router: Router, room: Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The process may be out of file descriptors: a try at once would fail, too.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Ok(place) = room.clone().try_acquire_owned() {
            let router = router.clone();
            tokio::spawn(async move {
                converse(stream, router).await;
                drop(place);
            });
        }
    }
}

/// Serves one connection to its end. A peer that goes away is no error.
async fn converse(stream: TcpStream, router: Router) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    if tokio::time::timeout(CONNECTION_AGE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_REQUEST_TIMEOUT, connection).await;
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(state)
}

async fn readyz(Of(state): Of<State>) -> Response {
    let last = state.cache.reading().await;
    let checks = ready::checks(&last, &state.facts.known(), std::time::Instant::now());
    let code = if checks.iter().all(|c| c.good) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, ready::text(&checks)).into_response()
}

/// It answers 200 without a database, too: otherwise nobody would learn that the database is down.
async fn scrape(Of(state): Of<State>) -> Response {
    let last = state.cache.reading().await;
    let text = metrics::exposition(last.reading.as_ref().ok(), last.last_read, &state.facts.known());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
