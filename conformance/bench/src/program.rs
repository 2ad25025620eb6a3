//! Running programs as the kernel sees them: CPU, memory, command line; and putting some of them to sleep for a while.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result};
use steersman_conformance::Cluster;
use steersman_conformance::process::signal;

/// Process id of a program of the cluster, which must run.
pub fn pid(cluster: &Cluster, name: &str) -> Result<i32> {
    cluster.pid(name).with_context(|| format!("{name} does not run"))
}

/// [`pid`], once it runs: a program that lost its lease while it slept is just being started again.
pub async fn awaited(cluster: &Cluster, name: &str) -> Result<i32> {
    for _ in 0..600 {
        if let Some(pid) = cluster.pid(name) {
            return Ok(pid);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pid(cluster, name)
}

/// CPU seconds that a process has used so far.
pub fn cpu(pid: i32) -> Result<f64> {
    Ok(times(pid, [11, 12])?.iter().sum())
}

/// [`cpu`], with that of the children that have ended.
pub fn cpu_of_family(pid: i32) -> Result<f64> {
    Ok(times(pid, [11, 12, 13, 14])?.iter().sum())
}

/// Seconds that stand at these places after the name in a process's line.
fn times<const N: usize>(pid: i32, places: [usize; N]) -> Result<[f64; N]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let ticks = |at: usize| {
        rest.split(' ')
            .nth(at)
            .and_then(|n| n.parse::<f64>().ok())
            .unwrap_or_default()
    };
    // utime, stime and those of children, in hundredths of a second on every Linux.
    Ok(places.map(|at| ticks(at) / 100.0))
}

/// Memory of a process in MB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: f64,
    /// Without the pages of files, such as the program itself.
    pub anonymous: f64,
}

pub fn memory(pid: i32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let field = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|n| n.parse::<f64>().ok())
            .unwrap_or_default()
            / 1024.0
    };
    Ok(Memory {
        resident: field("VmRSS:"),
        anonymous: field("RssAnon:"),
    })
}

/// The words of a running program's command line.
pub fn command_line(pid: i32) -> Result<Vec<OsString>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(line
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| OsString::from_vec(w.to_vec()))
        .collect())
}

/// The value of `--flag=value` in a command line.
pub fn flag(words: &[OsString], name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    words
        .iter()
        .find_map(|w| w.to_str()?.strip_prefix(&prefix).map(str::to_owned))
}

/// Programs that sleep until this is dropped.
pub struct Asleep(Vec<i32>);

impl Asleep {
    /// Stops those of the named programs that run.
    pub fn put(cluster: &Cluster, names: &[&str]) -> Self {
        let pids: Vec<i32> = names.iter().filter_map(|name| cluster.pid(name)).collect();
        pids.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
        Self(pids)
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        for pid in &self.0 {
            // Its supervisor may have ended it.
            if std::path::Path::new(&format!("/proc/{pid}")).exists() {
                signal(*pid, libc::SIGCONT);
            }
        }
    }
}
