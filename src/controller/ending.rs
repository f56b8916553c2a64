//! The end of a controller: by its caller, or by an error that it cannot outlive.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::Error;

/// Shared by all tasks of a controller.
#[derive(Clone)]
pub(super) struct Ending {
    token: CancellationToken,
    error: Arc<Mutex<Option<Error>>>,
}

impl Ending {
    /// It also ends when the caller's token says so.
    pub(super) fn of(caller: &CancellationToken) -> Ending {
        Ending { token: caller.child_token(), error: Arc::default() }
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Ends the controller with this error. The first one counts.
    pub(super) fn because(&self, error: Error) {
        self.error.lock().expect("no code panics while it holds this lock").get_or_insert(error);
        self.token.cancel();
    }

    /// The error that ended it, when all tasks have ended.
    pub(super) fn error(&self) -> Result<(), Error> {
        self.error.lock().expect("no code panics while it holds this lock").take().map_or(Ok(()), Err)
    }
}
