//! Several databases and several releases may share a namespace. So everything that finds objects of the cluster by
//! their labels says whose they are: in the selector, or right after it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A call that finds objects, and how it is held to one owner.
const CALLS: &[(&str, &str, &str)] = &[
    // The Pods of jobs are deleted: the database's id is in the selector.
    (
        "launch/pod/pods.rs",
        "cluster.watch::<Pod>(&spec::selector(database)",
        "launch/pod/spec.rs: {DATABASE}={database}",
    ),
    // Deployments are scaled, their Pods are counted, and the ends of these Pods put jobs back.
    ("controller/kubernetes.rs", "cluster.watch(LABEL", "controller/kubernetes.rs: release::is_ours("),
    ("controller/kubernetes.rs", "cluster.watch(POD_SELECTOR", "controller/kubernetes.rs: ours.contains("),
    // The catalogue is loaded, and what it holds no more ends.
    ("controller/configmaps.rs", "cluster.watch::<ConfigMap>(LABEL", "controller/configmaps.rs: release::is_ours("),
    // These only read, and two releases are an error.
    ("cluster/database.rs", ".labels(CONTROLLERS)", "cluster/database.rs: several releases in namespace"),
    (
        "cluster/database.rs",
        ".labels(&format!(\"kubernetes.io/service-name={service}\"))",
        "cluster/database.rs: of_service",
    ),
    // This is what all watches are made of.
    ("cluster/watch.rs", ".labels(labels)", "cluster/watch.rs: labels: &str"),
];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

#[test]
fn every_selector_says_whose_the_objects_are() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let texts: BTreeMap<String, String> = all
        .iter()
        .map(|path| (path.strip_prefix(&src).unwrap().display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    let finds = ["cluster.watch(", "cluster.watch::<", ".labels(", ".delete_collection(", ".fields("];
    for (file, text) in &texts {
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        for line in code.filter(|line| finds.iter().any(|find| line.contains(find))) {
            let known = CALLS.iter().any(|(of, call, _)| of == file && line.contains(call));
            assert!(known, "{file}: say in this test whose the objects are that this finds:\n{line}");
        }
    }
    for (file, call, whose) in CALLS {
        assert!(texts[*file].contains(call), "{file}: {call} is no more");
        let (of, guard) = whose.split_once(": ").unwrap();
        assert!(texts[of].contains(guard), "{of}: {guard} is no more");
    }
}
