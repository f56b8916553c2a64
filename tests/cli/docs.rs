//! The commands of the manual work as it shows them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::binary::PROGRAM;
use crate::support::{finish, steered_by_nothing, url};

#[test]
fn every_command_of_the_manual_runs() {
    let manual = include_str!("../../docs/cli.md");
    let blocks: Vec<&str> = manual.split("```sh\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 5);
    let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap()).collect();
    path.insert(0, Path::new(PROGRAM).parent().unwrap().to_owned());
    let dir = tempfile::tempdir().unwrap();
    let mut bash = steered_by_nothing(Command::new("bash"), Some(url()));
    bash.args(["-euxo", "pipefail", "-c", &blocks.concat()]).current_dir(dir.path());
    bash.env("PATH", env::join_paths(path).unwrap());
    let said = finish(bash, "").exits(0);
    assert!(said.out.contains("123456789012345678901234567890"), "{said:?}");
    assert!(said.out.contains(&format!("rowlock {}", env!("CARGO_PKG_VERSION"))), "{said:?}");
}
