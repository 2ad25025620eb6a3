//! What happens to a pod that takes more than it may, and what the node says about itself.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Kubectl, Namespace, eventually};

#[test]
fn pods_that_take_more_disk_than_they_may_are_ended_and_others_are_not() {
    let ns = Namespace::new("limits");
    let pod = |name: &str, write: &str, container: Value, volumes: Value| {
        let mut c = json!({"name": "c", "image": "busybox:1.36",
            "command": ["sh", "-c", format!("dd if=/dev/zero of={write} bs=1M count=4 && sleep 1000")]});
        for (key, value) in container.as_object().into_iter().flatten() {
            c[key] = value.clone();
        }
        let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 300, "containers": [c], "volumes": volumes});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        ns.kubectl.apply(&pod.to_string());
    };
    let limit = |n: &str| json!({"resources": {"limits": {"ephemeral-storage": n}}});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    pod(
        "volume",
        "/v/f",
        mount.clone(),
        json!([{"name": "v", "emptyDir": {"sizeLimit": "2Mi"}}]),
    );
    pod("layer", "/f", limit("2Mi"), json!([]));
    pod("fine", "/f", limit("20Mi"), json!([]));
    for (name, message) in [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". "),
        (
            "layer",
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
        ),
    ] {
        let status = eventually(&format!("{name} is over"), 150, || {
            let status = ns.kubectl.field(&format!("pod {name}"), "/status");
            if status["phase"] == "Failed" {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        });
        assert_eq!(
            (status["reason"].as_str(), status["message"].as_str()),
            (Some("Evicted"), Some(message))
        );
        // Upstream's kubelet says it in the last state when it ends a pod before it has seen its container.
        let container = &status["containerStatuses"][0];
        assert!(
            container["state"]["terminated"].is_object() || container["lastState"]["terminated"].is_object(),
            "{status}"
        );
        let selector = format!("involvedObject.name={name},reason=Evicted");
        eventually_eq("the event that says so", 30, (json!("Warning"), json!(message)), || {
            let events = ns.kubectl.get(&format!("events --field-selector {selector}"));
            let event = &events["items"][0];
            (event["type"].clone(), event["message"].clone())
        });
    }
    assert_eq!(ns.kubectl.field("pod fine", "/status/phase"), "Running");
}

#[test]
fn the_nodes_figures_have_upstreams_names() {
    let ns = Namespace::new("figures");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "node-1",
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox:1.36", "command": ["sleep", "1000"],
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]}});
    ns.kubectl.apply(&pod.to_string());
    let _ = ns.kubectl.run("wait pod/p --for=condition=Ready --timeout=60s").ok();
    let admin = Kubectl::new(&ns.cluster);
    let raw = |path: &str| admin.run(&format!("get --raw /api/v1/nodes/node-1/proxy/{path}")).ok();
    let labels = format!("container=\"c\",namespace=\"{}\",pod=\"p\"", ns.name);
    let resource = raw("metrics/resource");
    for name in [
        format!("container_cpu_usage_seconds_total{{{labels}}}"),
        format!("container_memory_working_set_bytes{{{labels}}}"),
        format!("container_start_time_seconds{{{labels}}}"),
        format!("pod_memory_working_set_bytes{{namespace=\"{}\",pod=\"p\"}}", ns.name),
        "node_cpu_usage_seconds_total ".into(),
        "node_memory_working_set_bytes ".into(),
        "resource_scrape_error 0".into(),
    ] {
        assert!(resource.contains(&name), "{name} is not in\n{resource}");
    }
    let probes = raw("metrics/probes");
    let count = format!(
        "prober_probe_total{{container=\"c\",namespace=\"{}\",pod=\"p\",pod_uid=",
        ns.name
    );
    assert!(probes.contains(&count), "{count} is not in\n{probes}");
    let machine = raw("metrics/cadvisor");
    assert!(
        machine.contains("machine_cpu_cores{")
            && machine.contains("container_memory_working_set_bytes{container=\"c\",")
    );
    let summary: Value = serde_json::from_str(&raw("stats/summary")).expect("a document");
    for pointer in [
        "/node/cpu/usageCoreNanoSeconds",
        "/node/memory/workingSetBytes",
        "/node/fs/capacityBytes",
        "/node/runtime/imageFs/usedBytes",
        "/node/rlimit/curproc",
        "/node/network/interfaces/0/rxBytes",
    ] {
        assert!(
            summary.pointer(pointer).is_some_and(Value::is_u64),
            "{pointer} is not in {summary}"
        );
    }
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let own = pods.iter().find(|p| p["podRef"]["namespace"] == ns.name.as_str());
    let own = own.unwrap_or_else(|| panic!("the pod is not in {summary}"));
    for pointer in [
        "/cpu/usageCoreNanoSeconds",
        "/memory/workingSetBytes",
        "/ephemeral-storage/usedBytes",
        "/containers/0/rootfs/usedBytes",
        "/containers/0/logs/usedBytes",
        "/network/rxBytes",
    ] {
        assert!(
            own.pointer(pointer).is_some_and(Value::is_u64),
            "{pointer} is not in {own}"
        );
    }
}

#[test]
fn a_resource_that_somebody_adds_to_a_node_becomes_allocatable() {
    let ns = Namespace::new("added");
    let admin = Kubectl::new(&ns.cluster);
    let name = format!("example.com/{}", ns.name);
    let patch = |text: String| {
        let _ = admin
            .run_of(&[
                "patch",
                "node",
                "node-2",
                "--subresource=status",
                "--type=json",
                "-p",
                &text,
            ])
            .ok();
    };
    let path = format!("/status/capacity/{}", name.replace('/', "~1"));
    let allocatable = || {
        admin.field(
            "node node-2",
            &format!("/status/allocatable/{}", name.replace('/', "~1")),
        )
    };
    patch(json!([{"op": "add", "path": path, "value": "3"}]).to_string());
    eventually("it is allocatable", 40, || {
        let now = allocatable();
        if now == "3" { Ok(()) } else { Err(now) }
    });
    patch(json!([{"op": "remove", "path": path}]).to_string());
    eventually("it is gone", 40, || {
        let now = allocatable();
        if now.is_null() { Ok(()) } else { Err(now) }
    });
}
