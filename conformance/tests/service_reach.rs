//! Services: reached by address and by name, from pods on every node, and from a node's port.

use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, Nodes, WEB_IMAGE, eventually};

/// A client pod pinned to a node.
fn client_on(ns: &Namespace, node: &str) -> String {
    let name = format!("client-{node}");
    ns.kubectl.apply(&format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"nodeName":"{node}","terminationGracePeriodSeconds":0,
        "containers":[{{"name":"c","image":"busybox:1.36","imagePullPolicy":"IfNotPresent","command":["sleep","100000"]}}]}}}}"#
    ));
    let _ = ns
        .kubectl
        .run(&format!("wait pod/{name} --for=condition=Ready --timeout=60s"))
        .ok();
    name
}

fn fetch(ns: &Namespace, client: &str, url: &str) -> Result<String, String> {
    let output = ns
        .kubectl
        .run_of(&["exec", client, "--", "timeout", "10", "wget", "-q", "-O", "-", url]);
    if output.code == 0 {
        Ok(output.stdout)
    } else {
        Err(output.stderr)
    }
}

fn web(ns: &Namespace, replicas: u32) {
    let _ = ns
        .kubectl
        .run(&format!(
            "create deployment web --image={WEB_IMAGE} --replicas={replicas}"
        ))
        .ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
}

#[test]
fn a_service_answers_by_address_and_name_from_both_nodes() {
    let ns = Namespace::new("service");
    web(&ns, 2);
    let _ = ns
        .kubectl
        .run("expose deployment web --port=80 --target-port=8080")
        .ok();
    let address = ns.kubectl.field("service web", "/spec/clusterIP");
    let address = address.as_str().expect("an address").to_owned();
    for node in ["node-1", "node-2"] {
        let client = client_on(&ns, node);
        for host in [
            address.clone(),
            "web".into(),
            format!("web.{}", ns.name),
            format!("web.{}.svc.cluster.local", ns.name),
        ] {
            let answer = eventually(&format!("{host} answers on {node}"), 20, || {
                fetch(&ns, &client, &format!("http://{host}/"))
            });
            assert!(answer.contains("version 1"), "{answer}");
        }
    }
}

#[test]
fn requests_reach_every_endpoint_and_follow_changes() {
    let ns = Namespace::new("endpoints");
    web(&ns, 2);
    let _ = ns
        .kubectl
        .run("expose deployment web --port=80 --target-port=8080")
        .ok();
    let client = client_on(&ns, "node-1");
    let hosts = |count: usize| -> std::collections::BTreeSet<String> {
        (0..count)
            .filter_map(|_| fetch(&ns, &client, "http://web/").ok())
            .filter_map(|a| a.split(' ').next().map(str::to_owned))
            .collect()
    };
    eventually_eq("both endpoints answer", 30, 2, || hosts(12).len());
    let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=web");
    assert_eq!(
        slices
            .pointer("/items/0/endpoints")
            .and_then(|e| e.as_array())
            .map(Vec::len),
        Some(2),
        "{slices}"
    );
    let _ = ns.kubectl.run("scale deployment web --replicas=1").ok();
    eventually_eq("one endpoint is left", 30, 1, || {
        let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=web");
        slices
            .pointer("/items/0/endpoints")
            .and_then(|e| e.as_array())
            .map_or(0, Vec::len)
    });
    eventually("only the endpoint that is left answers", 30, || {
        let found = hosts(8);
        if found.len() == 1 { Ok(()) } else { Err(found) }
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let ns = Namespace::new("empty");
    let _ = ns.kubectl.run("create service clusterip nobody --tcp=80:8080").ok();
    let client = client_on(&ns, "node-2");
    eventually("the connection is refused", 20, || {
        match fetch(&ns, &client, "http://nobody/") {
            Err(text) if text.contains("refused") => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn a_node_port_answers_on_every_node() {
    let ns = Namespace::new("nodeport");
    web(&ns, 1);
    let _ = ns
        .kubectl
        .run("expose deployment web --port=80 --target-port=8080 --type=NodePort")
        .ok();
    let port = ns
        .kubectl
        .field("service web", "/spec/ports/0/nodePort")
        .as_u64()
        .expect("a node port");
    assert!((30000..=32767).contains(&port), "{port}");
    let _all = Nodes::counted(&ns.cluster);
    let nodes = ns.kubectl.get("nodes");
    for node in nodes["items"].as_array().into_iter().flatten() {
        let address = node
            .pointer("/status/addresses/0/address")
            .and_then(|a| a.as_str())
            .expect("an address");
        eventually(&format!("{address}:{port} answers"), 20, || {
            let output = std::process::Command::new("curl")
                .args(["-sS", "--max-time", "5", &format!("http://{address}:{port}/")])
                .output();
            match output {
                Ok(o) if o.status.success() && String::from_utf8_lossy(&o.stdout).contains("version 1") => Ok(()),
                other => Err(other),
            }
        });
    }
}
