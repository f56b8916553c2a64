//! libpq's grades of TLS with rustls: how much of the server's certificate is checked.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::protection::{Check, Root, TlsPlan};
use crate::Error;

/// TLS as a plan wants it; this reads its files. `direct` speaks it without asking first.
pub(super) fn client_config(plan: &TlsPlan, direct: bool) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match (plan.only_1_2, plan.only_1_3) {
        (true, _) => &[&rustls::version::TLS12],
        (_, true) => &[&rustls::version::TLS13],
        _ => rustls::DEFAULT_VERSIONS,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| Error::Config(format!("TLS: {e}")))?;
    let (roots, chain) = if plan.check == Check::Nothing {
        (Vec::new(), None)
    } else {
        let (roots, store) = root_store(&plan.root)?;
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(|e| Error::Config(format!("sslrootcert: {e}")))?;
        (roots, Some(chain))
    };
    let verifier = Arc::new(Verifier { check: plan.check, roots, chain, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &plan.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates("sslcert", certificate)?, private_key(key)?)
            .map_err(|e| Error::Config(format!("sslkey: it does not fit the certificate of sslcert: {e}")))?,
    };
    config.enable_sni = plan.sni;
    if direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn certificates(part: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| Error::Config(format!("{part}: {}: {e}", file.display())))
}

/// The key, if nobody but its owner can read it: root's may be readable by a group, as libpq has it.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("sslkey: {}: {e}", file.display()));
    let meta = fs::metadata(file).map_err(|e| wrong(&e))?;
    if meta.mode() & if meta.uid() == 0 { 0o037 } else { 0o077 } != 0 {
        return Err(wrong(&"others have rights to it: chmod 600"));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|e| wrong(&e))
}

fn root_store(root: &Root) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), Error> {
    let mut store = RootCertStore::empty();
    let (certs, place) = match root {
        Root::System => (rustls_native_certs::load_native_certs().certs, "the system's store".to_owned()),
        Root::File(file) => (certificates("sslrootcert", file)?, file.display().to_string()),
    };
    let (added, _) = store.add_parsable_certificates(certs.iter().cloned());
    if added == 0 {
        return Err(Error::Config(format!("sslrootcert: no certificate found in {place}; name a PEM file")));
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
