//! StatefulSets, DaemonSets and ReplicationControllers as a user works with them: order, identity, updates, undo, mirrors.

use std::collections::BTreeSet;

use serde_json::Value;
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, WEB_IMAGE, WEB_IMAGE_2, eventually};

fn stateful(policy: &str, strategy: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: {policy}
  updateStrategy: {strategy}
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: web, image: '{WEB_IMAGE}', readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1, timeoutSeconds: 20}}}}]
"
    )
}

fn daemon(strategy: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  updateStrategy: {strategy}
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: web, image: '{WEB_IMAGE}'}}]
"
    )
}

/// `name=value` per pod that is not being deleted, sorted.
fn pods(ns: &Namespace, pointer: &str) -> Vec<String> {
    let list = ns.kubectl.get("pods");
    let mut found: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            let value = pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            format!("{}={value}", pod["metadata"]["name"].as_str().unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

const IMAGE: &str = "/spec/containers/0/image";

#[test]
fn stateful_pods_come_in_order_are_updated_in_reverse_and_undone() {
    let ns = Namespace::new("stateful");
    ns.kubectl.apply(&stateful("OrderedReady", "{type: RollingUpdate}"));
    let _ = ns.kubectl.run("rollout status statefulset/db --timeout=90s").ok();
    let first = ns.kubectl.field("pod db-0", "/status/startTime");
    let ready = ns.kubectl.get("pod db-0")["status"]["conditions"]
        .as_array()
        .and_then(|c| c.iter().find(|c| c["type"] == "Ready").cloned())
        .unwrap_or_default();
    let second = ns.kubectl.field("pod db-1", "/metadata/creationTimestamp");
    assert!(
        ready["lastTransitionTime"].as_str() <= second.as_str(),
        "db-1 before db-0 was ready: {first}"
    );
    assert_eq!(
        pods(&ns, "/metadata/labels/apps.kubernetes.io~1pod-index"),
        ["db-0=0", "db-1=1"]
    );
    let _ = ns
        .kubectl
        .run(&format!("set image statefulset/db web={WEB_IMAGE_2}"))
        .ok();
    let _ = ns.kubectl.run("rollout status statefulset/db --timeout=90s").ok();
    let updated = [format!("db-0={WEB_IMAGE_2}"), format!("db-1={WEB_IMAGE_2}")];
    assert_eq!(pods(&ns, IMAGE), updated);
    let _ = ns.kubectl.run("rollout undo statefulset/db").ok();
    let _ = ns.kubectl.run("rollout status statefulset/db --timeout=90s").ok();
    assert_eq!(
        pods(&ns, IMAGE),
        [format!("db-0={WEB_IMAGE}"), format!("db-1={WEB_IMAGE}")]
    );
    let history = ns.kubectl.run("rollout history statefulset/db").ok();
    assert!(
        history.lines().any(|l| l.starts_with('3')) && !history.lines().any(|l| l.starts_with('1')),
        "{history}"
    );
    let events = ns
        .kubectl
        .run("get events --field-selector=reason=SuccessfulCreate")
        .ok();
    assert!(
        events.contains("Create Pod db-0 in StatefulSet db successful"),
        "{events}"
    );
}

#[test]
fn a_partition_holds_an_update_back_and_scaling_removes_the_highest_number() {
    let ns = Namespace::new("partition");
    ns.kubectl.apply(&stateful(
        "Parallel",
        "{type: RollingUpdate, rollingUpdate: {partition: 1}}",
    ));
    let _ = ns.kubectl.run("rollout status statefulset/db --timeout=90s").ok();
    let _ = ns
        .kubectl
        .run(&format!("set image statefulset/db web={WEB_IMAGE_2}"))
        .ok();
    let held = vec![format!("db-0={WEB_IMAGE}"), format!("db-1={WEB_IMAGE_2}")];
    eventually_eq("only db-1 has the update", 60, held.clone(), || pods(&ns, IMAGE));
    let _ = ns.kubectl.run("delete pod db-0 --wait=false").ok();
    eventually_eq("db-0 comes back as it was", 60, held, || pods(&ns, IMAGE));
    let _ = ns.kubectl.run("scale statefulset db --replicas=1").ok();
    eventually_eq("db-1 goes", 60, vec!["db-0=db-0".to_owned()], || {
        pods(&ns, "/spec/hostname")
    });
}

#[test]
fn a_daemon_runs_once_per_node_and_follows_labels_and_updates() {
    let ns = Namespace::new("daemon");
    ns.kubectl.apply(&daemon(
        "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
    ));
    let _ = ns.kubectl.run("rollout status daemonset/agent --timeout=60s").ok();
    let nodes = || {
        let mut nodes: Vec<String> = pods(&ns, "/spec/nodeName")
            .iter()
            .filter_map(|pod| Some(pod.split_once('=')?.1.to_owned()))
            .collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(), ["node-1", "node-2"]);
    let _ = ns
        .kubectl
        .run(&format!("set image daemonset/agent web={WEB_IMAGE_2}"))
        .ok();
    let _ = ns.kubectl.run("rollout status daemonset/agent --timeout=60s").ok();
    eventually_eq(
        "the old pods go",
        30,
        vec!["node-1".to_owned(), "node-2".to_owned()],
        nodes,
    );
    assert!(pods(&ns, IMAGE).iter().all(|pod| pod.ends_with(WEB_IMAGE_2)));
    let _ = ns.kubectl.run("rollout undo daemonset/agent").ok();
    let _ = ns.kubectl.run("rollout status daemonset/agent --timeout=60s").ok();
    eventually("the old image is back", 30, || {
        let images = pods(&ns, IMAGE);
        images
            .iter()
            .all(|pod| pod.ends_with(WEB_IMAGE))
            .then_some(())
            .ok_or(images)
    });
    let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"no-such-label":"x"}}}}}"#;
    let _ = ns.kubectl.run_of(&["patch", "daemonset", "agent", "-p", nowhere]).ok();
    eventually_eq("no node is wanted", 30, Vec::<String>::new(), nodes);
}

