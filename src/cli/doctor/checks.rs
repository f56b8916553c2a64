//! Checks of the facts: a table, in which each check is a pure function. No advice is given that does not help.

use super::{
    check::{Check, State},
    facts::{Facts, Pooler, Schema},
};

/// A verdict, or none where there is nothing to say.
type Verdict = Option<(State, String)>;

/// The name of a check, and what it says of the facts.
type Rule = (&'static str, fn(&Facts) -> Verdict);

/// The roles that a migration makes.
const ROLES: [&str; 4] = ["rowlock_enqueuer", "rowlock_worker", "rowlock_reader", "rowlock_admin"];

const CHECKS: &[Rule] = &[
    ("connect", |f| ok(format!("{} on {}", f.user, f.database))),
    ("server", server),
    ("primary", primary),
    ("encoding", encoding),
    ("schema", schema),
    ("roles", roles),
    ("privileges", privileges),
    ("controllers", controllers),
    ("owner", owner),
    ("maintenance", maintenance),
    ("autovacuum", autovacuum),
    ("transactions", transactions),
    ("connections", connections),
    ("pooler", pooler),
    ("durability", durability),
];

pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let judge = |(check, judge): &Rule| judge(facts).map(|(state, detail)| Check { check, state, detail });
    CHECKS.iter().filter_map(judge).collect()
}

fn ok(detail: impl Into<String>) -> Verdict {
    Some((State::Ok, detail.into()))
}

fn warn(detail: impl Into<String>) -> Verdict {
    Some((State::Warn, detail.into()))
}

fn fail(detail: impl Into<String>) -> Verdict {
    Some((State::Fail, detail.into()))
}

/// The command that brings schema, roles and grants about, said to whom it helps, and with what it needs first.
fn migrate(f: &Facts) -> String {
    let mut first = Vec::new();
    // The checks say what to do: a migration is refused until then.
    let obstacles: [Rule; 3] = [("server", server), ("primary", primary), ("encoding", encoding)];
    let in_the_way = obstacles.iter().find(|(_, check)| matches!(check(f), Some((State::Fail, _))));
    first.extend(in_the_way.map(|(name, _)| format!("mend the fault of {name}")));
    let missing: Vec<&str> = ROLES.into_iter().filter(|role| !f.roles.iter().any(|r| r == role)).collect();
    if f.owner.is_some() && !f.owner_makes_roles && !missing.is_empty() {
        let missing = missing.join(", ");
        first.push(format!("have a user with CREATEROLE make {missing} (CREATE ROLE … NOLOGIN)"));
    }
    let command = match &f.owner {
        Some(owner) if !f.is_owner && !f.superuser => format!("run rowlock migrate up as {owner}, who owns the schema"),
        Some(_) => "run rowlock migrate up".into(),
        None => "run rowlock migrate up as the user who shall own the schema".into(),
    };
    first.push(command);
    first.join(", then ")
}

fn server(f: &Facts) -> Verdict {
    let version = format!("PostgreSQL {}", f.version);
    if f.version_number >= 150_000 { ok(version) } else { fail(format!("{version}: 15 or later is needed")) }
}

fn primary(f: &Facts) -> Verdict {
    if f.standby {
        fail("a standby, which only reads: name the primary, or all servers and target_session_attrs=read-write")
    } else if f.read_only {
        fail("read-only: default_transaction_read_only is on for this server, database or user; switch it off")
    } else {
        ok("writable")
    }
}

fn encoding(f: &Facts) -> Verdict {
    if f.encoding == "UTF8" {
        return ok("UTF8");
    }
    fail(format!(
        "{}: expected UTF8; make a database with ENCODING 'UTF8' TEMPLATE template0, and move to it",
        f.encoding
    ))
}

