//! A cell of the swap: the cluster comes up with this mixture of programs, runs a Deployment, and passes the suites.

use steersman_conformance::{Namespace, WEB_IMAGE, eventually};

use crate::findings::Findings;
use crate::suites::{self, Suites};

/// The check that needs every one of the six programs: a Deployment's pods run and answer by their Service's name.
///
/// # Errors
/// What was seen instead.
pub fn runs_a_deployment() -> Result<(), String> {
    let ns = Namespace::new("swap");
    let _ = ns
        .kubectl
        .run(&format!("create deployment web --image={WEB_IMAGE} --replicas=2"))
        .ok();
    let _ = ns
        .kubectl
        .run("expose deployment web --port=80 --target-port=8080")
        .ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
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

/// Runs every suite against the cluster in `state`; logs go into `logs`.
pub fn run_suites(findings: &mut Findings, suites: &Suites, state: &std::path::Path, logs: &std::path::Path) {
    for (name, program) in suites {
        match suites::run(name, program, state, &logs.join(format!("{name}.log"))) {
            Ok(outcome) => findings.suite(name, outcome),
            Err(e) => findings.failed.push(format!("{name}: {e:#}")),
        }
    }
}
