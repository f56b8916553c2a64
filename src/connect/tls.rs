//! libpq's grades of TLS with rustls: how much of the server's certificate is checked.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use crate::Error;

/// How much of the server's certificate is checked: libpq's four grades of TLS.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Check {
    /// disable, allow, prefer, require: encryption at most.
    Nothing,
    /// verify-ca: signed by a root we trust.
    Chain,
    /// verify-full: and it is this host's.
    ChainAndName,
}

pub(super) fn client_config(check: Check, root: Option<&str>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(format!("TLS: {e}")))?;
    let (roots, chain) = if check == Check::Nothing {
        (Vec::new(), None)
    } else {
        let (roots, store) = root_store(root)?;
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(|e| Error::Config(format!("sslrootcert: {e}")))?;
        (roots, Some(chain))
    };
    let verifier = Arc::new(Verifier { check, roots, chain, provider });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn root_store(root: Option<&str>) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), Error> {
    let mut store = RootCertStore::empty();
    let certs: Vec<CertificateDer<'static>> = match root {
        None | Some("system") => rustls_native_certs::load_native_certs().certs,
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|e| Error::Config(format!("sslrootcert: {file}: {e}")))?,
    };
    let (added, _) = store.add_parsable_certificates(certs.iter().cloned());
    if added == 0 {
        return Err(Error::Config(format!(
            "sslrootcert: no certificate found in {}; name a PEM file",
            root.unwrap_or("the system's store")
        )));
    }
    Ok((certs, store))
}

/// rustls's own check of the chain, and what libpq does otherwise.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: Vec<CertificateDer<'static>>,
    /// None: no check at all.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError as C, Error::InvalidCertificate};
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }))
                if self.check == Check::Chain =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // A certificate signed by itself, as Postgres's manual has it made: `openssl req -x509` marks it as
            // a CA's, which rustls takes for no server's. Its dates have been looked at by then.
            Err(InvalidCertificate(C::Other(why))) if why.to_string() == "CaUsedAsEndEntity" => {
                if !self.roots.contains(end_entity) {
                    return Err(InvalidCertificate(C::UnknownIssuer));
                }
                if self.check == Check::ChainAndName {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
