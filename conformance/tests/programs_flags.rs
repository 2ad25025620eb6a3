//! Bad command lines: one clear line, a status that is not zero, at once.

use std::process::{Command, Stdio};

use steersman_conformance::Cluster;

const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "cluster-dns",
];

/// Status and complaint of a program that must not start.
fn refuse(program: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("10").arg(Cluster::here().tool(program)).args(args);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code().is_some_and(|c| c != 0 && c != 124),
        "{program} {args:?}: {:?} {text}",
        output.status
    );
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{program} {args:?} says: {text}");
    text
}

#[test]
fn an_unknown_flag_is_named() {
    for program in PROGRAMS {
        let text = refuse(program, &["--no-such-flag=1"]);
        assert!(text.contains("--no-such-flag"), "{program}: {text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    for (program, args) in [
        ("kube-controller-manager", vec!["--kubeconfig=/nowhere/kubeconfig"]),
        ("kube-scheduler", vec!["--kubeconfig=/nowhere/kubeconfig"]),
        ("cluster-dns", vec!["--kubeconfig=/nowhere/kubeconfig"]),
        (
            "kubelet",
            vec!["--config=/nowhere/config.yaml", "--kubeconfig=/nowhere/kubeconfig"],
        ),
        ("kube-proxy", vec!["--config=/nowhere/config.yaml"]),
        (
            "kube-apiserver",
            vec![
                "--secure-port=16999",
                "--etcd-servers=https://127.0.0.1:1",
                "--client-ca-file=/nowhere/ca.crt",
                "--service-account-issuer=https://x",
                "--service-account-key-file=/nowhere/sa.pub",
                "--service-account-signing-key-file=/nowhere/sa.key",
            ],
        ),
    ] {
        let text = refuse(program, &args);
        assert!(text.contains("/nowhere/"), "{program}: {text}");
    }
}

#[test]
fn a_bad_value_is_named_with_its_flag() {
    for (program, flag) in [
        ("kube-apiserver", "--secure-port=many"),
        ("kube-controller-manager", "--leader-elect-lease-duration=soon"),
        ("kube-scheduler", "--secure-port=many"),
        ("kubelet", "--v=loud"),
        ("kube-proxy", "--v=loud"),
        ("cluster-dns", "--v=loud"),
    ] {
        let text = refuse(program, &[flag]);
        let (name, value) = flag.split_once('=').expect("a value");
        assert!(text.contains(name) && text.contains(value), "{program}: {text}");
    }
}
