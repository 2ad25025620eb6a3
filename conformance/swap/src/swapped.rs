//! A cell of the swap: the cluster comes up with this mixture of programs, runs a Deployment, and passes the suites.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use steersman_conformance::{Namespace, eventually};

use crate::findings::Findings;
use crate::suites::{self, Suites};

/// The check that needs every one of the six programs: a Deployment's pods run and answer by their Service's name.
///
/// # Errors
/// What was seen instead.
pub fn runs_a_deployment() -> Result<(), String> {
    let ns = Namespace::new("swap");
    ns.serve_web("");
    eventually("the pods answer by their service's name", 30, || {
        let answer = ns
            .kubectl
            .run("exec deployment/web -- timeout 5 wget -q -O - http://web/");
        if answer.stdout.contains("version 1") {
            Ok(())
        } else {
            Err(answer)
        }
    });
    let _ = ns.kubectl.run("delete deployment web --timeout=60s").ok();
    eventually("the pods go with their Deployment", 60, || {
        let left = ns.kubectl.run("get pods -o name");
        if left.code == 0 && left.stdout.is_empty() {
            Ok(())
        } else {
            Err(left)
        }
    });
    Ok(())
}

/// Suites that run at a time: they wait more than they compute.
const AT_A_TIME: usize = 3;

/// Runs every suite against the cluster in `state`; logs go into `logs`.
pub fn run_suites(findings: &mut Findings, suites: &Suites, state: &Path, logs: &Path) {
    let waiting = Mutex::new(suites.iter());
    let findings = Mutex::new(findings);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                // A lock of its own, so that others may take theirs while this one runs.
                while let Some((name, program)) = lock(&waiting).next() {
                    match suites::run(name, program, state, &logs.join(format!("{name}.log"))) {
                        Ok(outcome) => lock(&findings).suite(name, outcome),
                        Err(e) => lock(&findings).failed.push(format!("{name}: {e:#}")),
                    }
                }
            });
        }
    });
}

/// What a panicking thread left is still what was found.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
