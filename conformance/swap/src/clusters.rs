//! Bringing clusters up and down through `hack/`, in the folder and network namespace that `hack/swap` chose.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use steersman_conformance::{Cluster, eventually};

/// A cluster that does not come up within this has failed.
const UP_LIMIT: Duration = Duration::from_secs(240);

/// The checkout, and where results go.
#[derive(Clone, Debug)]
pub struct Place {
    pub repo: PathBuf,
    /// `STEERSMAN_STATE`: the clusters' own folder.
    pub state: PathBuf,
}

impl Place {
    /// Removes whatever an earlier cell, or an interrupted one, left.
    ///
    /// # Errors
    /// `hack/down` fails.
    pub fn down(&self, log: &Path) -> Result<()> {
        self.run(Command::new(self.repo.join("hack/down")), log, Duration::from_secs(120))
    }

    /// `hack/up` with these programs and further flags.
    ///
    /// # Errors
    /// The cluster does not come up, with the last lines that `hack/up` said.
    pub fn up(&self, programs: &[(&str, PathBuf)], flags: &[&str], log: &Path) -> Result<Cluster> {
        let mut command = Command::new(self.repo.join("hack/up"));
        command.arg("--no-build").args(flags);
        for (name, file) in programs {
            command.arg("--bin").arg(format!("{name}={}", file.display()));
        }
        self.run(command, log, UP_LIMIT)?;
        let cluster = Cluster::here();
        for (name, file) in programs {
            runs(&cluster, name, file)?;
        }
        Ok(cluster)
    }

    fn run(&self, mut command: Command, log: &Path, limit: Duration) -> Result<()> {
        command.env("STEERSMAN_STATE", &self.state);
        let what = command.get_program().to_string_lossy().into_owned();
        match run_logged(&mut command, log, limit)? {
            Some(0) => Ok(()),
            Some(_) => bail!("{what} failed: {}", last_lines(log, 4)),
            None => bail!(
                "{what} did not end within {} s: {}",
                limit.as_secs(),
                last_lines(log, 4)
            ),
        }
    }
}

/// Runs a command with its output in a file; its exit code, or none if it had to be killed after `limit`.
///
/// # Errors
/// It cannot be started.
pub fn run_logged(command: &mut Command, log: &Path, limit: Duration) -> Result<Option<i32>> {
    use std::os::unix::process::CommandExt;
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or(-1)));
        }
        if Instant::now() > deadline {
            let group = -i32::try_from(child.id())?;
            steersman_conformance::process::signal(group, libc::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The end of a log, on one line.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}

/// Whether a program's processes run from the file that this cell wants: a table must not lie about whose program it was.
/// A script shows its interpreter instead, and is not checked.
fn runs(cluster: &Cluster, name: &str, file: &Path) -> Result<()> {
    let mut start = [0; 2];
    std::io::Read::read_exact(&mut File::open(file)?, &mut start)?;
    if &start == b"#!" {
        return Ok(());
    }
    let wanted = file.canonicalize()?;
    let names = match name {
        "kubelet" | "kube-proxy" => vec![format!("node-1.{name}"), format!("node-2.{name}")],
        other => vec![other.to_owned()],
    };
    for name in names {
        let pid = eventually(&format!("{name} runs"), 20, || cluster.pid(&name).ok_or("no process"));
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))?;
        if exe != wanted {
            bail!("{name} runs {}, not {}", exe.display(), wanted.display());
        }
    }
    Ok(())
}
