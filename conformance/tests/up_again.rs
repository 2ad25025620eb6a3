//! `hack/up` leaves a running cluster as it is.

use std::path::Path;
use std::process::Command;

use steersman_conformance::Cluster;

const PROGRAMS: [&str; 10] = [
    "etcd-1",
    "etcd-2",
    "etcd-3",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "cluster-dns",
    "node-1.containerd",
    "node-1.kubelet",
    "node-1.kube-proxy",
];

#[test]
fn running_it_again_changes_nothing() {
    let cluster = Cluster::here();
    let pids = || PROGRAMS.map(|name| cluster.pid(name));
    let before = pids();
    // The same programs as now, wherever they came from.
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/up"))
        .args(["--no-build", "--bin"])
        .arg(cluster.tool(""))
        .output()
        .expect("hack/up runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("everything was running already"), "{text}");
    assert_eq!(pids(), before);
}
