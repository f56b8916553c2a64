//! As `kubectl rowlock`: the same commands, on the database of the release in a namespace.

use std::path::Path;

use super::exit::Exit;
use crate::{
    JobQueue,
    cluster::{Cluster, ClusterOptions},
};

/// A person's commands need few connections.
const CONNECTIONS: usize = 4;

/// kubectl runs a file of this name on PATH as its plugin.
const FILE: &str = "kubectl-rowlock";

/// Whether this process is the plugin, by the name it was started under.
pub(super) fn is_plugin(argv0: &str) -> bool {
    Path::new(argv0).file_stem().is_some_and(|name| name == FILE)
}

/// Connects to the database of the release, without a URL.
pub(super) async fn connect(options: ClusterOptions) -> anyhow::Result<JobQueue> {
    let usage = |text: String| Exit::Usage(text);
    // Without the variables of a cluster the kubeconfig in its usual place counts: a plugin is made for it.
    let cluster = Cluster::outside(&options).await.map_err(|e| usage(format!("{e}; or set DATABASE_URL")))?;
    let target = cluster.database().await.map_err(|e| usage(e.to_string()))?;
    Ok(JobQueue::connect_target(target, &["default"], CONNECTIONS).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_decides() {
        assert!(is_plugin("/usr/local/bin/kubectl-rowlock") && is_plugin("kubectl-rowlock.exe"));
        assert!(!is_plugin("/usr/bin/rowlock") && !is_plugin("/opt/kubectl-rowlock/rowlock") && !is_plugin(""));
    }
}
