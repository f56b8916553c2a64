//! What a worker needs beside the rest that gives each job a Pod.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Session, call::Arg, keys};
use crate::{ClaimedJob, Error};

impl Session {
    /// Hands jobs back unfinished, no attempt consumed, each after its delay and with a text that says why.
    pub(crate) async fn hand_back(
        &self,
        jobs: &[(ClaimedJob, (Option<Duration>, String))],
    ) -> Result<Vec<Uuid>, Error> {
        let (receipts, ids) = keys(jobs.iter().map(|(job, _)| job));
        let delays: Vec<Option<f64>> = jobs.iter().map(|(_, (after, _))| after.map(|d| d.as_secs_f64())).collect();
        let errors: Vec<String> = jobs.iter().map(|(_, (_, error))| error.replace('\0', "\u{fffd}")).collect();
        let args: [Arg<'_>; 5] = [
            (&self.id, Type::UUID),
            (&receipts, Type::INT8_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&delays, Type::FLOAT8_ARRAY),
            (&errors, Type::TEXT_ARRAY),
        ];
        let rows = self.call("SELECT refused FROM rowlock.release_v1($1, $2, $3, $4, $5)", &args).await?;
        rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
    }
}
