//! A connection that is lent for one call.
//!
//! The connection goes back to its pool only after the call is over. A call that was given up (its future was dropped,
//! or its time was over) leaves a connection that may never answer again: half open, or with a statement that hangs.
//! The next call must not wait behind it, so that connection is closed.

use std::ops::Deref;

use deadpool_postgres::{Object, Pool};

use crate::Error;

pub(crate) struct Lent(Option<Object>);

impl Lent {
    pub(crate) async fn from(pool: &Pool) -> Result<Lent, Error> {
        Ok(Lent(Some(pool.get().await?)))
    }

    /// The call is over: the connection is as before.
    pub(crate) fn give_back(mut self) {
        self.0.take();
    }
}

impl Deref for Lent {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.0.as_ref().expect("only giving it back takes the connection out")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}
