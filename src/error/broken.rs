//! Errors of a connection that broke.

/// Whether an error without a SQLSTATE is the connection's. Every other is of a value or of this program; the library
/// tells them apart by their texts alone.
pub(super) fn is_broken_connection(e: &tokio_postgres::Error) -> bool {
    let text = e.to_string();
    let broken = [
        "error communicating",
        "error connecting",
        "error parsing",
        "unexpected message",
        "timeout",
        "error performing TLS",
    ];
    e.is_closed() || broken.iter().any(|start| text.starts_with(start))
}
