//! TLS over a socket, as tokio-postgres asks for it, with channel binding (RFC 5929, tls-server-end-point): a password
//! is bound to the certificate that the server showed, so that nobody in between can pass it on.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, pki_types::ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect},
};
use tokio_rustls::{TlsConnector, client};

/// How TLS is begun with any host.
#[derive(Clone)]
pub(super) struct Tls(pub Arc<ClientConfig>);

/// How TLS is begun with one host.
pub struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection inside TLS.
#[derive(Debug)]
pub struct TlsStream(client::TlsStream<Socket>);

/// A connection that its owner polls.
pub type Connection = tokio_postgres::Connection<Socket, TlsStream>;

impl MakeTlsConnect<Socket> for Tls {
    type Stream = TlsStream;
    type TlsConnect = Handshake;
    type Error = io::Error;

    /// The library asks before it knows whether TLS will be spoken, with an empty name for a socket, and rustls knows
    /// no empty name. Nor does it know each name that a host may have.
    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        // No certificate is for the other name, so that a check of the name fails.
        let name = ServerName::try_from(host).or_else(|_| ServerName::try_from("name.invalid"));
        let name = name.map_err(io::Error::other)?.to_owned();
        Ok(Handshake { connector: self.0.clone().into(), name })
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = TlsStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { Ok(TlsStream(self.connector.connect(self.name, socket).await?)) })
    }
}

impl tokio_postgres::tls::TlsStream for TlsStream {
    fn channel_binding(&self) -> ChannelBinding {
        let shown = self.0.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        shown
            .and_then(|certificate| end_point(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The certificate's hash, by the hash of its signature; by SHA-256 where that is an older one. None for a signature
/// without a hash of its own, such as Ed25519.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate_fields, _) = element(certificate)?;
    let (_, _, after_body) = element(certificate_fields)?;
    let (_, algorithm, _) = element(after_body)?;
    let (tag, identifier, parameters) = element(algorithm)?;
    if tag != OBJECT_IDENTIFIER {
        return None;
    }
    Some(match identifier {
        MD5_RSA | SHA1_RSA | SHA1_ECDSA | SHA256_RSA | SHA256_ECDSA => Sha256::digest(certificate).to_vec(),
        SHA384_RSA | SHA384_ECDSA => Sha384::digest(certificate).to_vec(),
        SHA512_RSA | SHA512_ECDSA => Sha512::digest(certificate).to_vec(),
        RSA_PSS => match hash_of_pss(parameters) {
            Some(SHA384) => Sha384::digest(certificate).to_vec(),
            Some(SHA512) => Sha512::digest(certificate).to_vec(),
            Some(SHA256) | None => Sha256::digest(certificate).to_vec(),
            Some(_) => return None,
        },
        _ => return None,
    })
}

/// The first parameter of RSASSA-PSS names the hash; without it, SHA-1 is meant.
fn hash_of_pss(parameters: &[u8]) -> Option<&[u8]> {
    let (_, list, _) = element(parameters)?;
    let (tag, first, _) = element(list)?;
    let (_, algorithm, _) = element(first).filter(|_| tag == FIRST_PARAMETER)?;
    Some(element(algorithm)?.1)
}

/// One element of DER: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) =
                rest.split_at_checked(usize::from(long & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

const OBJECT_IDENTIFIER: u8 = 0x06;
const FIRST_PARAMETER: u8 = 0xa0;
// Object identifiers as DER writes them: 1.2.840.113549.1.1.n, 1.2.840.10045.4.n, 2.16.840.1.101.3.4.2.n.
const MD5_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const SHA1_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const SHA256_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const SHA384_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const SHA512_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const SHA1_ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const SHA256_ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const SHA384_ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const SHA512_ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A certificate with nothing but its signature's algorithm.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let sequence = |content: &[u8]| [&[0x30, content.len() as u8], content].concat();
        sequence(&[sequence(b"body"), sequence(algorithm), sequence(b"signature")].concat())
    }

    fn identifier(bytes: &[u8]) -> Vec<u8> {
        [&[OBJECT_IDENTIFIER, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn the_hash_is_that_of_the_signature_but_never_an_old_one() {
        for (bytes, length) in [(MD5_RSA, 32), (SHA1_ECDSA, 32), (SHA256_RSA, 32), (SHA384_ECDSA, 48), (SHA512_RSA, 64)]
        {
            assert_eq!(end_point(&certificate(&identifier(bytes))).unwrap().len(), length);
        }
        assert_eq!(end_point(&certificate(&identifier(&[0x2b, 0x65, 0x70]))), None, "Ed25519");
    }

    #[test]
    fn rsa_pss_names_its_hash_in_its_parameters() {
        let sequence = |content: &[u8]| [&[0x30, content.len() as u8], content].concat();
        let hash = sequence(&identifier(SHA384));
        let parameters = sequence(&[&[FIRST_PARAMETER, hash.len() as u8], &hash[..]].concat());
        let with = certificate(&[identifier(RSA_PSS), parameters].concat());
        assert_eq!(end_point(&with).unwrap().len(), 48);
        assert_eq!(end_point(&certificate(&[identifier(RSA_PSS), sequence(&[])].concat())).unwrap().len(), 32);
    }

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x82, 0xff, 0xff, 0], &[0x30, 2, 0x30, 0]]
        {
            assert_eq!(end_point(bytes), None);
        }
    }
}
