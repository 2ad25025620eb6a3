//! Where images come from: the registry, pull policies, credentials, refusals and back-off; images as volumes.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, eventually};

const IMAGE: &str = "busybox:1.36";

/// A pod of one container that waits for its end.
fn pod(name: &str, image: &str, policy: &str, spec: Value) -> Value {
    let container = json!({"name": "main", "image": image, "imagePullPolicy": policy, "args": ["--port=8080"]});
    let mut pod = json!({"terminationGracePeriodSeconds": 1, "containers": [container]});
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        pod[key] = value;
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod})
}

fn waiting(ns: &Namespace, name: &str, what: &str) -> Value {
    let path = format!("/status/containerStatuses/0/state/waiting/{what}");
    ns.kubectl.field(&format!("pod {name}"), &path)
}

/// Reasons and messages of a pod's events, one per line.
fn events(ns: &Namespace, name: &str) -> String {
    let template = "{range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    let selector = format!("involvedObject.name={name}");
    let output = format!("jsonpath={template}");
    ns.kubectl
        .run_of(&["get", "events", "--field-selector", &selector, "-o", &output])
        .ok()
}

fn says(ns: &Namespace, name: &str, wanted: &str) {
    eventually(&format!("an event about {name}: {wanted}"), 30, || {
        let said = events(ns, name);
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
}

fn runs(ns: &Namespace, name: &str) {
    eventually_eq(&format!("{name} runs"), 60, json!("Running"), || {
        ns.kubectl.field(&format!("pod {name}"), "/status/phase")
    });
}

#[test]
fn what_the_node_lacks_is_pulled_from_the_registry() {
    let ns = Namespace::new("pulled");
    for name in ["first", "again"] {
        ns.kubectl
            .apply(&pod(name, "steersman.local/pulled:1", "Always", json!({})).to_string());
        runs(&ns, name);
        says(&ns, name, "Pulling: Pulling image \"steersman.local/pulled:1\"");
        says(
            &ns,
            name,
            "Pulled: Successfully pulled image \"steersman.local/pulled:1\" in ",
        );
    }
}

#[test]
fn a_private_image_needs_the_pods_credentials() {
    let ns = Namespace::new("private");
    let login = "create secret docker-registry reader --docker-server=steersman.local --docker-username=reader";
    let _ = ns.kubectl.run(&format!("{login} --docker-password=secret")).ok();
    let image = "steersman.local/private:1";
    ns.kubectl
        .apply(&pod("without", image, "Always", json!({})).to_string());
    let with = json!({"imagePullSecrets": [{"name": "reader"}], "nodeName": "node-1"});
    ns.kubectl.apply(&pod("with", image, "Always", with).to_string());
    runs(&ns, "with");
    // Another pod's credentials have brought it to that node, which is no reason to get it without any.
    let beside = json!({"nodeName": "node-1"});
    ns.kubectl
        .apply(&pod("borrows", image, "IfNotPresent", beside).to_string());
    let begins = "Back-off pulling image \"steersman.local/private:1\": ErrImagePull: ";
    for name in ["without", "borrows"] {
        eventually(&format!("{name}: backs off without credentials"), 60, || {
            // The reason changes with every new attempt, so both are read at once.
            let state = ns
                .kubectl
                .field(&format!("pod {name}"), "/status/containerStatuses/0/state/waiting");
            let message = state["message"].as_str().unwrap_or_default();
            let says = message.starts_with(begins) && message.contains("authorization failed");
            if state["reason"] == "ImagePullBackOff" && says {
                Ok(())
            } else {
                Err(state)
            }
        });
    }
}

#[test]
fn an_image_that_cannot_be_had_says_why() {
    let ns = Namespace::new("nowhere");
    let nowhere = "steersman.local/nowhere:1";
    ns.kubectl
        .apply(&pod("missing", nowhere, "IfNotPresent", json!({})).to_string());
    ns.kubectl.apply(&pod("never", nowhere, "Never", json!({})).to_string());
    ns.kubectl
        .apply(&pod("invalid", "NO/Image", "Always", json!({})).to_string());
    for (name, reason) in [
        ("missing", "ImagePullBackOff"),
        ("never", "ErrImageNeverPull"),
        ("invalid", "InvalidImageName"),
    ] {
        eventually_eq(name, 60, json!(reason), || waiting(&ns, name, "reason"));
    }
    says(
        &ns,
        "missing",
        "Failed: Failed to pull image \"steersman.local/nowhere:1\": ",
    );
    says(&ns, "missing", "Failed: Error: ErrImagePull");
    says(
        &ns,
        "missing",
        "BackOff: Back-off pulling image \"steersman.local/nowhere:1\"",
    );
    let never = "Container image \"steersman.local/nowhere:1\" is not present with pull policy of Never";
    says(&ns, "never", never);
    assert_eq!(waiting(&ns, "never", "message"), json!(never));
}

#[test]
fn an_image_can_be_a_volume() {
    let ns = Namespace::new("volume");
    let script = "ls /whole/bin/web && ! touch /whole/x 2>/dev/null && echo read-only; sleep 600";
    let container = json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", script], "volumeMounts": [{"name": "image", "mountPath": "/whole"}]});
    let volume = json!({"name": "image", "image": {"reference": "steersman.local/pulled:1", "pullPolicy": "Always"}});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [volume]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "looks"}, "spec": spec});
    ns.kubectl.apply(&pod.to_string());
    runs(&ns, "looks");
    eventually_eq("what it sees", 30, "/whole/bin/web\nread-only\n".to_owned(), || {
        ns.kubectl.run("logs looks").stdout
    });
    says(
        &ns,
        "looks",
        "Pulled: Successfully pulled image \"steersman.local/pulled:1\" in ",
    );
}