fn schema(f: &Facts) -> Verdict {
    if f.owner.is_none() {
        return fail(format!("there is none: {}", migrate(f)));
    }
    let missing = f.grants.iter().find(|g| !g.exists);
    match (&f.schema, missing) {
        (Schema::Files(unfit), _) => match unfit.iter().find(|(_, state)| state != "pending") {
            // The state says what to do; migrate up would refuse.
            Some((file, state)) => fail(format!("{file} {state}")),
            None => match (unfit.first(), missing) {
                (Some((file, _)), _) => fail(format!("{file} is not applied: {}", migrate(f))),
                // A migration applies no file twice.
                (None, Some(missing)) => {
                    let object = &missing.object;
                    fail(format!("somebody dropped {object}: make it anew by the text that rowlock migrate sql prints"))
                }
                (None, None) => ok("up to date"),
            },
        },
        (Schema::Hidden, Some(missing)) => {
            let object = &missing.object;
            fail(format!("it lacks {object}: {}, or use the release of rowlock that the schema is of", migrate(f)))
        }
        // A warning, for it is less than the owner would be told.
        (Schema::Hidden, None) => warn("it has all that this release calls; whether it is newer, only its owner sees"),
    }
}

fn roles(f: &Facts) -> Verdict {
    f.owner.as_ref()?;
    if f.roles.len() < ROLES.len() {
        return warn(format!("{} of {} roles rowlock_*: {}", f.roles.len(), ROLES.len(), migrate(f)));
    }
    let lacking = f.grants.iter().find(|g| g.exists && !g.granted);
    match lacking {
        Some(g) => warn(format!("{} has no right to {}: {}", g.role, g.object, migrate(f))),
        None => ok(format!("{} roles with their grants", ROLES.len())),
    }
}

fn privileges(f: &Facts) -> Verdict {
    f.owner.as_ref()?;
    let user = &f.user;
    if f.superuser {
        return warn(format!("{user} is a superuser: connect as a member of one of {}", ROLES.join(", ")));
    }
    if f.is_owner {
        return ok(format!("{user} owns the schema: for migrations; programs need only a role"));
    }
    let lacking = f.grants.iter().find(|g| g.exists && !g.granted && f.member_of.contains(&g.role));
    match (lacking, f.member_of.is_empty()) {
        (Some(g), _) => fail(format!("{} has no right to {}: {}", g.role, g.object, migrate(f))),
        (None, false) => {
            let may = [
                ("rowlock_enqueuer", "enqueue"),
                ("rowlock_worker", "work"),
                ("rowlock_reader", "look"),
                ("rowlock_admin", "do all but migrate"),
            ];
            let may: Vec<&str> = may.iter().filter(|(r, _)| f.member_of.iter().any(|m| m == r)).map(|m| m.1).collect();
            ok(format!("{user} may {}", may.join(", ")))
        }
        (None, true) if f.has_rights => ok(format!("{user} has rights of its own, by no role of Rowlock's")),
        (None, true) if f.roles.len() < ROLES.len() => {
            fail(format!("{user} may do nothing, and the roles to give it are not there: {}", migrate(f)))
        }
        (None, true) => fail(format!(
            "{user} may do nothing: GRANT rowlock_enqueuer (to enqueue), rowlock_worker (to work), rowlock_reader (to \
             look) or rowlock_admin TO \"{user}\""
        )),
    }
}

/// A controller of another namespace or release than the leader's looks healthy and does nothing.
fn controllers(f: &Facts) -> Verdict {
    f.owner.as_ref()?;
    let Some(all) = &f.controllers else {
        return Some((State::Unknown, "only rowlock_reader and rowlock_admin see them".into()));
    };
    let leader = all.iter().find(|(_, leads)| *leads);
    match (leader, all.iter().find(|(_, leads)| !leads)) {
        (Some((leader, _)), Some((rival, _))) => warn(format!(
            "{leader} leads, and {rival} scales nothing: give each release, and each namespace, a database of its own"
        )),
        (Some((leader, _)), None) => ok(format!("{leader} leads")),
        (None, _) => ok("none leads: nothing is scaled, and no schedule runs"),
    }
}

fn owner(f: &Facts) -> Verdict {
    f.owner.as_ref()?;
    match &f.superuser_owner {
        None => ok("no superuser"),
        Some(owner) => warn(format!(
            "the functions run as the superuser {owner}: have an ordinary role own the schema rowlock and what is in it"
        )),
    }
}

