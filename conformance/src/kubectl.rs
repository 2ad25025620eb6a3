//! Stock kubectl against the cluster.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Cluster;

/// kubectl with the admin's kubeconfig, and perhaps a namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    cluster: Cluster,
    namespace: Option<String>,
}

/// What a finished kubectl left.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The output of a command that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "kubectl failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The complaint of a command that must have failed.
    ///
    /// # Panics
    /// When it succeeded.
    #[must_use]
    pub fn refused(self) -> String {
        assert_ne!(self.code, 0, "kubectl succeeded: {}", self.stdout);
        self.stderr
    }
}

impl Kubectl {
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            namespace: None,
        }
    }

    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            cluster: self.cluster.clone(),
            namespace: Some(namespace.to_owned()),
        }
    }

    /// The command, ready to be run or changed. `args` is split at blanks; quote nothing, use [`Self::command_of`] for
    /// arguments with blanks.
    #[must_use]
    pub fn command(&self, args: &str) -> Command {
        self.command_of(&args.split_whitespace().collect::<Vec<_>>())
    }

    #[must_use]
    pub fn command_of(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.cluster.tool("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .arg("--request-timeout=60s");
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args).env_remove("KUBECONFIG").stdin(Stdio::null());
        command
    }

    /// Runs `kubectl ARGS`, split at blanks.
    #[must_use]
    pub fn run(&self, args: &str) -> Output {
        finish(&mut self.command(args))
    }

    #[must_use]
    pub fn run_of(&self, args: &[&str]) -> Output {
        finish(&mut self.command_of(args))
    }

    /// Runs `kubectl ARGS` with `input` on standard input.
    ///
    /// # Panics
    /// When kubectl cannot be started.
    #[must_use]
    pub fn run_with(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command_of(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let input = input.to_owned();
        // kubectl may stop reading early; what it made of that is in its output.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().expect("kubectl ends");
        drop(writer.join());
        collected(&output)
    }

    /// `kubectl get ARGS -o json`, which must succeed.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    #[must_use]
    pub fn get(&self, args: &str) -> Value {
        let text = self.run(&format!("get {args} -o json")).ok();
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// One field, by JSON pointer, of what `kubectl get ARGS` shows; `Null` when object or field is missing.
    #[must_use]
    pub fn field(&self, args: &str, pointer: &str) -> Value {
        let output = self.run(&format!("get {args} -o json"));
        let object: Value = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
        object.pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// Applies YAML from memory.
    ///
    /// # Panics
    /// When it is refused.
    pub fn apply(&self, yaml: &str) {
        let _ = self.run_with(&["apply", "-f", "-"], yaml).ok();
    }
}

fn finish(command: &mut Command) -> Output {
    collected(&command.output().expect("kubectl starts"))
}

fn collected(output: &std::process::Output) -> Output {
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
