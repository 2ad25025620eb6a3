//! Restarts of agents and runtimes under pods that must not notice.

use serde_json::{Value, json};
use steersman_conformance::process::kill_and_wait;
use steersman_conformance::{Kubectl, Namespace, WEB_IMAGE, eventually};

use super::alone;

const PODS: usize = 30;

/// What must not change: name, container, restarts, and since when the pod is ready.
fn picture(ns: &Namespace) -> Vec<[Value; 4]> {
    let pods = ns.kubectl.get("pods -l app=steady");
    let one = |p: &Value| {
        let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions
            .into_iter()
            .find(|c| c["type"] == "Ready")
            .unwrap_or_default();
        let container = &p["status"]["containerStatuses"][0];
        [
            p["metadata"]["name"].clone(),
            container["containerID"].clone(),
            container["restartCount"].clone(),
            json!([ready["status"], ready["lastTransitionTime"]]),
        ]
    };
    let mut all: Vec<_> = pods["items"].as_array().into_iter().flatten().map(one).collect();
    all.sort_by_key(|p| p[0].to_string());
    all
}

/// A pod on each node starts and goes: its agent and its runtime work.
fn nodes_work(ns: &Namespace, round: &str) {
    for node in ["node-1", "node-2"] {
        let spec = json!({"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": WEB_IMAGE}]});
        let name = format!("{round}-{node}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        ns.kubectl.apply(&pod.to_string());
    }
    for node in ["node-1", "node-2"] {
        let name = format!("{round}-{node}");
        let _ = ns
            .kubectl
            .run(&format!("wait pod/{name} --for=condition=Ready --timeout=90s"))
            .ok();
        let _ = ns.kubectl.run(&format!("delete pod {name} --timeout=60s")).ok();
    }
}

#[test]
fn restarts_of_agents_and_runtimes_change_no_container_and_no_readiness() {
    let _alone = alone();
    let ns = Namespace::new("steady");
    let container = json!({"name": "c", "image": WEB_IMAGE, "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}, "periodSeconds": 2, "timeoutSeconds": 20},
        "livenessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}, "periodSeconds": 2, "timeoutSeconds": 20}});
    let labels = json!({"app": "steady"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "steady"},
        "spec": {"replicas": PODS, "selector": {"matchLabels": labels}, "template": template}});
    ns.kubectl.apply(&deployment.to_string());
    let _ = ns.kubectl.run("rollout status deployment/steady --timeout=180s").ok();
    let before = picture(&ns);
    assert_eq!(before.len(), PODS);

    for node in ["node-1", "node-2"] {
        kill_and_wait(&ns.cluster, &format!("{node}.kubelet"));
    }
    nodes_work(&ns, "agents");
    assert_eq!(picture(&ns), before, "after a restart of the agents");

    for node in ["node-1", "node-2"] {
        kill_and_wait(&ns.cluster, &format!("{node}.containerd"));
    }
    nodes_work(&ns, "runtimes");
    assert_eq!(picture(&ns), before, "after a restart of the runtimes");

    let admin = Kubectl::new(&ns.cluster);
    eventually("both nodes are ready", 30, || {
        let nodes = admin.run("get nodes --no-headers").ok();
        let ready = nodes.lines().all(|l| l.split_whitespace().nth(1) == Some("Ready"));
        if ready { Ok(()) } else { Err(nodes) }
    });
}
