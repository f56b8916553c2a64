//! What can go wrong, as a type to branch on. Its room: `tls`, why TLS failed.

mod tls;

use tokio_postgres::error::SqlState;

/// An error of the queue. The text names the field and what was expected, or what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The queue refused an argument: nothing was stored. `code` is the SQLSTATE (class `RL`).
    #[error("{message}")]
    Refused {
        /// The SQLSTATE, one per field: see [`Field`].
        code: String,
        /// The field, as far as the code names one.
        field: Field,
        /// A sentence that names the field, and the element in a batch.
        message: String,
    },
    /// There is no such job.
    #[error("{0}")]
    NotFound(String),
    /// The job's status does not allow what was asked.
    #[error("{0}")]
    WrongStatus(String),
    /// The worker no longer holds the job: its lease expired, or somebody else ended the job.
    #[error("lease lost: {0}")]
    LeaseLost(String),
    /// The database lacks the schema, or has one this program cannot work with.
    #[error("{0}")]
    Schema(String),
    /// A connection URL or an option that cannot be understood.
    #[error("{0}")]
    Config(String),
    /// A payload or result that is not the JSON it should be.
    #[error("{what} is not valid: {source}")]
    Json {
        /// What was being read or written.
        what: &'static str,
        /// Where it stopped.
        source: serde_json::Error,
    },
    /// The server has no TLS, or its certificate is not believed.
    #[error("{0}")]
    Tls(String),
    /// Postgres said no, for a reason that is not the queue's.
    #[error("database: {}", describe(.0))]
    Database(#[source] tokio_postgres::Error),
    /// No connection to be had.
    #[error("no database connection: {0}")]
    Pool(String),
}

/// The argument a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Field {
    Type,
    Payload,
    Queue,
    Priority,
    MaxRetries,
    ExecuteAt,
    UniqueKey,
    Opts,
    Jobs,
    DelaySeconds,
    Worker,
    Other,
}

impl Error {
    /// The SQLSTATE behind the error, if it came from the database.
    ///
    /// ```
    /// # use rowlock::{Error, Field};
    /// let e = Error::Refused { code: "RL004".into(), field: Field::Priority, message: "priority: …".into() };
    /// assert_eq!(e.code(), Some("RL004"));
    /// ```
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Refused { code, .. } => Some(code),
            Error::NotFound(_) => Some("RL011"),
            Error::WrongStatus(_) => Some("RL012"),
            Error::LeaseLost(_) => Some("RL020"),
            Error::Database(e) => e.code().map(SqlState::code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without a change: the database was away or busy.
    ///
    /// ```
    /// assert!(rowlock::Error::Pool("timed out".into()).is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Pool(_) => true,
            // No SQLSTATE: the connection broke. 08 connection, 53 resources, 57P shutdown, 40 retry.
            Error::Database(e) => match e.code() {
                None => true,
                Some(c) => ["08", "53", "57P", "40"].iter().any(|p| c.code().starts_with(p)),
            },
            _ => false,
        }
    }

    /// The same error for another caller that waited for the same call. The driver's own value cannot be copied.
    pub(crate) fn to_caller(&self) -> Error {
        match self {
            Error::Refused { code, field, message } => {
                Error::Refused { code: code.clone(), field: *field, message: message.clone() }
            }
            Error::NotFound(text) => Error::NotFound(text.clone()),
            Error::WrongStatus(text) => Error::WrongStatus(text.clone()),
            Error::LeaseLost(text) => Error::LeaseLost(text.clone()),
            Error::Schema(text) => Error::Schema(text.clone()),
            Error::Config(text) => Error::Config(text.clone()),
            Error::Tls(text) => Error::Tls(text.clone()),
            Error::Pool(text) => Error::Pool(text.clone()),
            Error::Database(_) if self.is_transient() => Error::Pool(self.to_string()),
            Error::Database(_) | Error::Json { .. } => Error::Refused {
                code: self.code().unwrap_or("XX000").to_owned(),
                field: Field::Other,
                message: self.to_string(),
            },
        }
    }

    /// Whether Postgres refused a value, which it will refuse again: class 22, or 54 for JSON too deep.
    pub(crate) fn is_about_a_value(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("22") || code.starts_with("54"))
    }

    /// Whether the connection that answered so is of no more use: the next call opens another.
    pub(crate) fn wants_new_connection(&self) -> bool {
        self.code() == Some("25006")
    }

    /// Whether somebody who has had a good connection tries again. To a start a certificate that is not believed is
    /// final; to what runs it is a fault of the server's, which people mend.
    ///
    /// ```
    /// assert!(rowlock::Error::Tls("the certificate has expired".into()).may_pass());
    /// ```
    pub fn may_pass(&self) -> bool {
        self.is_transient() || matches!(self, Error::Tls(_))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(e: tokio_postgres::Error) -> Self {
        let Some(db) = e.as_db_error() else {
            return tls::fault(&e).map_or_else(|| Error::Database(e), Error::Tls);
        };
        let message = match db.hint() {
            Some(hint) => format!("{}. {hint}", db.message()),
            None => db.message().to_owned(),
        };
        let field = match db.code().code() {
            "RL001" => Field::Type,
            "RL002" => Field::Payload,
            "RL003" => Field::Queue,
            "RL004" => Field::Priority,
            "RL005" => Field::MaxRetries,
            "RL006" => Field::ExecuteAt,
            "RL007" => Field::UniqueKey,
            "RL008" => Field::Opts,
            "RL009" => Field::Jobs,
            "RL010" => Field::DelaySeconds,
            "RL011" => return Error::NotFound(message),
            "RL012" => return Error::WrongStatus(message),
            "RL020" => return Error::LeaseLost(message.trim_start_matches("lease lost: ").to_owned()),
            "RL021" => Field::Worker,
            // The schema, or a function of it, is not there.
            "3F000" | "42883" | "42P01" if message.contains("rowlock") => {
                return Error::Schema(format!("{message}. Run `rowlock migrate up` on this database first."));
            }
            other if other.starts_with("RL") => Field::Other,
            _ => return Error::Database(e),
        };
        Error::Refused { code: db.code().code().to_owned(), field, message }
    }
}

impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Error::Json { what: "payload", source }
    }
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(e: deadpool_postgres::PoolError) -> Self {
        match e {
            deadpool_postgres::PoolError::Backend(e) => Error::from(e),
            e => Error::Pool(e.to_string()),
        }
    }
}

/// tokio-postgres prints only "db error"; people need the sentence and the state.
fn describe(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => {
            let insists =
                db.code() == &SqlState::INVALID_AUTHORIZATION_SPECIFICATION && db.message().ends_with("no encryption");
            let advice = if insists { ". If it wants TLS, use sslmode=require" } else { "" };
            format!("{} (SQLSTATE {}){advice}", db.message(), db.code().code())
        }
        None => match std::error::Error::source(e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        },
    }
}
