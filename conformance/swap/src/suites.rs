//! The black-box suites: built once, copied aside, run one after the other on a cell's cluster.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::clusters::{Place, last_lines, run_logged};

/// The areas that say whether a cluster works. The others ask about a single program (`programs_`), about `hack/` (`up_`)
/// or destroy the cluster (`zz_`).
pub const AREAS: [&str; 5] = ["workload_", "service_", "node_", "kubectl_", "dns_"];

/// A suite that hangs is a failed one.
const LIMIT: Duration = Duration::from_secs(600);

/// Name and test program, by name.
pub type Suites = BTreeMap<String, PathBuf>;

/// Builds the black-box suites and copies them, so that a later build changes nothing under a run; gives the wanted ones
/// (by name, or by the beginning of it up to an underscore).
///
/// # Errors
/// The build fails, or a wanted suite does not exist.
pub fn prepare(place: &Place, wanted: &[String], build: bool) -> Result<Suites> {
    let folder = place.state.join("suites");
    std::fs::create_dir_all(&folder)?;
    if build {
        copy_built(&place.repo, &folder)?;
    }
    let mut known = Suites::new();
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        known.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    let mut suites = Suites::new();
    for pattern in wanted {
        let fits = |name: &str| name == pattern || (pattern.ends_with('_') && name.starts_with(pattern.as_str()));
        let fitting: Suites = known
            .iter()
            .filter(|(n, _)| fits(n))
            .map(|(n, f)| (n.clone(), f.clone()))
            .collect();
        if fitting.is_empty() {
            let all: Vec<String> = known.into_keys().collect();
            bail!("no suite is called {pattern}; there are: {}", all.join(" "));
        }
        suites.extend(fitting);
    }
    Ok(suites)
}

fn copy_built(repo: &Path, folder: &Path) -> Result<()> {
    let arguments =
        "test --profile bench --package steersman-conformance --tests --no-run --message-format=json --quiet";
    let output = Command::new("cargo")
        .current_dir(repo)
        .args(arguments.split(' '))
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("the suites do not build");
    }
    std::fs::remove_dir_all(folder)?;
    std::fs::create_dir_all(folder)?;
    for (name, file) in executables(&String::from_utf8_lossy(&output.stdout)) {
        std::fs::copy(file, folder.join(name))?;
    }
    Ok(())
}

/// The test programs that cargo says it built.
fn executables(messages: &str) -> Suites {
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    built
        .filter(|m| m["target"]["kind"] == serde_json::json!(["test"]))
        .filter_map(|m| {
            Some((
                m["target"]["name"].as_str()?.to_owned(),
                PathBuf::from(m["executable"].as_str()?),
            ))
        })
        .collect()
}

/// What one suite said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    /// Names of the tests that failed, or why there are none.
    pub failed: Vec<String>,
}

/// Runs one suite against the cluster whose folder is `state`; its output stays in `log`.
///
/// # Errors
/// It cannot be started. Tests that fail are no error.
pub fn run(name: &str, program: &Path, state: &Path, log: &Path) -> Result<Outcome> {
    let mut command = Command::new(program);
    command
        .env("STEERSMAN_STATE", OsString::from(state))
        .env("RUST_BACKTRACE", "0");
    let code = run_logged(&mut command, log, LIMIT)?;
    let mut outcome = parse(&String::from_utf8_lossy(&std::fs::read(log)?));
    for test in &mut outcome.failed {
        *test = format!("{name}::{test}");
    }
    match code {
        Some(0) => {}
        None => outcome
            .failed
            .push(format!("{name} did not end within {} s", LIMIT.as_secs())),
        Some(code) if outcome.failed.is_empty() => {
            outcome
                .failed
                .push(format!("{name} ended with {code}: {}", last_lines(log, 2)));
        }
        Some(_) => {}
    }
    Ok(outcome)
}

/// Reads the lines of Rust's test harness.
fn parse(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in text.lines() {
        let Some((test, verdict)) = line.strip_prefix("test ").and_then(|l| l.rsplit_once(" ... ")) else {
            continue;
        };
        match verdict {
            "ok" => outcome.passed += 1,
            "FAILED" => outcome.failed.push(test.to_owned()),
            _ => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_output_is_read_as_it_is_printed() {
        let text = "\nrunning 3 tests\ntest a ... ok\ntest b has been running for over 60 seconds\ntest b ... FAILED\ntest c ... ignored\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 1 ignored\n";
        let expected = Outcome {
            passed: 1,
            failed: vec!["b".to_owned()],
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn only_test_programs_are_taken_from_what_cargo_built() {
        let text = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"l"},"executable":"/l"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"dns_names"},"executable":"/d"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executables(text),
            Suites::from([("dns_names".to_owned(), PathBuf::from("/d"))])
        );
    }
}
