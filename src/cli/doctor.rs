//! `rowlock doctor`: is the database fit, and if not, what to do. Its rooms: `facts`, what is asked; `checks`, what
//! follows from the answers.

mod check;
mod checks;
mod facts;

use self::{
    check::{Check, State},
    facts::Facts,
};
use super::{
    exit::{self, Exit},
    output::{Output, Table},
};
use crate::JobQueue;

pub(super) async fn run(connected: anyhow::Result<JobQueue>, out: &Output) -> anyhow::Result<()> {
    match connected {
        Ok(queue) => print(out, &checks::all(&Facts::ask(&queue).await?)),
        // No URL, or one that cannot be read: a matter of the command line.
        Err(error) if exit::code(&error) == 2 => Err(error),
        Err(error) => {
            let detail = exit::explain(&error).unwrap_or_default();
            print(out, &[Check { check: "connect", state: State::Fail, detail }])
        }
    }
}

fn print(out: &Output, checks: &[Check]) -> anyhow::Result<()> {
    let mut table = Table::new(&["check", "state", "detail"]);
    for c in checks {
        let state = serde_json::to_value(c.state)?;
        table.row([c.check.to_owned(), state.as_str().unwrap_or_default().to_owned(), c.detail.clone()]);
    }
    out.list(checks, table, |c| c.check.to_owned())?;
    if checks.iter().any(|c| c.state == State::Fail) { Err(Exit::Failed.into()) } else { Ok(()) }
}
