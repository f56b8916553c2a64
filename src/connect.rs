//! From a connection URL to a pool: libpq's `sslmode` and `sslrootcert`, keepalives, TLS by rustls.

use std::{str::FromStr, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Error;

/// Where the database is and how to speak to it, parsed once.
#[derive(Clone)]
pub struct Target {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

/// How much of the server's certificate is checked: libpq's four grades of TLS.
#[derive(Clone, Copy, PartialEq)]
enum Check {
    /// disable, allow, prefer, require: encryption at most.
    Nothing,
    /// verify-ca: signed by a root we trust.
    Chain,
    /// verify-full: and it is this host's.
    ChainAndName,
}

impl Target {
    /// Reads a `postgres://` URL or a `key=value` string. `sslmode` may be any of libpq's up to
    /// `verify-full`; `sslrootcert` is a PEM file, or `system` (the default when verifying).
    ///
    /// # Errors
    /// [`Error::Config`], which says what is wrong but never repeats the URL: it holds a password.
    ///
    /// ```
    /// let target = rowlock::Target::parse("postgres://app@localhost/app?sslmode=prefer").unwrap();
    /// assert!(rowlock::Target::parse("postgres://localhost/app?sslmode=perhaps").is_err());
    /// ```
    pub fn parse(url: &str) -> Result<Target, Error> {
        let (rest, mode, root) = take_ssl_options(url);
        let (ssl_mode, check) = match mode.as_deref() {
            None | Some("prefer" | "allow") => (SslMode::Prefer, Check::Nothing),
            Some("disable") => (SslMode::Disable, Check::Nothing),
            Some("require") if root.is_some() => (SslMode::Require, Check::Chain), // as libpq does
            Some("require") => (SslMode::Require, Check::Nothing),
            Some("verify-ca") => (SslMode::Require, Check::Chain),
            Some("verify-full") => (SslMode::Require, Check::ChainAndName),
            Some(other) => {
                return Err(Error::Config(format!(
                    "sslmode: expected disable, allow, prefer, require, verify-ca or verify-full, got {other}"
                )));
            }
        };
        let mut config = tokio_postgres::Config::from_str(&rest)
            .map_err(|e| Error::Config(format!("the database URL cannot be read: {}", source_text(&e))))?;
        config.ssl_mode(ssl_mode);
        // The library's default is two hours: a cut connection would go unnoticed for as long.
        config
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            // Keepalives do not watch a connection on which something is under way.
            .tcp_user_timeout(Duration::from_secs(20));
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        if config.get_application_name().is_none() {
            config.application_name("rowlock");
        }
        Ok(Target { config, tls: MakeRustlsConnect::new(client_config(check, root.as_deref())?) })
    }

    pub(crate) fn pool(&self, size: usize) -> Result<Pool, Error> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let wait = Some(Duration::from_secs(15));
        Pool::builder(manager)
            .max_size(size)
            .wait_timeout(wait)
            .create_timeout(wait)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| Error::Pool(e.to_string()))
    }

    /// One connection of its own, for LISTEN: a pooled one belongs to nobody.
    #[cfg(feature = "cli")]
    pub(crate) async fn listen_connection(
        &self,
    ) -> Result<
        (
            tokio_postgres::Client,
            tokio_postgres::Connection<
                tokio_postgres::Socket,
                <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
            >,
        ),
        Error,
    > {
        Ok(self.config.connect(self.tls.clone()).await?)
    }
}

/// The URL without `sslmode` and `sslrootcert`, and what they were.
fn take_ssl_options(url: &str) -> (String, Option<String>, Option<String>) {
    let (mut mode, mut root) = (None, None);
    let mut keep = |pair: &str| match pair.split_once('=') {
        Some(("sslmode", v)) => {
            mode = Some(v.trim_matches('\'').to_owned());
            false
        }
        Some(("sslrootcert", v)) => {
            root = Some(v.trim_matches('\'').replace("%2F", "/").replace("%2f", "/"));
            false
        }
        _ => true,
    };
    let rest = if url.contains("://") {
        match url.split_once('?') {
            Some((base, query)) => {
                let kept: Vec<&str> = query.split('&').filter(|p| keep(p)).collect();
                if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) }
            }
            None => url.to_owned(),
        }
    } else {
        url.split_whitespace().filter(|p| keep(p)).collect::<Vec<_>>().join(" ")
    };
    (rest, mode, root)
}

fn client_config(check: Check, root: Option<&str>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(format!("TLS: {e}")))?;
    if check == Check::Nothing {
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lax { inner: None, provider }))
            .with_no_client_auth());
    }
    let roots = Arc::new(root_store(root)?);
    if check == Check::ChainAndName {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|e| Error::Config(format!("sslrootcert: {e}")))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Lax { inner: Some(inner), provider }))
        .with_no_client_auth())
}

fn root_store(root: Option<&str>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let certs: Vec<CertificateDer<'static>> = match root {
        None | Some("system") => rustls_native_certs::load_native_certs().certs,
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|e| Error::Config(format!("sslrootcert: {file}: {e}")))?,
    };
    let (added, _) = store.add_parsable_certificates(certs);
    if added == 0 {
        return Err(Error::Config(format!(
            "sslrootcert: no certificate found in {}; name a PEM file",
            root.unwrap_or("the system's store")
        )));
    }
    Ok(store)
}

/// libpq's weaker grades: no check at all (`inner` is none), or the chain without the name.
#[derive(Debug)]
struct Lax {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError as C, Error::InvalidCertificate};
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. })) => {
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

fn source_text(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}
