//! Advice when a right is missing: the least role that has it, as the documentation names it for each command.

use tokio_postgres::types::Type;

use super::args::{Command, JobsCommand, MigrateCommand, QueueCommand, SchedulesCommand, TypesCommand};
use crate::JobQueue;

const ENQUEUER: &str = "rowlock_enqueuer";
const WORKER: &str = "rowlock_worker";
const READER: &str = "rowlock_reader";
const ADMIN: &str = "rowlock_admin";

/// None for what only the schema's owner may do.
pub(super) fn least_role(command: &Command) -> Option<&'static str> {
    match command {
        Command::Migrate { command: MigrateCommand::Up | MigrateCommand::Status } => None,
        Command::Enqueue(_) => Some(ENQUEUER),
        Command::Worker(_) => Some(WORKER),
        Command::Jobs { command: JobsCommand::List { .. } | JobsCommand::Get { .. } | JobsCommand::Logs { .. } }
        | Command::Queues { command: QueueCommand::List }
        | Command::Types { command: TypesCommand::List }
        | Command::Schedules { command: SchedulesCommand::List }
        | Command::Workers
        | Command::Explain(_) => Some(READER),
        _ => Some(ADMIN),
    }
}

/// One sentence that helps this user. Who is a member already lacks grants, not a role.
pub(super) async fn advice(queue: &JobQueue, role: Option<&str>) -> String {
    let sql = "SELECT current_user::text,
                      (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'rowlock')::text,
                      EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1),
                      EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1 AND pg_has_role(r.oid, 'USAGE'))";
    let rows = super::query::rows(queue, sql, &[(&role, Type::TEXT)]).await;
    let (user, owner, exists, member) = match rows.as_deref() {
        Ok([row]) => (row.get(0), row.get::<_, Option<String>>(1), row.get(2), row.get(3)),
        _ => ("this user".to_owned(), None, true, false),
    };
    sentence(&user, owner.as_deref(), role, exists, member)
}

fn sentence(user: &str, owner: Option<&str>, role: Option<&str>, exists: bool, member: bool) -> String {
    let owner = owner.map_or_else(|| "a user that may create schemas and roles".to_owned(), |owner| owner.to_owned());
    match role {
        None => format!("connect as {owner}, who owns the schema rowlock"),
        Some(role) if member => {
            format!("{user} is a member of {role}, whose grants are missing: run rowlock migrate up as {owner}")
        }
        Some(role) if !exists => format!("there is no role {role} yet: run rowlock migrate up as {owner}"),
        Some(role) => format!("it needs {role}: have somebody run GRANT {role} TO \"{user}\", or connect as a member"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_a_member_is_not_told_to_become_one() {
        let say = |role, exists, member| sentence("ann", Some("owner"), role, exists, member);
        assert!(say(Some(READER), true, false).contains("GRANT rowlock_reader TO \"ann\""));
        for (exists, member) in [(true, true), (false, false)] {
            let said = say(Some(WORKER), exists, member);
            assert!(said.contains("rowlock migrate up as owner") && !said.contains("GRANT"), "{said}");
        }
        assert!(say(None, false, false).contains("owner, who owns the schema"));
    }
}
