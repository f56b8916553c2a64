//! The refusal of a connection string names the part that is wrong, and never repeats the string: it holds a password.

use crate::Error;

pub(super) fn wrong(part: &str, what: impl std::fmt::Display) -> Error {
    Error::Config(format!("{part}: {what}"))
}
