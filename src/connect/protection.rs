//! When TLS is used and what it has to prove: libpq's `sslmode` and its sisters. It reads no certificate.

use std::path::PathBuf;

use super::{
    dialect::NO_VERIFY,
    refusal::wrong,
    settings::{Settings, Surroundings},
};
use crate::Error;

/// When TLS is used; [`Check`] says what it has to prove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server offers it.
    Prefer,
    Require,
}

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Check {
    Nothing,
    /// A root that we trust signed it.
    Chain,
    /// And it is this host's.
    ChainAndName,
}

/// Where the roots are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Root {
    System,
    File(PathBuf),
}

/// How TLS is spoken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TlsPlan {
    pub check: Check,
    pub root: Root,
    /// This client's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server is told the name by which it was called.
    pub sni: bool,
    pub only_1_2: bool,
    pub only_1_3: bool,
}

/// The proof that TLS has to bring. A root that is known is used in every mode, as libpq does; without one only the
/// verifying
/// modes ask for one.
pub(super) fn read(s: &Settings, around: &Surroundings) -> Result<(Mode, TlsPlan), Error> {
    let personal = |name: &str| around.home.as_ref().map(|h| h.join(".postgresql").join(name)).filter(|f| f.exists());
    let root = match s.get("sslrootcert") {
        Some("system") => Some(Root::System),
        Some(file) => Some(Root::File(file.into())),
        None => personal("root.crt").map(Root::File),
    };
    let words = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full", NO_VERIFY];
    let known = &words[..6];
    let word = match s.get("sslmode") {
        Some(NO_VERIFY) => NO_VERIFY,
        Some(_) => known[s.choice("sslmode", known)?.expect("it is there")],
        None if root == Some(Root::System) => "verify-full",
        None if s.get("requiressl") == Some("1") => "require",
        None => "prefer",
    };
    if root == Some(Root::System) && word != "verify-full" {
        return Err(wrong(
            "sslmode",
            "with sslrootcert=system expected verify-full: anybody can have such a certificate",
        ));
    }
    let chain = if root.is_some() { Check::Chain } else { Check::Nothing };
    let (mode, check) = match word {
        "disable" => (Mode::Disable, Check::Nothing),
        "allow" => (Mode::Allow, chain),
        "prefer" => (Mode::Prefer, chain),
        "require" => (Mode::Require, chain),
        "verify-ca" if root.is_none() => {
            return Err(wrong("sslrootcert", "sslmode=verify-ca needs the PEM file of the CA: sslrootcert=FILE"));
        }
        "verify-ca" => (Mode::Require, Check::Chain),
        NO_VERIFY => (Mode::Require, Check::Nothing),
        _ => (Mode::Require, Check::ChainAndName),
    };
    let client = client(s, personal("postgresql.crt"), around)?;
    let versions = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
    let lowest = s.choice("ssl_min_protocol_version", &versions)?.unwrap_or(0);
    let highest = s.choice("ssl_max_protocol_version", &versions)?.unwrap_or(3);
    if highest < 2 || lowest > highest {
        return Err(wrong("ssl_max_protocol_version", "expected TLSv1.2 or TLSv1.3, and not below the minimum"));
    }
    let sni = s.number("sslsni")?.is_none_or(|n| n != 0);
    // libpq takes the system's store only by name. A check that passes with it is worth as much.
    let root = root.unwrap_or(Root::System);
    Ok((mode, TlsPlan { check, root, client, sni, only_1_2: highest == 2, only_1_3: lowest == 3 }))
}

/// The certificate and the key by which this client proves who it is.
fn client(s: &Settings, personal: Option<PathBuf>, around: &Surroundings) -> Result<Option<(PathBuf, PathBuf)>, Error> {
    match s.choice("sslcertmode", &["disable", "allow", "require"])? {
        Some(0) => return Ok(None),
        Some(2) => return Err(wrong("sslcertmode", "require is not supported: expected disable or allow")),
        _ => {}
    }
    let Some(certificate) = s.get("sslcert").map(PathBuf::from).or(personal) else { return Ok(None) };
    let key = s.get("sslkey").map(PathBuf::from);
    let key = key.or_else(|| around.home.as_ref().map(|home| home.join(".postgresql/postgresql.key")));
    let key = key.ok_or_else(|| wrong("sslkey", "expected the PEM file of the key that belongs to sslcert"))?;
    Ok(Some((certificate, key)))
}
