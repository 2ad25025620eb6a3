//! A cluster of one side's programs, in a network namespace and a folder of its own: `hack/up` without and with `--bin`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::figure::Figure;

/// No benchmark takes longer.
const LIMIT_SECONDS: u32 = 900;

/// Ours, or upstream's. What it made goes away when it is dropped.
pub struct Side {
    pub name: &'static str,
    /// The folder with the side's programs.
    programs: PathBuf,
    /// Where programs come from that the other folder does not have (upstream has no cluster DNS).
    fallback: PathBuf,
    repo: PathBuf,
    state: PathBuf,
    network: PathBuf,
}

impl Side {
    /// # Errors
    /// The network namespace cannot be made: this needs root.
    pub fn new(name: &'static str, programs: &Path, fallback: &Path) -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let folder = repo.join(".cluster/bench");
        let state = folder.join(name);
        std::fs::create_dir_all(&state)?;
        let shared = repo.join(".cluster/cache");
        std::fs::create_dir_all(&shared)?;
        if !state.join("cache").exists() {
            std::os::unix::fs::symlink(&shared, state.join("cache"))?;
        }
        let side = Self {
            name,
            programs: programs
                .canonicalize()
                .with_context(|| programs.display().to_string())?,
            fallback: fallback
                .canonicalize()
                .with_context(|| fallback.display().to_string())?,
            repo,
            network: folder.join(format!("{name}.net")),
            state,
        };
        side.leave();
        std::fs::write(&side.network, "")?;
        let pinned = Command::new("unshare")
            .arg(format!("--net={}", side.network.display()))
            .arg("true")
            .status()?;
        if !pinned.success() {
            bail!("no network namespace could be made: side by side needs root");
        }
        finish(side.inside("ip").args(["link", "set", "lo", "up"]))?;
        // Of a run that was interrupted.
        finish(&mut side.inside("hack/down"))?;
        Ok(side)
    }

    /// A command in the side's network namespace, with its cluster as the one that is meant.
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network.display()))
            .arg(program)
            .current_dir(&self.repo)
            .env("STEERSMAN_STATE", &self.state)
            .env("STEERSMAN_CGROUP", format!("steersman-bench-{}", self.name))
            // Room for a crowd.
            .env("STEERSMAN_MAX_PODS", "252")
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null());
        command
    }

    /// Brings the cluster up, or to another number of nodes; seconds that it took. One etcd member: what is compared is
    /// not etcd.
    pub fn up(&self, nodes: usize) -> Result<f64> {
        let begin = Instant::now();
        let mut up = self.inside("hack/up");
        up.args(["--no-build", "--etcd", "1", "--nodes", &nodes.to_string(), "--bin"])
            .arg(&self.fallback);
        finish(up.arg("--bin").arg(&self.programs))?;
        Ok(begin.elapsed().as_secs_f64())
    }

    pub fn down(&self) -> Result<()> {
        finish(&mut self.inside("hack/down"))
    }

    /// Runs benchmarks in this program again, inside; their figures.
    pub fn measure(&self, arguments: &[&str]) -> Result<Vec<Figure>> {
        let mut command = self.inside("timeout");
        command
            .arg(LIMIT_SECONDS.to_string())
            .arg(std::env::current_exe()?)
            .args(arguments)
            .arg("--json");
        let output = command.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures = text.lines().map(Figure::parse).collect::<Result<Vec<_>>>()?;
        if !output.status.success() {
            // What was measured before is kept.
            eprintln!("  {}: {} ended with {}", self.name, arguments.join(" "), output.status);
        }
        Ok(figures)
    }

    fn leave(&self) {
        // Not there is as good.
        let _ = Command::new("umount").arg(&self.network).stderr(Stdio::null()).status();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("{}: {error:#}", self.name);
        }
        self.leave();
        let _ = std::fs::remove_file(&self.network);
    }
}

/// Runs a command that must succeed; its output is shown only when it does not.
fn finish(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    bail!(
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&text).trim()
    )
}
