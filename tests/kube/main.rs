//! The controller on a real cluster: `KUBECONFIG=… cargo test --all-features --test kube -- --nocapture`.
//!
//! It needs the image of `image.sh` on the nodes, this process on their network (Pods find Postgres there, at the
//! address ROWLOCK_TEST_HOST), and for `many` nodes that KWOK plays. Each test has a namespace of its own. Tests that stop a
//! part of the cluster, or rest on how its kubelet is set, are skipped unless ROWLOCK_CLUSTER_SERVICE is `tests/cluster/service`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod away;
#[path = "../it/binary.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod binary;
mod bursts;
mod catalog;
mod deaths;
mod harness;
mod lab;
mod ledger;
mod many;
mod node;
mod pods;
mod pods_causes;
mod pods_others;
mod proxy;
mod scale_in;
