//! Memory and CPU of each program of a cluster in which nothing happens.

use std::time::Duration;

use anyhow::Result;
use steersman_conformance::Cluster;

use crate::figure::Report;
use crate::program::{cpu, memory};

const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "cluster-dns",
    "node-1.kubelet",
    "node-1.kube-proxy",
];
/// After which a program that has just started has come to rest.
const SETTLE: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(10);

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let running: Vec<(&str, i32)> = PROGRAMS
        .iter()
        .filter_map(|name| Some((*name, cluster.pid(name)?)))
        .collect();
    let before = running.iter().map(|(_, pid)| cpu(*pid)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(WATCHED).await;
    for ((name, pid), before) in running.into_iter().zip(before) {
        report.lower(&format!("{name}, idle, resident"), "MB", memory(pid)?.resident);
        report.lower(&format!("{name}, idle, anonymous"), "MB", memory(pid)?.anonymous);
        let share = (cpu(pid)? - before) / WATCHED.as_secs_f64();
        report.lower(&format!("{name}, idle, CPU"), "% of a core", share * 100.0);
    }
    Ok(())
}
