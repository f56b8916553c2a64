//! The one home for starting the program. Nothing of the caller's environment steers a program under test: not its
//! settings, not its database, and not its cluster, for a test touches no cluster that it was not given.

use std::process::Command;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rowlock");

/// What begins so steers the program.
const STEERS: [&str; 6] = ["ROWLOCK_", "DATABASE_URL", "PG", "KUBE", "POD_", "TRACEPARENT"];

/// The program, without any setting.
pub fn program() -> Command {
    unsteered(Command::new(PROGRAM))
}

/// The same for a command that starts the program.
pub fn unsteered(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if STEERS.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

#[test]
fn the_program_is_started_in_one_way() {
    let mut dirs = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    let mut homes = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs")
                && std::fs::read_to_string(&path).unwrap().contains(concat!("CARGO_BIN_", "EXE"))
            {
                homes.push(path);
            }
        }
    }
    assert!(homes.len() == 1 && homes[0].ends_with("it/binary.rs"), "{homes:?}");
}