#[test]
fn a_replication_controller_keeps_its_pods_and_releases_what_it_no_longer_selects() {
    let ns = Namespace::new("replication");
    ns.kubectl.apply(&format!(
        "apiVersion: v1
kind: ReplicationController
metadata: {{name: old}}
spec:
  replicas: 2
  selector: {{app: old}}
  template:
    metadata: {{labels: {{app: old}}}}
    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: web, image: '{WEB_IMAGE}'}}]}}
"
    ));
    let ready = || ns.kubectl.field("rc old", "/status/readyReplicas");
    eventually_eq("two ready pods", 60, Value::from(2), ready);
    let one = pods(&ns, "/metadata/uid").remove(0);
    let name = one.split('=').next().unwrap_or_default();
    let _ = ns.kubectl.run(&format!("label pod {name} app=other --overwrite")).ok();
    eventually_eq("a third pod, one of them free", 60, 3, || {
        pods(&ns, "/metadata/uid").len()
    });
    eventually_eq("nobody's", 10, Value::Null, || {
        ns.kubectl.field(&format!("pod {name}"), "/metadata/ownerReferences")
    });
}

#[test]
fn endpoints_of_a_service_without_selector_are_mirrored() {
    let ns = Namespace::new("mirror");
    ns.kubectl.apply(
        "apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 192.0.2.1}, {ip: 192.0.2.2}], ports: [{port: 8080}]}]
",
    );
    let addresses = || {
        let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=outside");
        let endpoints = slices["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints
            .iter()
            .filter_map(|e| e["addresses"][0].as_str().map(str::to_owned))
            .collect::<BTreeSet<_>>()
    };
    let both = ["192.0.2.1", "192.0.2.2"].map(str::to_owned);
    eventually_eq("both addresses", 20, BTreeSet::from(both), addresses);
    let _ = ns.kubectl.run("delete endpoints outside").ok();
    eventually_eq("none", 20, BTreeSet::new(), addresses);
}
