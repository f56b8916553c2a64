//! `rowlock explain`: decisions in words.

use serde_json::Value;
use tokio_postgres::types::Type;

use super::{
    args::{self, Format},
    exit::Exit,
    output::{self, Output, Table},
};
use crate::{Error, JobQueue, controller::Decision};

pub(super) async fn run(queue: &JobQueue, out: &Output, args: args::Explain) -> anyhow::Result<()> {
    let sql =
        "SELECT to_jsonb(d) FROM (SELECT * FROM rowlock.decisions WHERE deployment = $1 ORDER BY id DESC LIMIT $2) d
               ORDER BY (to_jsonb(d) ->> 'id')::int8";
    let rows = super::query::rows(queue, sql, &[(&args.deployment, Type::TEXT), (&args.last, Type::INT8)]).await?;
    if rows.is_empty() {
        return Err(unknown(queue, &args.deployment).await?.into());
    }
    let rows: Vec<Value> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>().map_err(Error::from)?;
    if !matches!(out.format(), Format::Table | Format::Wide) {
        return out.list(&rows, Table::new(&[]), |r| r["id"].to_string());
    }
    for row in rows {
        let decision = Decision::from_row(row)
            .map_err(|e| anyhow::anyhow!("a decision cannot be read ({e}): use the controller's own version"))?;
        out.text(&format!("{}  {}", output::time(Some(decision.at)), decision.explain()))?;
    }
    Ok(())
}

async fn unknown(queue: &JobQueue, name: &str) -> Result<Exit, Error> {
    let sql = "SELECT DISTINCT deployment FROM rowlock.decisions ORDER BY 1 LIMIT 20";
    let known: Vec<String> =
        super::query::rows(queue, sql, &[]).await?.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    Ok(Exit::NotFound(if known.is_empty() {
        format!("no decision about {name}, nor about any Deployment: is a controller running, and does it scale?")
    } else {
        format!("no decision about {name}; there are some about {}", known.join(", "))
    }))
}
