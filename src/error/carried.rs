//! How an error passes through the pool, which carries the library's errors alone.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{Config, NoTls};

use super::Error;

impl Error {
    /// The same as the library's error; `Error::from` finds it again.
    pub(crate) async fn carried(self) -> tokio_postgres::Error {
        let inner = match self {
            Error::Database(e) => return e,
            other => io::Error::other(other),
        };
        // The library makes its errors itself. A connection that fails at once is a way to have it make this one.
        let mut config = Config::new();
        config.user("nobody").ssl_mode(tokio_postgres::config::SslMode::Disable);
        match config.connect_raw(Broken(Some(inner)), NoTls).await {
            Err(e) => e,
            Ok(_) => unreachable!("nothing can be written to it"),
        }
    }
}

/// The error that was carried, or the library's own.
pub(super) fn take(e: tokio_postgres::Error) -> Result<Error, tokio_postgres::Error> {
    let io = e.source().and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::get_ref);
    if !io.is_some_and(|inner| inner.is::<Error>()) {
        return Err(e);
    }
    let inner = e.into_source().and_then(|cause| cause.downcast::<io::Error>().ok()).and_then(|io| io.into_inner());
    match inner.and_then(|inner| inner.downcast::<Error>().ok()) {
        Some(error) => Ok(*error),
        None => unreachable!("its type was looked at"),
    }
}

/// A connection that fails with this error.
struct Broken(Option<io::Error>);

impl Broken {
    fn fail<T>(&mut self) -> Poll<io::Result<T>> {
        Poll::Ready(Err(self.0.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }
}

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }
}

impl AsyncWrite for Broken {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.fail()
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_comes_out_of_the_pool_as_it_went_in() {
        let e = Error::Config("port: expected a number".into()).carried().await;
        assert!(matches!(Error::from(e), Error::Config(text) if text == "port: expected a number"));
        let refused = tokio_postgres::connect("host=127.0.0.1 port=1 user=x", NoTls).await.err().unwrap();
        assert!(matches!(Error::from(refused), Error::Database(_)));
    }
}
