//! From the driver's errors to the library's.

use super::{Error, Field, carried, tls};

impl From<tokio_postgres::Error> for Error {
    fn from(e: tokio_postgres::Error) -> Self {
        let e = match carried::take(e) {
            Ok(error) => return error,
            Err(e) => e,
        };
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
