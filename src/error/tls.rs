//! Why TLS failed, in a sentence that says what to do.

use rustls::{CertificateError as C, Error::InvalidCertificate};
use std::{error::Error, io};

/// None if it is not TLS that failed, or if the connection only broke: that may pass.
pub(super) fn fault(e: &tokio_postgres::Error) -> Option<String> {
    let cause = e.source()?;
    // The library tells its errors apart by their texts alone.
    if cause.to_string() == "server does not support TLS" {
        return Some(
            "sslmode: the server does not offer TLS. Turn it on there (ssl = on), or use sslmode=prefer where nobody \
             can listen on the way"
                .to_owned(),
        );
    }
    if cause.to_string() == "server did not use channel binding" {
        return Some(
            "channel_binding: the server did not bind the password to TLS. Use TLS and a SCRAM password, or \
             channel_binding=prefer"
                .to_owned(),
        );
    }
    let rustls: &rustls::Error = cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()?;
    Some(match rustls {
        InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "sslmode: the server's certificate is not signed by a CA in sslrootcert. Name the PEM file of the CA that \
             signed it: sslrootcert=FILE"
                .to_owned()
        }
        InvalidCertificate(C::NotValidForNameContext { presented, .. }) if !presented.is_empty() => format!(
            "sslmode: the server's certificate is for {}, not for the host in the database URL. Connect by such a \
             name, or use sslmode=verify-ca",
            presented.join(", ")
        ),
        InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "sslmode: the server's certificate names no host (subjectAltName). Give it one with the host's name, or \
             use sslmode=verify-ca"
                .to_owned()
        }
        InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "sslmode: the server's certificate has expired. Renew it, and check this machine's clock".to_owned()
        }
        other => format!("sslmode: TLS with the server failed: {other}"),
    })
}
