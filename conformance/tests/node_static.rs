//! Static pods: what a node runs from its files, and what the API shows of it.

use std::path::PathBuf;

use serde_json::Value;
use steersman_conformance::{Cluster, Namespace, WEB_IMAGE, eventually};

/// A manifest in a node's folder, gone when the test ends.
struct Manifest(PathBuf);

impl Manifest {
    fn write(cluster: &Cluster, namespace: &str, argument: &str) -> Self {
        let path = cluster.of_node("node-1", &format!("static/{namespace}.yaml"));
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: {namespace}, labels: {{round: {argument}}}}}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"{WEB_IMAGE}\", env: [{{name: ROUND, value: {argument}}}]}}\n"
        );
        // Seen whole or not at all.
        let new = path.with_file_name(format!(".{namespace}.new"));
        std::fs::write(&new, text).expect("a manifest");
        std::fs::rename(&new, &path).expect("a manifest");
        Self(path)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The ready picture for which the condition holds.
fn picture(ns: &Namespace, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    eventually(what, 60, || {
        let output = ns.kubectl.run("get pod web-node-1 -o json");
        let pod: Value = serde_json::from_str(&output.stdout).map_err(|_| output.stderr.clone())?;
        if ready(&pod) && condition(&pod) {
            Ok(pod)
        } else {
            Err(pod.to_string())
        }
    })
}

#[test]
fn a_file_of_the_node_is_a_pod_whose_picture_comes_back_and_goes_with_the_file() {
    let ns = Namespace::new("static");
    let manifest = Manifest::write(&ns.cluster, &ns.name, "one");
    let first = picture(&ns, "the picture of the pod", |_| true);
    let annotations = &first["metadata"]["annotations"];
    let hash = annotations["kubernetes.io/config.hash"].clone();
    assert_eq!(annotations["kubernetes.io/config.mirror"], hash);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert!(annotations["kubernetes.io/config.seen"].is_string(), "{annotations}");
    let owner = &first["metadata"]["ownerReferences"][0];
    assert_eq!(
        (owner["kind"].as_str(), owner["name"].as_str()),
        (Some("Node"), Some("node-1"))
    );
    let container = first["status"]["containerStatuses"][0]["containerID"].clone();

    let _ = ns.kubectl.run("delete pod web-node-1 --wait=false").ok();
    let uid = first["metadata"]["uid"].clone();
    let again = picture(&ns, "a new picture", |p| p["metadata"]["uid"] != uid);
    assert_eq!(
        again["status"]["containerStatuses"][0]["containerID"], container,
        "the pod itself was not touched"
    );

    let _second = Manifest::write(&ns.cluster, &ns.name, "two");
    let changed = picture(&ns, "the picture of the changed pod", |p| {
        p["metadata"]["labels"]["round"] == "two"
    });
    assert_ne!(changed["metadata"]["annotations"]["kubernetes.io/config.hash"], hash);
    assert_ne!(changed["status"]["containerStatuses"][0]["containerID"], container);

    drop(manifest);
    let _ = ns.kubectl.run("wait pod/web-node-1 --for=delete --timeout=60s").ok();
}
