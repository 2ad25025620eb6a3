//! Deployments as a user works with them: create, scale, roll out, undo; pods are replaced, containers restarted.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, Nodes, WEB_IMAGE, WEB_IMAGE_2, eventually, manifest};

fn deploy(ns: &Namespace, replicas: u32) {
    let _ = ns
        .kubectl
        .run(&format!(
            "create deployment web --image={WEB_IMAGE} --replicas={replicas}"
        ))
        .ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
}

fn running(ns: &Namespace) -> usize {
    ns.kubectl.get("pods -l app=web --field-selector=status.phase=Running")["items"]
        .as_array()
        .map_or(0, Vec::len)
}

#[test]
fn three_replicas_run_and_are_spread_over_the_nodes() {
    let ns = Namespace::new("spread");
    deploy(&ns, 4);
    let table = ns.kubectl.run("get pods -o wide").ok();
    let nodes: std::collections::BTreeSet<&str> = table
        .lines()
        .skip(1)
        .filter_map(|l| l.split_whitespace().find(|w| w.starts_with("node-")))
        .collect();
    assert_eq!(nodes.len(), 2, "{table}");
    assert!(
        table
            .lines()
            .skip(1)
            .all(|l| l.contains("1/1") && l.contains("Running")),
        "{table}"
    );
    let line = ns.kubectl.run("get deployment web --no-headers").ok();
    assert_eq!(
        line.split_whitespace().take(4).collect::<Vec<_>>(),
        ["web", "4/4", "4", "4"]
    );
}

#[test]
fn scaling_up_and_down_reaches_the_wanted_number() {
    let ns = Namespace::new("scale");
    deploy(&ns, 1);
    let _ = ns.kubectl.run("scale deployment web --replicas=3").ok();
    eventually_eq("three running pods", 60, 3, || running(&ns));
    let _ = ns.kubectl.run("scale deployment web --replicas=0").ok();
    eventually_eq("no pods", 60, 0, || {
        ns.kubectl.get("pods")["items"].as_array().map_or(0, Vec::len)
    });
    eventually("the events that say so", 30, || {
        let events = ns
            .kubectl
            .run("get events --field-selector=reason=ScalingReplicaSet")
            .ok();
        let all = ["from 0 to 1", "from 1 to 3", "from 3 to 0"];
        if all.iter().all(|part| events.contains(part)) {
            Ok(())
        } else {
            Err(events)
        }
    });
}

#[test]
fn a_new_image_is_rolled_out_recorded_and_undone() {
    let ns = Namespace::new("rollout");
    deploy(&ns, 3);
    let _ = ns
        .kubectl
        .run(&format!("set image deployment/web web={WEB_IMAGE_2}"))
        .ok();
    let status = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
    assert!(status.contains("successfully rolled out"), "{status}");
    let images = || {
        let pods = ns.kubectl.get("pods -l app=web");
        let alive = pods["items"].as_array().cloned().unwrap_or_default();
        let alive = alive
            .iter()
            .filter(|p| p.pointer("/metadata/deletionTimestamp").is_none());
        alive
            .map(|p| p.pointer("/spec/containers/0/image").cloned().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    eventually_eq("all pods have the new image", 60, vec![json!(WEB_IMAGE_2); 3], images);
    let history = ns.kubectl.run("rollout history deployment/web").ok();
    let revisions: Vec<&str> = history
        .lines()
        .skip(2)
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(revisions, ["1", "2"], "{history}");
    let _ = ns.kubectl.run("rollout undo deployment/web").ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
    eventually_eq("all pods have the old image", 60, vec![json!(WEB_IMAGE); 3], images);
    let history = ns.kubectl.run("rollout history deployment/web").ok();
    let revisions: Vec<&str> = history
        .lines()
        .skip(2)
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(revisions, ["2", "3"], "{history}");
}

#[test]
fn a_deleted_pod_is_replaced() {
    let ns = Namespace::new("replace");
    deploy(&ns, 2);
    let name = ns.kubectl.field("pods -l app=web", "/items/0/metadata/name");
    let name = name.as_str().expect("a pod").to_owned();
    let _ = ns.kubectl.run(&format!("delete pod {name} --timeout=60s")).ok();
    eventually_eq("two running pods again", 60, 2, || running(&ns));
    let names = ns.kubectl.run("get pods -o name").ok();
    assert!(!names.contains(&name), "{names}");
}

#[test]
fn what_a_deployment_owns_goes_with_it() {
    let ns = Namespace::new("collect");
    deploy(&ns, 2);
    let _ = ns.kubectl.run("delete deployment web --timeout=60s").ok();
    eventually_eq("nothing is left", 60, String::new(), || {
        ns.kubectl.run("get replicasets,pods -o name").ok()
    });
}

#[test]
fn a_failing_container_restarts_with_back_off_and_tells_how_it_ended() {
    let ns = Namespace::new("crash");
    let _ = ns.kubectl.run_of(&["apply", "-f", &manifest("crash.yaml")]).ok();
    let status = |pointer: &str| {
        ns.kubectl
            .field("pod crash", &format!("/status/containerStatuses/0{pointer}"))
    };
    eventually("the container has been restarted", 60, || {
        let count = status("/restartCount");
        if count.as_u64().is_some_and(|n| n >= 1) {
            Ok(())
        } else {
            Err(count)
        }
    });
    assert_eq!(status("/lastState/terminated/exitCode"), json!(3));
    assert_eq!(status("/lastState/terminated/reason"), json!("Error"));
    // All of one round: the wait may be over at the next. Upstream's kubelet shows it only when it looks at the pod again
    // while the container waits: in the fourth wait at the latest, which is longer than a minute.
    let waiting = eventually("it waits before the next start, and kubectl shows it", 300, || {
        let waiting = status("/state/waiting");
        let line = ns.kubectl.run("get pod crash --no-headers").ok();
        if waiting["reason"] == "CrashLoopBackOff" && line.contains("CrashLoopBackOff") && line.contains(" ago)") {
            Ok(waiting)
        } else {
            Err((waiting, line))
        }
    });
    assert!(
        waiting["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("back-off ") && m.contains(" restarting failed container=main pod=crash_")),
        "{waiting}"
    );
    eventually("the event that says so", 30, || {
        let events = ns.kubectl.run("get events --field-selector=reason=BackOff").ok();
        if events.contains("Back-off restarting failed container main in pod crash_") {
            Ok(())
        } else {
            Err(events)
        }
    });
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let ns = Namespace::new("unschedulable");
    let _all = Nodes::counted(&ns.cluster);
    ns.kubectl.apply(&format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"big"}},"spec":{{"containers":[{{"name":"c","image":"{WEB_IMAGE}","resources":{{"requests":{{"cpu":"1000"}}}}}}]}}}}"#
    ));
    let condition = eventually("the pod is found to fit nowhere", 30, || {
        let conditions = ns.kubectl.field("pod big", "/status/conditions");
        let found = conditions
            .as_array()
            .and_then(|c| c.iter().find(|c| c["type"] == "PodScheduled").cloned());
        found.ok_or(conditions)
    });
    assert_eq!(condition["reason"], json!("Unschedulable"));
    let expected = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(condition["message"], json!(expected));
    eventually("the event that says so", 15, || {
        let events: Value = ns.kubectl.get("events --field-selector=reason=FailedScheduling");
        if events.pointer("/items/0/message") == Some(&json!(expected)) {
            Ok(())
        } else {
            Err(events)
        }
    });
}
