//! Whether the server is away for everybody, or only out of this program's reach.
//!
//! A worker that alone is cut off must end its jobs before another begins them. While the server is away nobody begins
//! anything, and after its return every lease begins anew (`rowlock.renew_leases`). Seen from a worker, both begin with
//! a connection that fails. Two things tell them apart: the last word of a server that stops, which no broken wire can
//! say, and the refusals of its system after that. A silence tells nothing, and neither does a refusal alone: it may be
//! a proxy's.

use std::{
    future::poll_fn,
    io,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use tokio_postgres::{AsyncMessage, Error, error::SqlState};

use super::stream::Connection;

/// The signs of one server, shared by all who connect to it.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The server has said that it stops, or that it has not yet started, and nobody has met it since.
    has_said_goodbye: bool,
    away_at: Option<Instant>,
}

/// A failed try to connect, as far as it tells something about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The server itself: it stops, or it has not yet started.
    Said,
    /// A server's system: nobody listens there.
    Refused,
    /// A standby answered: its primary is somewhere else, or nowhere.
    Standby,
    /// Nothing is known.
    Unknown,
}

impl Absence {
    pub(super) fn of(error: &Error) -> Absence {
        if error.code().is_some_and(is_goodbye) {
            return Absence::Said;
        }
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
        // A socket of Unix is gone with its server.
        match source.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Absence::Refused,
            _ => Absence::Unknown,
        }
    }
}

/// Whether the server says that it stops (57P01, 57P02) or does not serve yet (57P03). An administrator who ends one
/// connection says the same: then the next try to connect succeeds.
fn is_goodbye(code: &SqlState) -> bool {
    matches!(code.code(), "57P01" | "57P02" | "57P03")
}

impl Presence {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// The server has answered.
    pub(crate) fn met(&self) {
        *self.seen() = Seen::default();
    }

    /// The next message that nobody asked for; none when the connection has ended. A server that stops at once says so
    /// by a warning, one that has the time by an error.
    pub(crate) async fn message(&self, connection: &mut Connection) -> Option<Result<AsyncMessage, Error>> {
        let message = poll_fn(|context| connection.poll_message(context)).await;
        let code = match &message {
            Some(Ok(AsyncMessage::Notice(notice))) => Some(notice.code()),
            Some(Err(error)) => error.code(),
            _ => None,
        };
        self.seen().has_said_goodbye |= code.is_some_and(is_goodbye);
        message
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve(&self, mut connection: Connection) {
        loop {
            match self.message(&mut connection).await {
                Some(Ok(AsyncMessage::Notice(notice))) => {
                    tracing::info!(target: "rowlock::notice", "{}: {}", notice.severity(), notice.message());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return tracing::debug!(%error, "a connection ended"),
                None => return,
            }
        }
    }

    /// A try that began then has reached no server: one sign from each.
    pub(super) fn missed(&self, began: Instant, signs: &[Absence]) {
        let mut seen = self.seen();
        seen.has_said_goodbye |= signs.contains(&Absence::Said);
        if seen.has_said_goodbye && !signs.contains(&Absence::Unknown) {
            seen.away_at = Some(began);
        }
    }

    /// The last time at which the server was away for everybody, if nobody has met it since.
    pub(crate) fn away_at(&self) -> Option<Instant> {
        self.seen().away_at
    }
}

#[cfg(test)]
mod tests {
    use super::{Absence::*, *};

    #[test]
    fn a_refusal_tells_something_only_after_a_goodbye() {
        let (presence, now) = (Presence::default(), Instant::now());
        presence.missed(now, &[Refused]);
        assert_eq!(presence.away_at(), None, "a proxy that is down refuses, too");
        presence.missed(now, &[Said]);
        assert_eq!(presence.away_at(), Some(now));
        let later = now + std::time::Duration::from_secs(1);
        presence.missed(later, &[Refused, Standby]);
        assert_eq!(presence.away_at(), Some(later));
        presence.missed(later + std::time::Duration::from_secs(1), &[Refused, Unknown]);
        assert_eq!(presence.away_at(), Some(later), "one of the servers may live");
        presence.met();
        assert_eq!(presence.away_at(), None);
        presence.missed(later, &[Refused]);
        assert_eq!(presence.away_at(), None, "the goodbye is of before");
    }
}
