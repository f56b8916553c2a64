//! Who can mend an error, by its SQLSTATE. Pure, and the one place that knows: `tests/cases/sqlstates.json` holds the
//! table against every code that PostgreSQL defines.

/// Who can mend an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MendedBy {
    /// Nobody has to: the same call may succeed later, for the database was away or busy.
    Time,
    /// Whoever runs the database or wrote the connection string: a password, a right, a schema.
    Operator,
    /// The caller, by another value.
    Caller,
    /// Rowlock's authors: it is a bug.
    Rowlock,
}

use MendedBy::{Caller, Operator, Rowlock, Time};

/// Codes that their class does not speak for.
const CODES: &[(&str, MendedBy)] = &[
    // The server or the database has become read-only: a failover, a full disk of a managed server.
    ("25006", Time),
    // A timeout of the role or the database ended the session.
    ("25P03", Time),
    ("25P04", Time),
    // Rights, and what is not there: the database, the schema, or a function of another version of it.
    ("42501", Operator),
    ("42703", Operator),
    ("42704", Operator),
    ("42883", Operator),
    ("42P01", Operator),
    // A migration meets objects that it did not make.
    ("42701", Operator),
    ("42710", Operator),
    ("42723", Operator),
    ("42P04", Operator),
    ("42P06", Operator),
    ("42P07", Operator),
    ("55006", Time),
    ("55P03", Time),
    ("57P04", Operator),
    // A trigger of the database's own.
    ("P0001", Operator),
    // "tuple concurrently updated", "could not open relation": somebody changes the catalogue at this moment.
    ("XX000", Time),
    ("XX001", Operator),
    ("XX002", Operator),
];

const CLASSES: &[(&str, MendedBy)] = &[
    ("00", Rowlock),
    ("01", Rowlock),
    ("02", Rowlock),
    ("03", Rowlock),
    ("08", Time),
    ("09", Rowlock),
    ("0A", Rowlock),
    ("0B", Rowlock),
    ("0F", Rowlock),
    ("0L", Operator),
    ("0P", Operator),
    ("0Z", Rowlock),
    ("10", Rowlock),
    ("20", Rowlock),
    ("21", Rowlock),
    ("22", Caller),
    ("23", Caller),
    ("24", Rowlock),
    ("25", Rowlock),
    ("26", Rowlock),
    ("27", Rowlock),
    ("28", Operator),
    ("2B", Operator),
    ("2D", Rowlock),
    ("2F", Rowlock),
    ("34", Rowlock),
    ("38", Operator),
    ("39", Operator),
    ("3B", Rowlock),
    ("3D", Operator),
    ("3F", Operator),
    ("40", Time),
    ("42", Rowlock),
    ("44", Caller),
    ("53", Time),
    ("54", Caller),
    // For example a publication, and a table without a replica identity.
    ("55", Operator),
    ("57", Time),
    ("58", Time),
    ("72", Time),
    ("F0", Operator),
    ("HV", Operator),
    ("P0", Rowlock),
    ("RL", Caller),
];

/// None for a code that neither PostgreSQL nor Rowlock defines.
pub(super) fn of_code(code: &str) -> Option<MendedBy> {
    let class = code.get(..2)?;
    let exact = CODES.iter().find(|(known, _)| *known == code);
    exact.or_else(|| CLASSES.iter().find(|(known, _)| *known == class)).map(|(_, mended_by)| *mended_by)
}

/// Poolers say everything with one code, so that only their words tell an outage from a wrong name.
const FINAL_WORDS: [&str; 9] = [
    "no such database",
    "no such user",
    "unsupported startup parameter",
    "unsupported pkt type",
    "password",
    "auth failed",
    "SSL required",
    "Tenant or user not found",
    "bind message",
];

/// Who can mend an error of the server or of a pooler before it.
pub(super) fn of_answer(code: &str, message: &str) -> MendedBy {
    let is_final = || FINAL_WORDS.iter().any(|words| message.contains(words));
    match of_code(code) {
        Some(Time) if matches!(code, "08P01" | "XX000") && is_final() => Operator,
        Some(mended_by) => mended_by,
        // A code of an extension or of a server that only resembles PostgreSQL.
        None => Operator,
    }
}

/// Whether it is the client's own login that was refused, not one of a pooler at its server.
pub(super) fn is_login(code: &str, message: &str) -> bool {
    let of_pooler = ["auth failed", "password authentication failed"];
    code.starts_with("28") || code == "08P01" && of_pooler.iter().any(|words| message.starts_with(words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, path::Path, process::Command};

    use super::*;

    /// Every code of PostgreSQL 18's appendix A with its verdict, as people agreed on it.
    fn agreed() -> BTreeMap<String, String> {
        serde_json::from_str(include_str!("../../tests/cases/sqlstates.json")).unwrap()
    }

    #[test]
    fn every_sqlstate_of_postgresql_has_the_verdict_that_was_agreed_on() {
        let agreed = agreed();
        assert!(agreed.len() > 250);
        for (code, verdict) in &agreed {
            let found = of_code(code).unwrap_or_else(|| panic!("{code} has no verdict"));
            assert_eq!(format!("{found:?}").to_lowercase(), *verdict, "{code}");
        }
        for (code, _) in CODES {
            assert!(agreed.contains_key(*code), "{code} is no SQLSTATE of PostgreSQL");
        }
    }

    /// A newer server brings new codes: then somebody has to decide.
    #[test]
    fn the_installed_server_defines_no_sqlstate_without_a_verdict() {
        let Ok(output) = Command::new("pg_config").arg("--sharedir").output() else { return };
        let file = Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("errcodes.txt");
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let agreed = agreed();
        let codes = text.lines().filter(|line| !line.starts_with(['#', ' ']) && !line.starts_with("Section"));
        for code in codes.filter_map(|line| line.split_whitespace().next()) {
            assert!(agreed.contains_key(code), "{code}: say in tests/cases/sqlstates.json who can mend it");
        }
    }

    #[test]
    fn a_pooler_says_an_outage_and_a_wrong_name_with_one_code() {
        for (message, verdict) in [
            ("server login has been failing, try again later (server_login_retry)", Time),
            ("pgbouncer cannot connect to server", Time),
            ("query_wait_timeout", Time),
            ("no more connections allowed (max_client_conn)", Time),
            ("no such database: nowhere", Operator),
            ("no such user: nobody", Operator),
            ("password authentication failed", Operator),
            ("unsupported startup parameter: options", Operator),
        ] {
            assert_eq!(of_answer("08P01", message), verdict, "{message}");
        }
        assert!(is_login("28P01", "no") && is_login("08P01", "auth failed"));
        assert!(!is_login("08P01", "server login failed: FATAL password authentication failed for user \"x\""));
        assert_eq!(of_answer("XX000", "Tenant or user not found"), Operator);
        assert_eq!(of_answer("CR000", "something of another server"), Operator);
    }
}
