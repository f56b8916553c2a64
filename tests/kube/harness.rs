//! The cluster's own programs, killed and started again, on a cluster that `tests/cluster` runs and on no other.

use std::{
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A program that was started is well by then.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Harness {
    service: PathBuf,
}

impl Harness {
    /// Says so, where the cluster is somebody else's: then the test is skipped.
    pub fn find() -> Option<Harness> {
        let service = std::env::var_os("ROWLOCK_CLUSTER_SERVICE");
        if service.is_none() {
            println!("*** SKIPPED: needs a cluster of tests/cluster, and ROWLOCK_CLUSTER_SERVICE to name its service");
        }
        service.map(|service| Harness { service: service.into() })
    }

    /// Kills a program of the cluster, until what is answered is started or dropped. An API server that is asked to end
    /// takes a minute for it.
    pub fn kill(&self, program: &'static str) -> Killed {
        let killed = Killed { harness: self.clone(), program };
        self.run("kill", program);
        killed
    }

    fn run(&self, action: &str, program: &str) {
        let done = self.service(action, program);
        assert!(done.success(), "{} {action} {program}: {done}", self.service.display());
    }

    fn service(&self, action: &str, program: &str) -> ExitStatus {
        Command::new(&self.service).args([action, program]).stdin(Stdio::null()).status().unwrap()
    }
}

pub struct Killed {
    harness: Harness,
    program: &'static str,
}

impl Killed {
    /// Starts it again; returns when the API server is ready.
    pub fn start(&self) {
        self.harness.run("start", self.program);
        let ready = || kubectl(&["get", "--raw", "/readyz"]).as_deref() == Some("ok");
        assert!(patiently(ready), "waited {PATIENCE:?} in vain until the API server is ready");
    }
}

impl Drop for Killed {
    /// Whoever is next finds a cluster that is well, also after a test that failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            // One more panic would end the process, and with it the tests to come.
            let _ = self.harness.service("start", self.program);
        } else {
            self.start();
        }
        if !patiently(nodes_are_ready) && !std::thread::panicking() {
            panic!("waited {PATIENCE:?} in vain until all nodes are ready");
        }
    }
}

/// And no taint keeps Pods from them; KWOK's have one of their own.
fn nodes_are_ready() -> bool {
    let each = r#"{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{.spec.taints[*].key}{"\n"}{end}"#;
    let nodes = kubectl(&["get", "nodes", "-o", &format!("jsonpath={each}")]);
    nodes.is_some_and(|n| n.lines().all(|node| node.starts_with("True") && !node.contains("node.kubernetes.io/")))
}

fn kubectl(args: &[&str]) -> Option<String> {
    let out = Command::new("kubectl").args(args).arg("--request-timeout=5s").output().unwrap();
    out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
}

fn patiently(mut ask: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        match ask() {
            true => return true,
            false if started.elapsed() > PATIENCE => return false,
            false => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
