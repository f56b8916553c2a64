//! `rowlock doctor`: is the database fit, and if not, what to do.

use serde::Serialize;

use super::{
    exit::{self, Exit},
    output::{Output, Table},
};
use crate::JobQueue;

#[derive(Serialize)]
struct Check {
    check: &'static str,
    state: &'static str,
    detail: String,
}

pub(super) async fn run(connected: anyhow::Result<JobQueue>, out: &Output) -> anyhow::Result<()> {
    match connected {
        Ok(queue) => print(out, &examine(&queue).await?),
        // No URL, or one that cannot be read: a matter of the command line.
        Err(error) if exit::code(&error) == 2 => Err(error),
        Err(error) => {
            let detail = exit::explain(&error).unwrap_or_default();
            print(out, &[Check { check: "connect", state: "FAIL", detail }])
        }
    }
}

fn print(out: &Output, checks: &[Check]) -> anyhow::Result<()> {
    let mut table = Table::new(&["check", "state", "detail"]);
    for c in checks {
        table.row([c.check.to_owned(), c.state.to_owned(), c.detail.clone()]);
    }
    out.list(checks, table, |c| c.check.to_owned())?;
    if checks.iter().any(|c| c.state == "FAIL") { Err(Exit::Failed.into()) } else { Ok(()) }
}

async fn examine(queue: &JobQueue) -> anyhow::Result<Vec<Check>> {
    let rows = super::rows(
        queue,
            "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), current_setting('autovacuum')::bool,
                    coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity WHERE backend_type = 'client backend'), 0)::float8,
                    current_setting('max_connections')::int4, (SELECT count(*)::int4 FROM pg_stat_activity WHERE backend_type = 'client backend'),
                    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(),
                    (SELECT count(*)::int4 FROM pg_roles WHERE rolname IN ('rowlock_enqueuer', 'rowlock_worker', 'rowlock_reader', 'rowlock_admin')),
                    current_setting('synchronous_commit'),
                    (SELECT string_agg(DISTINCT r.rolname, ', ') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles r ON r.oid = p.proowner
                      WHERE n.nspname = 'rowlock' AND p.prosecdef AND r.rolsuper)",
            &[],
        )
        .await?;
    let row = &rows[0];
    let mut checks = vec![Check { check: "connect", state: "ok", detail: "answers".into() }];
    let mut check = |check, good: bool, bad: &'static str, detail: String, advice: &str| {
        let state = if good { "ok" } else { bad };
        checks.push(Check { check, state, detail: if good { detail } else { format!("{detail}: {advice}") } });
    };
    check(
        "server",
        row.get::<_, i32>(0) >= 150_000,
        "FAIL",
        format!("PostgreSQL {}", row.get::<_, &str>(1)),
        "15 or later is needed",
    );
    check(
        "primary",
        !row.get::<_, bool>(7),
        "FAIL",
        "writable".into(),
        "this is a read-only standby; connect to the primary",
    );
    let (schema, bad) = match queue.migration_status().await {
        Ok(all) => {
            let missing = all.iter().find(|m| m.state != "applied");
            (missing.map(|m| format!("{} {}", m.name, m.state)), "FAIL")
        }
        // Only the schema's owner may read it. That is no fault: a worker's user is no owner.
        Err(e) if e.code() == Some("42501") => (Some("only its owner may look, ask /readyz".into()), "warn"),
        Err(e) => (Some(e.to_string()), "FAIL"),
    };
    check("schema", schema.is_none(), bad, schema.unwrap_or_else(|| "up to date".into()), "run: rowlock migrate up");
    let roles: i32 = row.get(8);
    check("roles", roles == 4, "warn", format!("{roles} of 4 rowlock roles"), "run: rowlock migrate up");
    check(
        "autovacuum",
        row.get(2),
        "FAIL",
        "autovacuum".into(),
        "switch it on, or the queue's tables grow without end",
    );
    let oldest: f64 = row.get(3);
    check(
        "transactions",
        oldest < 300.0,
        "warn",
        format!("oldest is {oldest:.0} s old"),
        "it keeps dead rows alive; find it in pg_stat_activity",
    );
    let (most, used): (i32, i32) = (row.get(4), row.get(5));
    check(
        "connections",
        used * 5 < most * 4,
        "warn",
        format!("{used} of {most} in use"),
        "raise max_connections or use PgBouncer",
    );
    check(
        "privileges",
        !row.get::<_, bool>(6),
        "warn",
        "connected user".into(),
        "is a superuser; connect as a member of rowlock_enqueuer, rowlock_worker or rowlock_admin",
    );
    let owner: Option<&str> = row.get(10);
    check(
        "owner",
        owner.is_none(),
        "warn",
        owner.map_or_else(|| "no superuser".into(), |o| format!("the functions run as the superuser {o}")),
        "have an ordinary role own the schema rowlock and what is in it",
    );
    let sync: &str = row.get(9);
    check(
        "durability",
        sync != "off",
        "warn",
        format!("synchronous_commit = {sync}"),
        "a crash may lose the last enqueued jobs",
    );
    Ok(checks)
}
