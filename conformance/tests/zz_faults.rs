//! What survives when parts of the cluster are killed. Last, and one after the other: they disturb everything else.

use std::sync::{Mutex, MutexGuard};

use serde_json::Value;
use steersman_conformance::process::{kill_and_wait, signal};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Cluster, Kubectl, Namespace, WEB_IMAGE, eventually};

#[path = "zz_faults/nodes.rs"]
mod nodes;
#[path = "zz_faults/runtime.rs"]
mod runtime;
#[path = "zz_faults/servers.rs"]
mod servers;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A fault test that failed says nothing about the next one.
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn deploy(ns: &Namespace, replicas: u32) {
    let _ = ns
        .kubectl
        .run(&format!(
            "create deployment web --image={WEB_IMAGE} --replicas={replicas}"
        ))
        .ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
}

/// Name, container id, restart count and readiness of every pod.
fn containers(ns: &Namespace) -> Vec<(Value, Value, Value, Value)> {
    let pods = ns.kubectl.get("pods");
    let status = |p: &Value, field: &str| {
        p.pointer(&format!("/status/containerStatuses/0/{field}"))
            .cloned()
            .unwrap_or_default()
    };
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    pods.iter()
        .map(|p| {
            (
                p["metadata"]["name"].clone(),
                status(p, "containerID"),
                status(p, "restartCount"),
                status(p, "ready"),
            )
        })
        .collect()
}

#[test]
fn with_any_one_etcd_member_killed_no_request_fails() {
    let _alone = alone();
    let ns = Namespace::new("etcd");
    for member in ["etcd-1", "etcd-2", "etcd-3"] {
        let old = ns.cluster.pid(member).expect("the member runs");
        signal(old, libc::SIGKILL);
        for i in 0..10 {
            let _ = ns.kubectl.run(&format!("create configmap {member}-{i}")).ok();
            let _ = ns.kubectl.get(&format!("configmap {member}-{i}"));
        }
        eventually(&format!("{member} runs again"), 30, || {
            ns.cluster.pid(member).filter(|pid| *pid != old).ok_or(())
        });
        eventually("all members are healthy", 60, || {
            let output = etcdctl(&ns.cluster, &["endpoint", "health"]);
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }
    let names = ns.kubectl.run("get configmaps -o name").ok();
    assert_eq!(names.lines().filter(|l| l.contains("etcd-")).count(), 30, "{names}");
}

fn etcdctl(cluster: &Cluster, args: &[&str]) -> std::process::Output {
    let endpoints = "https://127.0.0.1:2379,https://127.0.0.1:2389,https://127.0.0.1:2399";
    let mut command = std::process::Command::new(cluster.tool("etcdctl"));
    command
        .args(["--endpoints", endpoints, "--cacert"])
        .arg(cluster.pki("etcd-ca.crt"));
    command
        .arg("--cert")
        .arg(cluster.pki("etcd-client.crt"))
        .arg("--key")
        .arg(cluster.pki("etcd-client.key"));
    command.args(args).output().expect("etcdctl")
}

#[test]
fn without_quorum_requests_fail_within_ten_seconds_and_work_again_afterwards() {
    let _alone = alone();
    let ns = Namespace::new("quorum");
    let paused = ["etcd-1", "etcd-2"].map(|m| ns.cluster.pid(m).expect("the member runs"));
    paused.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
    let timed = |args: &str| {
        let start = std::time::Instant::now();
        let output = ns.kubectl.run(args);
        (start.elapsed(), output)
    };
    let write = timed("create configmap c");
    let read = timed("get configmaps");
    paused.iter().for_each(|pid| signal(*pid, libc::SIGCONT));
    for (took, refused) in [write, read] {
        assert_ne!(refused.code, 0, "answered without quorum: {}", refused.stdout);
        assert!(took.as_secs() <= 11, "it took {took:?}: {}", refused.stderr);
    }
    eventually("writes work again", 30, || {
        let output = ns.kubectl.run("create configmap again");
        if output.code == 0 || output.stderr.contains("already exists") {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
}

#[test]
fn a_killed_api_server_comes_back_with_everything_that_was_acknowledged() {
    let _alone = alone();
    let ns = Namespace::new("apiserver");
    deploy(&ns, 2);
    for round in 0..3 {
        let _ = ns.kubectl.run(&format!("create configmap kept-{round}")).ok();
        kill_and_wait(&ns.cluster, "kube-apiserver");
        eventually("the API server is ready", 30, || {
            let ready = ns.kubectl.run("get --raw /readyz");
            if ready.code == 0 { Ok(()) } else { Err(ready.stderr) }
        });
        let _ = ns.kubectl.get(&format!("configmap kept-{round}"));
    }
    let _ = ns.kubectl.run("scale deployment web --replicas=3").ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
}

#[test]
fn killed_controllers_and_schedulers_go_on_where_they_were() {
    let _alone = alone();
    let ns = Namespace::new("control");
    kill_and_wait(&ns.cluster, "kube-controller-manager");
    kill_and_wait(&ns.cluster, "kube-scheduler");
    deploy(&ns, 2);
    let _ = ns.kubectl.run("scale deployment web --replicas=4").ok();
    kill_and_wait(&ns.cluster, "kube-scheduler");
    kill_and_wait(&ns.cluster, "kube-controller-manager");
    eventually_eq("exactly four ready pods", 90, 4, || {
        containers(&ns).iter().filter(|c| c.3 == Value::Bool(true)).count()
    });
    assert_eq!(containers(&ns).len(), 4);
}

#[test]
fn a_killed_agent_restarts_no_container_and_loses_no_readiness() {
    let _alone = alone();
    let ns = Namespace::new("agent");
    deploy(&ns, 4);
    let before = containers(&ns);
    for node in ["node-1", "node-2"] {
        kill_and_wait(&ns.cluster, &format!("{node}.kubelet"));
    }
    let admin = Kubectl::new(&ns.cluster);
    // Only a kubelet that works creates a pod: when one runs on each node, both have taken over what was there.
    for node in ["node-1", "node-2"] {
        ns.kubectl.apply(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"probe-{node}"}},"spec":{{"nodeName":"{node}","terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"{WEB_IMAGE}"}}]}}}}"#
        ));
        let _ = ns
            .kubectl
            .run(&format!("wait pod/probe-{node} --for=condition=Ready --timeout=60s"))
            .ok();
        let _ = ns.kubectl.run(&format!("delete pod probe-{node} --timeout=60s")).ok();
    }
    assert_eq!(containers(&ns), before);
    let nodes = admin.run("get nodes --no-headers").ok();
    assert!(
        nodes.lines().all(|l| l.split_whitespace().nth(1) == Some("Ready")),
        "{nodes}"
    );
}
