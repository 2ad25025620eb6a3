//! Memory of each program of the cluster, as the kernel counts it.

use anyhow::{Context, Result};
use steersman_conformance::Cluster;

const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "cluster-dns",
    "node-1.kubelet",
    "node-1.kube-proxy",
    "node-2.kubelet",
    "node-2.kube-proxy",
    "etcd-1",
];

pub fn run(cluster: &Cluster) -> Result<()> {
    println!("memory (MB)                resident  anonymous");
    for name in PROGRAMS {
        let Some(pid) = cluster.pid(name) else { continue };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| (*name).to_owned())?;
        let field = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace()
                .next()
                .and_then(|n| n.parse::<f64>().ok())
                .unwrap_or_default()
                / 1024.0
        };
        println!("  {name:<24} {:>8.1}  {:>9.1}", field("VmRSS:"), field("RssAnon:"));
    }
    Ok(())
}

/// CPU seconds that a process has used so far.
pub fn cpu(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let ticks = |at: usize| {
        rest.split(' ')
            .nth(at)
            .and_then(|n| n.parse::<f64>().ok())
            .unwrap_or_default()
    };
    // utime and stime, in hundredths of a second on every Linux.
    Ok((ticks(11) + ticks(12)) / 100.0)
}