/// A failure of the last minutes may go on; an older one is over.
fn maintenance(f: &Facts) -> Verdict {
    let Some(last) = f.failures.as_ref()?.first() else { return ok("no part of it has ever failed") };
    let minutes = last.seconds_ago / 60.0;
    let detail = format!("{} failed {minutes:.0} min ago, {} times in all: {}", last.part, last.times, last.error);
    if minutes < 5.0 {
        return fail(format!("{detail}; docs/runbooks/RowlockMaintenanceFailing.md says what depends on it"));
    }
    ok(detail)
}

fn autovacuum(f: &Facts) -> Verdict {
    if f.autovacuum { ok("on") } else { fail("off: switch it on, or the queue's tables grow without end") }
}

fn transactions(f: &Facts) -> Verdict {
    match f.oldest_transaction {
        None => Some((
            State::Unknown,
            "the sessions of others are hidden from this user; pg_read_all_stats sees them".into(),
        )),
        Some(age) if age < 300.0 => ok(format!("the oldest is {age:.0} s old")),
        Some(age) => {
            warn(format!("the oldest is {age:.0} s old: it keeps dead rows alive; find it in pg_stat_activity"))
        }
    }
}

fn connections(f: &Facts) -> Verdict {
    let (used, most) = f.connections;
    let detail = format!("{used} of {most} in use");
    if used * 5 < most * 4 { ok(detail) } else { warn(format!("{detail}: raise max_connections or use PgBouncer")) }
}

fn pooler(f: &Facts) -> Verdict {
    match &f.pooler {
        Pooler::NotSeen => ok("each connection has a session of its own"),
        Pooler::Transaction => {
            ok("a pooler in transaction mode; ROWLOCK_LISTEN_URL with a direct connection makes pickup quicker")
        }
        Pooler::OnlyOne(why) => warn(format!(
            "no second connection ({why}): a worker needs several; raise the limit of the role or the pooler"
        )),
    }
}

