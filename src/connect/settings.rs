//! libpq's options, and where each may come from: the connection string, then a service, then the environment.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use super::{
    dialect, files,
    text::{self, Pairs},
};
use crate::Error;

/// How an option of libpq is taken.
enum Use {
    /// It is obeyed.
    Obeyed,
    /// It changes nothing here: it is about the client's own bytes, or about a mechanism that is not spoken.
    Idle,
    /// Only these values can be obeyed; the text says what to do instead.
    Only(&'static [&'static str], &'static str),
}

use Use::{Idle, Obeyed, Only};

/// Every option of libpq 18 with its variable, which is empty where there is none.
const OPTIONS: &[(&str, &str, Use)] = &[
    ("service", "PGSERVICE", Obeyed),
    ("servicefile", "PGSERVICEFILE", Obeyed),
    ("host", "PGHOST", Obeyed),
    ("hostaddr", "PGHOSTADDR", Obeyed),
    ("port", "PGPORT", Obeyed),
    ("dbname", "PGDATABASE", Obeyed),
    ("user", "PGUSER", Obeyed),
    ("password", "PGPASSWORD", Obeyed),
    ("passfile", "PGPASSFILE", Obeyed),
    ("options", "PGOPTIONS", Obeyed),
    ("application_name", "PGAPPNAME", Obeyed),
    ("fallback_application_name", "", Obeyed),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Obeyed),
    ("keepalives", "", Obeyed),
    ("keepalives_idle", "", Obeyed),
    ("keepalives_interval", "", Obeyed),
    ("keepalives_count", "", Obeyed),
    ("tcp_user_timeout", "", Obeyed),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Obeyed),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Obeyed),
    ("channel_binding", "PGCHANNELBINDING", Obeyed),
    ("sslmode", "PGSSLMODE", Obeyed),
    ("sslnegotiation", "PGSSLNEGOTIATION", Obeyed),
    ("sslrootcert", "PGSSLROOTCERT", Obeyed),
    ("sslcert", "PGSSLCERT", Obeyed),
    ("sslkey", "PGSSLKEY", Obeyed),
    ("sslcertmode", "PGSSLCERTMODE", Obeyed),
    ("sslsni", "PGSSLSNI", Obeyed),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Obeyed),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Obeyed),
    ("requiressl", "PGREQUIRESSL", Obeyed),
    ("sslcompression", "PGSSLCOMPRESSION", Idle),
    ("client_encoding", "PGCLIENTENCODING", Idle),
    ("krbsrvname", "PGKRBSRVNAME", Idle),
    ("gsslib", "PGGSSLIB", Idle),
    ("gssdelegation", "PGGSSDELEGATION", Idle),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"], "Rowlock speaks version 3.0")),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Idle),
    ("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], "encrypt by sslmode=require, Kerberos is not spoken")),
    ("sslpassword", "", Only(&[], "give the key without a password: openssl pkey -in KEY -out FILE")),
    ("sslcrl", "PGSSLCRL", Only(&[], "lists of revoked certificates are not read; leave it out if that is acceptable")),
    (
        "sslcrldir",
        "PGSSLCRLDIR",
        Only(&[], "lists of revoked certificates are not read; leave it out if that is acceptable"),
    ),
    ("sslkeylogfile", "", Only(&[], "TLS keys are not logged; leave it out")),
    (
        "requirepeer",
        "PGREQUIREPEER",
        Only(&[], "the owner of a socket is not checked; let the directory's rights do it"),
    ),
    (
        "require_auth",
        "PGREQUIREAUTH",
        Only(&[], "the method cannot be chosen; write channel_binding=require or sslmode=verify-full"),
    ),
    ("replication", "", Only(&["false", "off", "no", "0"], "Rowlock needs an ordinary connection; leave it out")),
    ("scram_client_key", "", Only(&[], "give a password instead")),
    ("scram_server_key", "", Only(&[], "give a password instead")),
    ("oauth_issuer", "", Only(&[], "OAuth is not spoken; give a password or a client certificate")),
    ("oauth_client_id", "", Only(&[], "OAuth is not spoken; give a password or a client certificate")),
    ("oauth_client_secret", "", Only(&[], "OAuth is not spoken; give a password or a client certificate")),
    ("oauth_scope", "", Only(&[], "OAuth is not spoken; give a password or a client certificate")),
];

