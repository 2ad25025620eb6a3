//! exec of kube-apiserver to a 200 from /readyz, on an empty key space of the cluster's etcd.

use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use steersman_conformance::Cluster;
use steersman_conformance::process::Background;

use crate::{api, median};

const ROUNDS: usize = 7;
const PORT: u16 = 16_443;

pub async fn run(cluster: &Cluster) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        times.push(once(cluster, round).await?);
    }
    println!(
        "kube-apiserver, exec to /readyz, empty key space: {:.0} ms (median of {ROUNDS})",
        median(times) * 1000.0
    );
    Ok(())
}

/// The running server's own command line, with another port and key prefix.
async fn once(cluster: &Cluster, round: usize) -> Result<f64> {
    let pid = cluster.pid("kube-apiserver").context("kube-apiserver does not run")?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let mut words = line
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| std::ffi::OsString::from_vec(w.to_vec()));
    let program = words.next().context("an empty command line")?;
    let prefix = format!("/bench-{}-{round}", std::process::id());
    let begin = Instant::now();
    let child = Command::new(program)
        .args(words)
        .args([format!("--secure-port={PORT}"), format!("--etcd-prefix={prefix}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Background(child);
    while tokio::net::TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
        if begin.elapsed() > Duration::from_secs(30) {
            bail!("kube-apiserver did not listen within 30 s");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let client = api::client(cluster, Some(&format!("https://127.0.0.1:{PORT}"))).await?;
    while api::send(&client, "GET", "/readyz", "*/*", None).await.is_err() {
        if begin.elapsed() > Duration::from_secs(30) {
            bail!("kube-apiserver was not ready within 30 s");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    drop(server);
    remove(cluster, &prefix)?;
    Ok(took)
}

fn remove(cluster: &Cluster, prefix: &str) -> Result<()> {
    let status = Command::new(cluster.tool("etcdctl"))
        .args(["--endpoints", "https://127.0.0.1:2379", "--cacert"])
        .arg(cluster.pki("etcd-ca.crt"))
        .arg("--cert")
        .arg(cluster.pki("etcd-client.crt"))
        .arg("--key")
        .arg(cluster.pki("etcd-client.key"))
        .args(["del", "--prefix", prefix])
        .stdout(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        bail!("etcdctl del --prefix {prefix} failed")
    }
}
