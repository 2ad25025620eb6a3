//! Test processes: how the official binary is started, what it left in its output, and how it is ended.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Most bytes of a process' own output that go into one test's log.
const OUTPUT: u64 = 1 << 20;
/// How long processes of an earlier start may take to clean up after themselves.
const LEFTOVER: Duration = Duration::from_secs(60);

/// What all test processes share.
#[derive(Clone, Debug)]
pub struct Binary {
    pub path: PathBuf,
    pub kubeconfig: PathBuf,
    pub kubectl: PathBuf,
    /// Nodes that pods can be scheduled to.
    pub nodes: usize,
}

/// One order of specs for all processes, now and after an interruption.
const SEED: &str = "--ginkgo.seed=1";
const OUTPUT_FLAG: &str = "--e2e-output-dir=";

/// A process that says what it does to the desk. `number` counts from 1; only the first one sets the suite up and runs serial
/// tests.
fn command(binary: &Binary, folder: &Path, address: &str, number: usize, total: usize) -> Command {
    let mut command = Command::new(&binary.path);
    command
        .arg(SEED)
        .arg(format!("--ginkgo.parallel.process={number}"))
        .arg(format!("--ginkgo.parallel.total={total}"))
        .arg(format!("--ginkgo.parallel.host={address}"))
        // What it prints is ours to read even if it crashes.
        .args([
            "--ginkgo.output-interceptor-mode=none",
            "--ginkgo.no-color",
            "--ginkgo.timeout=24h",
        ])
        .args([
            "--provider=skeleton",
            "--dns-domain=cluster.local",
            "--disable-log-dump",
        ])
        .arg(output_flag(folder))
        .env("GINKGO_PARALLEL_PROTOCOL", "HTTP")
        // kubectl keeps what it learned about a server under its address; another cluster may have had this one.
        .env("HOME", folder.join("home"))
        .env_remove("KUBECONFIG")
        .current_dir(folder)
        .stdin(Stdio::null())
        // Ctrl-C is for us: we tell the processes.
        .process_group(0);
    command
}

/// Names the run's folder, which also tells our processes from others'.
fn output_flag(folder: &Path) -> String {
    format!("{OUTPUT_FLAG}{}", folder.join("output").display())
}

/// Starts a process that names all tests and skips each of them; needs no cluster. (A dry run is not for parallel processes.)
///
/// # Errors
/// When it cannot be started.
pub fn list(path: &Path, folder: &Path, address: &str) -> Result<Child> {
    let binary = Binary {
        path: path.to_owned(),
        kubeconfig: PathBuf::new(),
        kubectl: PathBuf::new(),
        nodes: 0,
    };
    command(&binary, folder, address, 1, 2)
        .args(["--ginkgo.skip=.", "--kubeconfig=/nonexistent"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", path.display()))
}

/// Starts a process that runs tests. `only` is the expression that its serial tests must match; without one it runs parallel
/// tests.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    binary: &Binary,
    folder: &Path,
    address: &str,
    number: usize,
    total: usize,
    only: Option<&str>,
) -> Result<(Child, Output)> {
    let output = Output(folder.join(format!(
        "processes/{}-{number}.log",
        if only.is_some() { "serial" } else { "parallel" }
    )));
    let file = OpenOptions::new().create(true).append(true).open(&output.0)?;
    let mut command = command(binary, folder, address, number, total);
    match only {
        Some(only) => command.arg(format!("--ginkgo.focus={only}")),
        None => command.args([r"--ginkgo.focus=\[Conformance\]", r"--ginkgo.skip=\[Serial\]"]),
    };
    let child = command
        .arg(format!("--kubeconfig={}", binary.kubeconfig.display()))
        .arg(format!("--kubectl-path={}", binary.kubectl.display()))
        .arg(format!("--num-nodes={}", binary.nodes))
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", binary.path.display()))?;
    Ok((child, output))
}

/// What a process prints.
#[derive(Clone, Debug)]
pub struct Output(PathBuf);

impl Output {
    #[must_use]
    pub fn length(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |meta| meta.len())
    }

    /// What was printed since a position, without its middle if it is very much.
    #[must_use]
    pub fn since(&self, position: u64) -> String {
        let read = |from: u64, most: u64| -> std::io::Result<String> {
            let mut file = File::open(&self.0)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(most).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let length = self.length();
        let text = if length.saturating_sub(position) <= OUTPUT {
            read(position, OUTPUT)
        } else {
            read(position, OUTPUT / 2)
                .and_then(|head| Ok(format!("{head}\n[…]\n{}", read(length - OUTPUT / 2, OUTPUT / 2)?)))
        };
        text.unwrap_or_default()
    }
}

/// Why a process died, as far as its output says.
#[must_use]
pub fn last_words(output: &str) -> &str {
    let telling = |line: &&str| {
        ["panic:", "fatal error:", "SIG", "signal:"]
            .iter()
            .any(|start| line.trim_start().starts_with(start))
    };
    output
        .lines()
        .find(telling)
        .or_else(|| output.lines().rfind(|line| !line.trim().is_empty()))
        .unwrap_or("it printed nothing")
}

/// Ends the test processes that an earlier start left behind on a folder below `root`, letting them clean up first.
pub async fn end_leftovers(root: &Path) {
    let flag = format!("{OUTPUT_FLAG}{}/", root.display());
    let running = || -> Vec<Pid> {
        let ours = |entry: std::fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read(entry.path().join("cmdline")).ok()?;
            let found = words
                .split(|byte| *byte == 0)
                .any(|word| word.starts_with(flag.as_bytes()));
            found.then(|| Pid::from_raw(pid)).flatten()
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| ours(entry.ok()?)).collect()
    };
    let signal = |pids: &[Pid], signal| {
        for pid in pids {
            // It may have ended meanwhile.
            let _ = kill_process(*pid, signal);
        }
    };
    let left = running();
    if left.is_empty() {
        return;
    }
    println!("ending {} test processes of an earlier start", left.len());
    signal(&left, Signal::TERM);
    let ended = async {
        while !running().is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    if tokio::time::timeout(LEFTOVER, ended).await.is_err() {
        signal(&running(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_by_its_panic_and_otherwise_by_the_last_line() {
        let output = "I1120 all is well\npanic: runtime error: index out of range\n\ngoroutine 7 [running]:\nmain.go\n";
        assert_eq!(last_words(output), "panic: runtime error: index out of range");
        assert_eq!(last_words("one\ntwo\n\n"), "two");
        assert_eq!(last_words(""), "it printed nothing");
    }

    #[test]
    fn very_long_output_keeps_its_beginning_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output(folder.path().join("log"));
        std::fs::write(&output.0, format!("skipped begin {} end", "x".repeat(3 << 20))).unwrap();
        let text = output.since(8);
        assert!(text.starts_with("begin") && text.ends_with("end") && text.len() < 2 << 20);
    }
}
