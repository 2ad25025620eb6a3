//! Changing the cpu and memory of running pods: applied in place, restarted where the policy says so, put off where the
//! node has too little.

use serde_json::{Value, json};
use steersman_conformance::Namespace;
use steersman_conformance::wait::eventually_eq;

/// A pod that waits; `restart` is the resize policy of its memory.
fn pod(name: &str, restart: &str) -> Value {
    let amounts = json!({"cpu": "20m", "memory": "20Mi"});
    let container = json!({"name": "main", "image": "busybox:1.36", "command": ["sleep", "600"],
        "resources": {"requests": amounts, "limits": amounts},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": restart}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

fn resize(ns: &Namespace, name: &str, cpu: &str, memory: &str) {
    let amounts = json!({"cpu": cpu, "memory": memory});
    let resources = json!({"requests": amounts, "limits": amounts});
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}}).to_string();
    let _ = ns
        .kubectl
        .run_of(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch])
        .ok();
}

fn status(ns: &Namespace, name: &str, path: &str) -> Value {
    ns.kubectl.field(&format!("pod {name}"), &format!("/status/{path}"))
}

/// What the API says the container has; null while a resize is under way or put off.
fn settled(ns: &Namespace, name: &str) -> Value {
    let conditions = status(ns, name, "conditions");
    let mut resizing = conditions.as_array().into_iter().flatten();
    if resizing.any(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize"))) {
        return Value::Null;
    }
    status(ns, name, "containerStatuses/0/resources/limits")
}

fn ready(ns: &Namespace, name: &str) {
    let wait = format!("wait pod/{name} --for=condition=Ready --timeout=60s");
    let _ = ns.kubectl.run(&wait).ok();
}

/// The container's own view of its limit; either version of control groups.
fn memory_limit(ns: &Namespace, name: &str) -> String {
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    let said = ns.kubectl.run_of(&["exec", name, "--", "sh", "-c", script]);
    said.stdout.trim().to_owned()
}

#[test]
fn a_pod_grows_and_shrinks_without_a_restart() {
    let ns = Namespace::new("grows");
    ns.kubectl.apply(&pod("grows", "NotRequired").to_string());
    ready(&ns, "grows");
    let id = status(&ns, "grows", "containerStatuses/0/containerID");
    for (cpu, memory, bytes) in [("30m", "40Mi", 40 << 20), ("10m", "30Mi", 30 << 20)] {
        resize(&ns, "grows", cpu, memory);
        let wanted = json!({"cpu": cpu, "memory": memory});
        eventually_eq("the new limits are reported", 30, wanted.clone(), || {
            settled(&ns, "grows")
        });
        assert_eq!(status(&ns, "grows", "containerStatuses/0/allocatedResources"), wanted);
        assert_eq!(memory_limit(&ns, "grows"), bytes.to_string());
    }
    assert_eq!(
        status(&ns, "grows", "containerStatuses/0/containerID"),
        id,
        "the same container"
    );
    assert_eq!(status(&ns, "grows", "containerStatuses/0/restartCount"), json!(0));
}

#[test]
fn a_container_restarts_for_the_resource_that_its_policy_names() {
    let ns = Namespace::new("restarts");
    ns.kubectl.apply(&pod("restarts", "RestartContainer").to_string());
    ready(&ns, "restarts");
    for (cpu, memory, restarts) in [("30m", "20Mi", 0), ("30m", "40Mi", 1)] {
        resize(&ns, "restarts", cpu, memory);
        let wanted = json!([restarts, {"cpu": cpu, "memory": memory}]);
        eventually_eq("restarts and limits", 30, wanted, || {
            json!([
                status(&ns, "restarts", "containerStatuses/0/restartCount"),
                settled(&ns, "restarts")
            ])
        });
    }
    assert_eq!(memory_limit(&ns, "restarts"), (40 << 20).to_string());
}

#[test]
fn the_pods_own_limits_change_for_the_containers_that_have_none() {
    let ns = Namespace::new("whole");
    let of = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    let mut whole = pod("whole", "NotRequired");
    whole["spec"]["resources"] = of("20m", "20Mi");
    whole["spec"]["containers"][0]["resources"] = json!({});
    ns.kubectl.apply(&whole.to_string());
    ready(&ns, "whole");
    let id = status(&ns, "whole", "containerStatuses/0/containerID");
    assert_eq!(memory_limit(&ns, "whole"), (20 << 20).to_string());
    for (cpu, memory, bytes) in [("30m", "40Mi", 40 << 20), ("10m", "30Mi", 30 << 20)] {
        let patch = json!({"spec": {"resources": of(cpu, memory)}}).to_string();
        let resize = ["patch", "pod", "whole", "--subresource", "resize", "--patch", &patch];
        let _ = ns.kubectl.run_of(&resize).ok();
        let amounts = json!({"cpu": cpu, "memory": memory});
        eventually_eq("the new limits are reported", 30, json!([amounts, amounts]), || {
            if status(&ns, "whole", "conditions").to_string().contains("PodResize") {
                return Value::Null;
            }
            json!([
                status(&ns, "whole", "resources/limits"),
                status(&ns, "whole", "allocatedResources")
            ])
        });
        assert_eq!(memory_limit(&ns, "whole"), bytes.to_string());
    }
    assert_eq!(
        status(&ns, "whole", "containerStatuses/0/containerID"),
        id,
        "the same container"
    );
}

#[test]
fn what_the_node_does_not_have_is_put_off_and_can_be_taken_back() {
    let ns = Namespace::new("deferred");
    ns.kubectl.apply(&pod("greedy", "NotRequired").to_string());
    ready(&ns, "greedy");
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}}]}});
    let refused = ns
        .kubectl
        .run_of(&[
            "patch",
            "pod",
            "greedy",
            "--subresource",
            "resize",
            "--patch",
            &patch.to_string(),
        ])
        .refused();
    let never = "node didn't have enough allocatable resources: cpu, requested: 1000000, allocatable: ";
    assert!(refused.contains(never), "{refused}");

    // What the node has but not beside another pod.
    let node = ns.kubectl.field("pod greedy", "/spec/nodeName");
    let mut beside = pod("beside", "NotRequired");
    beside["spec"]["nodeName"] = node.clone();
    beside["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "50m"}});
    ns.kubectl.apply(&beside.to_string());
    ready(&ns, "beside");
    let node = node.as_str().unwrap_or_default();
    let cores = ns.kubectl.field(&format!("node {node}"), "/status/allocatable/cpu");
    resize(&ns, "greedy", cores.as_str().unwrap_or_default(), "20Mi");
    let pending = || {
        let conditions = status(&ns, "greedy", "conditions");
        let mut all = conditions.as_array().into_iter().flatten();
        all.find(|c| c["type"] == "PodResizePending")
            .map(|c| c["reason"].clone())
    };
    eventually_eq("it waits", 30, Some(json!("Deferred")), pending);
    assert_eq!(
        status(&ns, "greedy", "containerStatuses/0/resources/limits/cpu"),
        json!("20m")
    );
    resize(&ns, "greedy", "20m", "20Mi");
    eventually_eq("nothing waits", 30, None, pending);
}
