//! `/livez`, `/readyz` and `/metrics` on one port. Its rooms: `look`, what is asked of the database and how
//! rarely; `ready`, the checklist.
//!
//! A worker, a controller and `dev` all call [`serve`] with a [`State`] of their own, and tell its facts what
//! they do: [`Facts::tick`] after each round, a controller also [`Facts::set_leader`] and
//! [`Facts::set_replicas`]. Nothing here may hang or cost more when it is asked more: connections are few and
//! short, and a storm of scrapes is answered from one read of the database.

mod look;
mod ready;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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

use self::look::Looks;
use crate::{
    JobQueue,
    metrics::{self, Facts},
};

/// Where it is served unless told otherwise.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Connections at once; more are closed unread.
const CONNECTIONS: usize = 64;
/// How long a request's head may take, and how long a connection may stay idle.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection is used; then it ends after the request under way, within [`LAST`].
const CONNECTION: Duration = Duration::from_secs(60);
const LAST: Duration = Duration::from_secs(10);

/// What is told of.
#[derive(Clone)]
pub struct State {
    facts: Facts,
    looks: Arc<Looks>,
}

impl State {
    /// Of a process that does what `facts` will be told of, on the database of `queue`.
    ///
    /// ```no_run
    /// # fn f(queue: rowlock::JobQueue) {
    /// let state = rowlock::http::State::new(queue, rowlock::metrics::Facts::new("worker"));
    /// # }
    /// ```
    pub fn new(queue: JobQueue, facts: Facts) -> State {
        State { facts, looks: Arc::new(Looks::new(queue)) }
    }
}

/// A server that ends when this is dropped.
pub struct Served {
    /// Where it listens: the port that was asked for, or found if that was 0.
    pub address: SocketAddr,
    _end: DropGuard,
}

/// Serves until the answer is dropped.
///
/// # Errors
/// The listener's, such as that the address is in use.
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
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move { end.run_until_cancelled(accept(listener, router(state))).await });
    Ok(Served { address, _end: ended.drop_guard() })
}

async fn accept(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: not to be tried again at once.
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

/// One connection, to its end. That a peer went away is no error of ours.
async fn converse(stream: TcpStream, router: Router) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    if tokio::time::timeout(CONNECTION, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST, connection).await;
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
    let look = state.looks.look().await;
    let checks = ready::checks(&look, &state.facts.known(), std::time::Instant::now());
    let code = if checks.iter().all(|c| c.good) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, ready::text(&checks)).into_response()
}

/// Also without a database it answers 200: otherwise nobody would learn that the database is down.
async fn scrape(Of(state): Of<State>) -> Response {
    let look = state.looks.look().await;
    let text = metrics::exposition(look.reading.as_ref().ok(), look.last_read, &state.facts.known());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
