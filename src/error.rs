//! The library's error, as a type to branch on. Its rooms: `sqlstate`, who can mend an error; `tls`, why TLS failed;
//! `broken`, whether the connection broke; `from`, the driver's errors; `carried`, how an error passes through the
//! pool.

mod broken;
mod carried;
mod from;
mod sqlstate;
mod tls;

use tokio_postgres::error::SqlState;

use self::broken::is_broken_connection;
pub use self::sqlstate::MendedBy;

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
        /// The thing that was read or written.
        what: &'static str,
        /// Where it stopped.
        source: serde_json::Error,
    },
    /// The server has no TLS, or its certificate is not believed.
    #[error("{0}")]
    Tls(String),
    /// The server refused the password that a file holds. The file is read anew for each connection, so that what has
    /// worked before can wait for a new password.
    #[error("database: {message} (SQLSTATE {code}). The password came from {file}; correct it there")]
    Login {
        /// The SQLSTATE, of class 28.
        code: String,
        /// The server's sentence.
        message: String,
        /// Where the password came from.
        file: String,
    },
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
            Error::Login { code, .. } => Some(code),
            Error::Database(e) => e.code().map(SqlState::code),
            _ => None,
        }
    }

    /// Who can mend it.
    ///
    /// ```
    /// use rowlock::{Error, error::MendedBy};
    /// assert_eq!(Error::Pool("timed out".into()).mended_by(), MendedBy::Time);
    /// assert_eq!(Error::Config("port: expected a number".into()).mended_by(), MendedBy::Operator);
    /// ```
    pub fn mended_by(&self) -> MendedBy {
        match self {
            Error::Pool(_) => MendedBy::Time,
            Error::Schema(_) | Error::Config(_) | Error::Tls(_) | Error::Login { .. } => MendedBy::Operator,
            Error::Refused { .. } | Error::NotFound(_) | Error::WrongStatus(_) | Error::LeaseLost(_) => {
                MendedBy::Caller
            }
            Error::Json { .. } => MendedBy::Caller,
            Error::Database(e) => match e.as_db_error() {
                Some(db) => sqlstate::of_answer(db.code().code(), db.message()),
                None if is_broken_connection(e) => MendedBy::Time,
                None => MendedBy::Rowlock,
            },
        }
    }

    /// Whether the same call may succeed later without anybody's doing: the database was away or busy. Who starts waits
    /// while this is so, and ends at once if not.
    ///
    /// ```
    /// assert!(rowlock::Error::Pool("timed out".into()).is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        self.mended_by() == MendedBy::Time
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
            Error::Login { code, message, file } => {
                Error::Login { code: code.clone(), message: message.clone(), file: file.clone() }
            }
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

    /// Whether somebody who has had a good connection tries again. Beside what passes by itself that is what an
    /// operator can mend meanwhile: a certificate, a password in a file, a right, a database that is restored. Not a
    /// password in the connection string: this process never sees a new one, its next start does.
    ///
    /// ```
    /// assert!(rowlock::Error::Tls("the certificate has expired".into()).may_pass());
    /// ```
    pub fn may_pass(&self) -> bool {
        const RESTORED: [&str; 7] = ["3D000", "3F000", "42501", "42703", "42883", "42P01", "57P04"];
        match self {
            Error::Tls(_) | Error::Login { .. } | Error::Schema(_) => true,
            Error::Database(_) if self.code().is_some_and(|code| RESTORED.contains(&code)) => true,
            _ => self.is_transient(),
        }
    }

    /// Whether the connection that answered this should be dropped, so that the next one looks for the primary anew:
    /// its
    /// server only reads.
    ///
    /// ```
    /// assert!(!rowlock::Error::Pool("timed out".into()).wants_new_connection());
    /// ```
    pub fn wants_new_connection(&self) -> bool {
        self.code() == Some("25006")
    }

    /// Whether the server, or the pooler before it, refused who logs in. Older poolers say so with one code for all.
    pub(crate) fn is_refused_login(&self) -> bool {
        match self {
            Error::Login { .. } => true,
            Error::Database(e) => e.as_db_error().is_some_and(|db| sqlstate::is_login(db.code().code(), db.message())),
            _ => false,
        }
    }

    /// Whether this process can never log in again: the password that was refused is out of a variable or the command
    /// line, and only the next start sees another one there. A file would be read anew.
    pub(crate) fn needs_another_start(&self) -> bool {
        self.is_refused_login() && !matches!(self, Error::Login { .. })
    }

    /// A login that was refused with a password out of a file.
    pub(crate) fn login(e: &tokio_postgres::error::DbError, file: &std::path::Path) -> Error {
        let (code, message) = (e.code().code().to_owned(), e.message().to_owned());
        Error::Login { code, message, file: file.display().to_string() }
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
