//! The table of tests/cases/connection_strings.json: a string with its surroundings, and how it is understood.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    plan::{Place, Plan},
    settings::Surroundings,
};

/// `$DIR` in any text is the case's own directory, which is also the home.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    string: String,
    #[serde(default)]
    env: HashMap<String, String>,
    /// By their names below the directory; the mode is 0600 unless the name says another: `name@644`.
    #[serde(default)]
    files: HashMap<String, String>,
    /// Only what is named is compared.
    #[serde(default)]
    parts: Map<String, Value>,
    /// The words that the refusal begins with.
    #[serde(default)]
    refused: String,
}

fn described(plan: &Plan) -> Value {
    let server = |s: &super::plan::Server| {
        let port = s.port;
        match &s.place {
            Place::AnySocket => format!("socket {port}"),
            Place::Socket(dir) => format!("{} {port}", dir.display()),
            Place::Tcp { name, address: None } => format!("{name} {port}"),
            Place::Tcp { name, address: Some(address) } => format!("{name}@{address} {port}"),
        }
    };
    let lower = |text: String| text.to_lowercase();
    let passwords: Vec<_> = plan.servers.iter().map(|s| plan.password_for(s).text).collect();
    json!({
        "servers": plan.servers.iter().map(server).collect::<Vec<_>>(),
        "user": plan.user,
        "database": plan.database,
        "password": passwords[0],
        "passwords": passwords,
        "unused": plan.password_for(&plan.servers[0]).unused,
        "mode": lower(format!("{:?}", plan.mode)),
        "check": lower(format!("{:?}", plan.tls.check)),
        "root": format!("{:?}", plan.tls.root),
        "client": plan.tls.client,
        "sni": plan.tls.sni,
        "tls": [plan.tls.only_1_2, plan.tls.only_1_3],
        "direct": plan.direct,
        "session": lower(format!("{:?}", plan.session)),
        "shuffle": plan.shuffle,
        "options": plan.options,
        "application_name": plan.application_name,
        "timeout": plan.connect_timeout.map(|t| t.as_secs()),
        "keepalives": plan.keepalives.as_ref().map(|k| (k.idle.as_secs(), k.interval.as_secs(), k.count)),
        "tcp_user_timeout": plan.tcp_user_timeout.map(|t| t.as_millis()),
        "channel_binding": lower(format!("{:?}", plan.channel_binding)),
    })
}

fn write(dir: &Path, name: &str, text: &str) {
    let (name, mode) = name.split_once('@').unwrap_or((name, "600"));
    let file = dir.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap())).unwrap();
}

#[test]
fn a_connection_string_is_understood_or_refused_by_the_name_of_a_part() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/cases/connection_strings.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = tempfile::tempdir().unwrap();
        let with_dir = |text: &str| text.replace("$DIR", dir.path().to_str().unwrap());
        for (name, text) in &case.files {
            write(dir.path(), name, &with_dir(text));
        }
        let around = Surroundings {
            variables: case.env.iter().map(|(name, value)| (name.clone(), with_dir(value))).collect(),
            home: Some(dir.path().to_owned()),
            user: Some("me".into()),
        };
        let string = with_dir(&case.string);
        match Plan::read(&string, &around) {
            Ok(plan) => {
                let got = described(&plan);
                if !case.refused.is_empty() {
                    wrong.push(format!("{string:?}: expected {:?}, got {got}", case.refused));
                }
                for (part, want) in &case.parts {
                    let want: Value = serde_json::from_str(&with_dir(&want.to_string())).unwrap();
                    if got.get(part) != Some(&want) {
                        wrong.push(format!("{string:?}: {part}: expected {want}, got {:?}", got.get(part)));
                    }
                }
            }
            Err(error) => {
                let said = error.to_string();
                if case.refused.is_empty() || !said.contains(&with_dir(&case.refused)) {
                    wrong.push(format!("{string:?}: expected {:?}, got the refusal {said}", case.refused));
                }
                for secret in ["s3cret", "hunter2"] {
                    assert!(!said.contains(secret), "{string:?}: the refusal repeats a password: {said}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 150, "{} cases", cases.len());
}