fn durability(f: &Facts) -> Verdict {
    let detail = format!("synchronous_commit = {}", f.synchronous_commit);
    if f.synchronous_commit == "off" {
        return warn(format!("{detail}: a crash may lose the last enqueued jobs"));
    }
    ok(detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::facts::{Grant, PartFailure},
        *,
    };

    fn healthy() -> Facts {
        let roles =
            ["rowlock_admin", "rowlock_enqueuer", "rowlock_reader", "rowlock_worker"].map(String::from).to_vec();
        Facts {
            user: "ann".into(),
            database: "app".into(),
            superuser: false,
            version: "16.1".into(),
            version_number: 160_001,
            encoding: "UTF8".into(),
            standby: false,
            read_only: false,
            autovacuum: true,
            synchronous_commit: "on".into(),
            connections: (3, 100),
            oldest_transaction: Some(1.0),
            owner: Some("owner".into()),
            is_owner: false,
            owner_makes_roles: true,
            superuser_owner: None,
            roles,
            member_of: vec!["rowlock_worker".into()],
            has_rights: true,
            schema: Schema::Hidden,
            grants: vec![Grant {
                role: "rowlock_worker".into(),
                object: "claim_v1".into(),
                exists: true,
                granted: true,
            }],
            controllers: Some(vec![("a in namespace shop".into(), true)]),
            failures: Some(vec![]),
            pooler: Pooler::NotSeen,
        }
    }

    fn said(facts: &Facts, check: &str) -> (State, String) {
        let all = all(facts);
        let found = all.iter().find(|c| c.check == check).unwrap_or_else(|| panic!("no {check} in {all:?}"));
        (found.state, found.detail.clone())
    }

    #[test]
    fn a_healthy_install_has_nothing_to_do() {
        let all = all(&Facts { schema: Schema::Files(vec![]), ..healthy() });
        assert!(all.iter().all(|c| c.state == State::Ok), "{all:?}");
        assert_eq!(said(&healthy(), "privileges").1, "ann may work");
    }

    #[test]
    fn a_newer_schema_is_never_told_to_migrate() {
        let newer = vec![("0002_x".to_owned(), "is newer than this program: use a newer rowlock".to_owned())];
        let (state, detail) = said(&Facts { schema: Schema::Files(newer), is_owner: true, ..healthy() }, "schema");
        assert!(state == State::Fail && !detail.contains("migrate up"), "{detail}");
    }

    #[test]
    fn only_its_owner_is_told_to_migrate_without_naming_one() {
        let grants = vec![Grant { granted: false, ..healthy().grants[0].clone() }];
        let broken = Facts { grants, ..healthy() };
        for check in ["roles", "privileges"] {
            let detail = said(&broken, check).1;
            assert!(detail.contains("claim_v1") && detail.contains("migrate up as owner"), "{detail}");
        }
        let restored = Facts { roles: vec![], member_of: vec![], is_owner: true, ..healthy() };
        assert!(said(&restored, "roles").1.ends_with("run rowlock migrate up"));
    }

    #[test]
    fn what_a_migration_needs_first_comes_before_it() {
        let restored = Facts { roles: vec![], owner_makes_roles: false, is_owner: true, ..healthy() };
        let detail = said(&restored, "roles").1;
        assert!(detail.contains("CREATEROLE make rowlock_enqueuer, ") && detail.ends_with("migrate up"), "{detail}");
        let latin = Facts { owner: None, encoding: "LATIN1".into(), ..healthy() };
        assert!(said(&latin, "schema").1.contains("mend the fault of encoding, then run rowlock migrate up"));
        let dropped = vec![Grant { exists: false, granted: false, ..healthy().grants[0].clone() }];
        let (state, detail) = said(&Facts { schema: Schema::Files(vec![]), grants: dropped, ..healthy() }, "schema");
        assert!(state == State::Fail && !detail.contains("migrate up"), "{detail}");
    }

    #[test]
    fn two_namespaces_on_one_database_are_told_apart_from_a_leader_alone() {
        let two = vec![("a in namespace shop".into(), true), ("b in namespace mail".into(), false)];
        let (state, detail) = said(&Facts { controllers: Some(two), ..healthy() }, "controllers");
        assert!(state == State::Warn && detail.contains("b in namespace mail scales nothing"), "{detail}");
        assert_eq!(said(&Facts { controllers: Some(vec![]), ..healthy() }, "controllers").0, State::Ok);
        assert_eq!(said(&Facts { controllers: None, ..healthy() }, "controllers").0, State::Unknown);
    }

    #[test]
    fn nobody_is_told_to_grant_a_role_that_is_not_there() {
        let restored = Facts { roles: vec![], member_of: vec![], has_rights: false, ..healthy() };
        let (state, detail) = said(&restored, "privileges");
        assert!(
            state == State::Fail && detail.contains("migrate up as owner") && !detail.contains("GRANT"),
            "{detail}"
        );
    }

    #[test]
    fn maintenance_that_fails_is_told_with_its_error_and_an_old_failure_is_no_news() {
        let failed = |seconds_ago| {
            let error = "permission denied (SQLSTATE 42501)".into();
            Facts {
                failures: Some(vec![PartFailure { part: "fold".into(), times: 7.0, seconds_ago, error }]),
                ..healthy()
            }
        };
        let (state, detail) = said(&failed(30.0), "maintenance");
        assert!(state == State::Fail && detail.contains("fold failed") && detail.contains("42501"), "{detail}");
        assert_eq!(said(&failed(3600.0), "maintenance").0, State::Ok);
        assert!(all(&Facts { failures: None, ..healthy() }).iter().all(|c| c.check != "maintenance"));
    }

    #[test]
    fn a_user_without_rights_is_told_which_role_does_what() {
        let nobody = Facts { member_of: vec![], has_rights: false, oldest_transaction: None, ..healthy() };
        let (state, detail) = said(&nobody, "privileges");
        assert!(state == State::Fail && detail.contains("GRANT rowlock_enqueuer"), "{detail}");
        assert_eq!(said(&nobody, "transactions").0, State::Unknown);
    }
}
