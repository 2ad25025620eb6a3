//! exec of kube-apiserver to a 200 from /readyz, on an empty key space of the cluster's etcd.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use steersman_conformance::Cluster;
use steersman_conformance::process::Background;

use crate::api;
use crate::figure::{Report, median};
use crate::program::{command_line, cpu, flag, memory, pid};

const ROUNDS: usize = 5;
const PORT: u16 = 16_443;
const LIMIT: Duration = Duration::from_secs(60);

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    let (mut times, mut cpus, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (time, cpu, size) = once(cluster, round).await?;
        times.push(time * 1000.0);
        cpus.push(cpu * 1000.0);
        sizes.push(size);
    }
    report.lower("kube-apiserver, exec to /readyz, empty etcd", "ms", median(&times));
    report.lower("kube-apiserver, until then", "ms CPU", median(&cpus));
    report.lower("kube-apiserver, then, resident", "MB", median(&sizes));
    Ok(())
}

/// The running server's own command line, with another port and key prefix. Seconds, CPU seconds, MB.
async fn once(cluster: &Cluster, round: usize) -> Result<(f64, f64, f64)> {
    let words = command_line(pid(cluster, "kube-apiserver")?)?;
    let (program, arguments) = words.split_first().context("an empty command line")?;
    let prefix = format!("/bench-{}-{round}", std::process::id());
    let begin = Instant::now();
    let child = Command::new(program)
        .args(arguments)
        .args([format!("--secure-port={PORT}"), format!("--etcd-prefix={prefix}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let id = i32::try_from(child.id())?;
    let server = Background(child);
    while tokio::net::TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
        if begin.elapsed() > LIMIT {
            bail!("kube-apiserver did not listen within {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let client = api::client(cluster, Some(&format!("https://127.0.0.1:{PORT}"))).await?;
    while api::send(&client, "GET", "/readyz", "*/*", None).await.is_err() {
        if begin.elapsed() > LIMIT {
            bail!("kube-apiserver was not ready within {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    let seen = (took, cpu(id)?, memory(id)?.resident);
    drop(server);
    let etcd = flag(&words, "--etcd-servers").context("kube-apiserver has no --etcd-servers")?;
    remove(cluster, &etcd, &prefix)?;
    Ok(seen)
}

fn remove(cluster: &Cluster, endpoints: &str, prefix: &str) -> Result<()> {
    let status = Command::new(cluster.tool("etcdctl"))
        .args(["--endpoints", endpoints, "--cacert"])
        .arg(cluster.pki("etcd-ca.crt"))
        .arg("--cert")
        .arg(cluster.pki("etcd-client.crt"))
        .arg("--key")
        .arg(cluster.pki("etcd-client.key"))
        .args(["del", "--prefix", prefix])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("etcdctl del --prefix {prefix} failed");
    }
    Ok(())
}