/// The surroundings of a process: its variables, its home and its user.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    pub variables: HashMap<String, String>,
    pub home: Option<PathBuf>,
    pub user: Option<String>,
}

impl Surroundings {
    pub(super) fn of_this_process() -> Surroundings {
        Surroundings {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, _)| name.starts_with("PG"))
                .collect(),
            home: std::env::home_dir(),
            user: whoami::username().ok(),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// libpq's options with the values that hold. An empty value is none.
#[derive(Default)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, String>,
    /// The service file, if the password is out of it.
    pub password_file: Option<PathBuf>,
}

impl Settings {
    pub(super) fn gather(text: &str, around: &Surroundings) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        let mut given = Settings::default();
        given.put_all(dialect::translate(text::split(text)?)?)?;
        let service = given.get("service").or_else(|| around.variable("PGSERVICE"));
        if let Some(service) = service {
            let named = given.get("servicefile").or_else(|| around.variable("PGSERVICEFILE"));
            let system = around.variable("PGSYSCONFDIR");
            let (file, pairs) = files::find_service(service, named, around.home.as_deref(), system)?;
            settings.put_all(pairs)?;
            let is_of_service = settings.get("password").is_some() && given.get("password").is_none();
            settings.password_file = is_of_service.then_some(file);
        }
        settings.values.extend(given.values);
        for (name, variable, _) in OPTIONS {
            if let Some(value) = around.variable(variable)
                && !settings.values.contains_key(name)
            {
                settings.put(name, value.to_owned())?;
            }
        }
        Ok(settings)
    }

    fn put_all(&mut self, pairs: Pairs) -> Result<(), Error> {
        pairs.into_iter().try_for_each(|(name, value)| self.put(&name, value))
    }

    fn put(&mut self, name: &str, value: String) -> Result<(), Error> {
        let Some((name, _, taken)) = OPTIONS.iter().find(|(known, _, _)| *known == name) else {
            let name = text::name_of(name);
            return Err(Error::Config(if value.contains(';') {
                format!("{name}: expected libpq's words with spaces between them: host=… port=… dbname=… user=…")
            } else {
                format!("{name}: libpq knows no such option; a setting of the server is options='-c {name}=VALUE'")
            }));
        };
        match taken {
            Idle => {}
            // A later value replaces an earlier one, also by nothing.
            _ if value.is_empty() => drop(self.values.remove(name)),
            Only(values, instead) => {
                if !values.contains(&&*value) {
                    return Err(Error::Config(format!("{name}: {instead}")));
                }
            }
            Obeyed => drop(self.values.insert(name, value)),
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// One of these values, by its position.
    pub(super) fn choice(&self, name: &str, values: &[&str]) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match values.iter().position(|v| *v == value) {
            Some(at) => Ok(Some(at)),
            None => {
                let (last, others) = values.split_last().expect("there are values");
                let (others, value) = (others.join(", "), text::name_of(value));
                Err(Error::Config(format!("{name}: expected {others} or {last}, got {value}")))
            }
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let number =
            |text: &str| text.trim().parse().map_err(|_| Error::Config(format!("{name}: expected a whole number")));
        self.get(name).map(number).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_and_no_variable_is_listed_twice() {
        for list in [OPTIONS.iter().map(|o| o.0).collect::<Vec<_>>(), OPTIONS.iter().map(|o| o.1).collect()] {
            let mut seen = std::collections::BTreeSet::new();
            assert!(list.iter().filter(|n| !n.is_empty()).all(|n| seen.insert(*n)));
        }
    }
}
