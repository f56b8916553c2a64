//! The README's way from a build to a job of one's own works by its words.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use crate::binary::PROGRAM;
use crate::support::{finish, start_dev, steered_by_nothing};

const README: &str = include_str!("../../README.md");

/// The blocks of a language in a section, in order.
fn blocks(section: &str, language: &str) -> Vec<&'static str> {
    let start = README.find(&format!("## {section}\n")).unwrap_or_else(|| panic!("no section {section:?}"));
    let section = README[start + 3..].split("\n## ").next().unwrap();
    section.split(&format!("```{language}\n")).skip(1).map(|b| b.split("```").next().unwrap()).collect()
}

fn bash(script: &str, url: &str) -> Command {
    let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap()).collect();
    path.insert(0, Path::new(PROGRAM).parent().unwrap().to_owned());
    let mut bash = steered_by_nothing(Command::new("bash"), Some(url));
    bash.args(["-euxo", "pipefail", "-c", script]).current_dir(env!("CARGO_MANIFEST_DIR"));
    bash.env("PATH", env::join_paths(path).unwrap());
    bash
}

/// Stopped with the test, however it ends.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn a_newcomer_gets_to_a_job_of_his_own_by_the_words_of_the_readme() {
    let shell = blocks("Run it", "sh");
    let [build, dev, first_job, own_database] = shell[..] else { panic!("expected four blocks: {shell:?}") };
    assert!(build.contains("make build") && build.contains("rowlock dev --demo"), "{build}");
    let arguments: Vec<&str> = dev.trim().strip_prefix("rowlock dev ").unwrap().split(' ').collect();
    // From the package's root, where cargo starts tests.
    let (dev, url) = start_dev(&arguments);
    let _dev = Dev(dev);

    let (placeholder, commands) = first_job.split_once('\n').unwrap();
    assert!(placeholder.starts_with("export DATABASE_URL=…"), "{placeholder}");
    let said = finish(bash(commands, &url), "").exits(0);
    assert!(said.out.contains("completed") && said.out.contains("send_email"), "{said:?}");
    finish(bash(own_database, &url), "").exits(0);

    let sql = blocks("Use it from your language", "sql")[0];
    let psql = "psql=$(type -P psql || ls -d /usr/lib/postgresql/*/bin/psql | tail -n 1)\n";
    let said = finish(bash(&format!("{psql}\"$psql\" -Xqv ON_ERROR_STOP=1 -d \"$DATABASE_URL\""), &url), sql).exits(0);
    assert!(said.out.contains("inserted"), "{said:?}");
}
