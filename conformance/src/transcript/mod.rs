//! Shell sessions with stock kubectl, as files: what a user types and what kubectl then prints, word for word.
//!
//! Played by `tests/kubectl_day.rs` from `transcripts/*.txt`, each in a namespace and a folder of its own. A file is text with
//! indented blocks:
//!
//! ```text
//! Unindented lines say what it is about.
//!
//!   $ kubectl create configmap c
//!   configmap/c created
//!   $ kubectl get configmap none
//!   Error from server (NotFound): configmaps "none" not found
//!   [1]
//!   ~ kubectl get pods -o name | wc -l
//!   2
//! ```
//!
//! `$` runs a line of `sh`, in which `kubectl` has the admin's rights and the namespace; `>` continues it. What follows is what it
//! prints on both outputs, and `[N]` an exit status that is not 0. `~` is repeated until it prints that. What differs from
//! run to run (addresses, ages, generated names…) is replaced by placeholders on both sides, see [`normal`].
//!
//! With `STEERSMAN_RECORD=1` the outputs of `$` are written into the files instead of being compared: recorded against
//! upstream's programs, they are the expectation.

pub mod normal;
mod parse;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Namespace;
use normal::Normal;
pub use parse::{Line, Step, parse, render};

/// No line of a transcript may take longer; for what never comes to an end.
const PATIENCE_SECONDS: u64 = 90;
/// How long a `~` may take to come true.
const EVENTUALLY: Duration = Duration::from_secs(90);

/// What a namespace's transcripts run in.
pub struct Stage {
    pub ns: Namespace,
    folder: PathBuf,
    normal: Normal,
}

impl Stage {
    /// A namespace, and a folder in which `kubectl` is the wrapper that knows both kubeconfig and namespace.
    ///
    /// # Panics
    /// When either cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let ns = Namespace::new(name);
        let folder = std::env::temp_dir().join(format!("steersman-{}", ns.name));
        let bin = folder.join(".bin");
        std::fs::create_dir_all(&bin).expect("a temporary folder");
        let wrapper = format!(
            "#!/bin/sh\nexec '{}' --kubeconfig '{}' --namespace {} \"$@\"\n",
            ns.cluster.tool("kubectl").display(),
            ns.cluster.kubeconfig().display(),
            ns.name
        );
        let path = bin.join("kubectl");
        std::fs::write(&path, wrapper).expect("a file in it");
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("made executable");
        let normal = Normal::new(&ns.name, &folder);
        Self { ns, folder, normal }
    }

    /// Runs one line; what it prints, with placeholders, and `[N]` if it failed.
    ///
    /// # Panics
    /// When there is no shell.
    #[must_use]
    pub fn run(&self, command: &str) -> Vec<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let line = format!("exec 2>&1\n{command}");
        let output = Command::new("timeout")
            .args(["-k", "5", &PATIENCE_SECONDS.to_string(), "sh", "-c", &line])
            .current_dir(&self.folder)
            .env_remove("KUBECONFIG")
            .env("PATH", format!("{}:{path}", self.folder.join(".bin").display()))
            .env("NS", &self.ns.name)
            .env("TMPDIR", &self.folder)
            // Two clusters at the same address are not mistaken for one another.
            .env(
                "KUBECACHEDIR",
                self.ns.cluster.kubeconfig().with_file_name("kubectl-cache"),
            )
            .stdin(Stdio::null())
            .output()
            .expect("sh starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = self.normal.lines(&text);
        match output.status.code() {
            Some(0) => {}
            code => lines.push(format!("[{}]", code.unwrap_or(-1))),
        }
        lines
    }

    /// Repeats a line until it prints `expected`; what it printed last.
    fn until(&self, command: &str, expected: &[String]) -> Vec<String> {
        let deadline = Instant::now() + EVENTUALLY;
        loop {
            let printed = self.run(command);
            if printed == expected || Instant::now() > deadline {
                return printed;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What is left of it is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Plays `transcripts/NAME.txt`.
///
/// # Panics
/// When something else was printed than the file says, with every difference.
pub fn play(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("transcripts/{name}.txt"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let record = std::env::var_os("STEERSMAN_RECORD").is_some();
    let mut lines = parse(&text);
    let stage = Stage::new(name);
    let mut differences = String::new();
    for line in &mut lines {
        let Line::Step(step) = line else { continue };
        let started = Instant::now();
        let printed = if step.eventually {
            stage.until(&step.command, &step.expected)
        } else {
            stage.run(&step.command)
        };
        let millis = started.elapsed().as_millis();
        if printed == step.expected {
            eprintln!("{millis:>6} ms  {}", step.command);
        } else if record && !step.eventually {
            step.expected = printed;
        } else {
            let said = difference(step, &printed);
            eprintln!("{millis:>6} ms  {said}");
            differences.push_str(&said);
        }
    }
    if record {
        std::fs::write(&file, render(&lines)).expect("the transcript can be written");
    }
    assert!(differences.is_empty(), "{name} went otherwise:\n{differences}");
}

fn difference(step: &Step, printed: &[String]) -> String {
    let mut out = format!("$ {}\n", step.command);
    let all: Vec<&String> = step.expected.iter().chain(printed).collect();
    let mut seen: Vec<&String> = Vec::new();
    for line in all {
        let (wanted, got) = (count(&step.expected, line), count(printed, line));
        if seen.contains(&line) {
            continue;
        }
        seen.push(line);
        for _ in got..wanted {
            let _ = writeln!(out, "-   {line}");
        }
        for _ in wanted..got {
            let _ = writeln!(out, "+   {line}");
        }
    }
    if out.lines().count() == step.command.lines().count() {
        let _ = writeln!(out, "    in another order: {printed:#?}");
    }
    out
}

fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|l| *l == line).count()
}
