//! What kubectl changes: apply, label, patch, delete.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Cluster, Kubectl, Namespace, eventually, manifest};

#[test]
fn a_whole_application_is_applied_changed_and_removed() {
    let admin = Kubectl::new(&Cluster::here());
    let app = admin.in_namespace("steersman-app");
    let created = admin.run_of(&["apply", "-f", &manifest("app.yaml")]).ok();
    for line in [
        "deployment.apps/web",
        "service/web",
        "configmap/settings",
        "secret/credentials",
        "role.rbac.authorization.k8s.io/reader",
    ] {
        assert!(created.contains(&format!("{line} created")), "{created}");
    }
    let _ = app.run("rollout status deployment/web --timeout=90s").ok();
    let again = admin.run_of(&["apply", "-f", &manifest("app.yaml")]).ok();
    assert!(
        again.lines().all(|l| l.ends_with("unchanged")),
        "a second apply changes nothing: {again}"
    );

    let pod = app.field("pods -l app=web", "/items/0/metadata/name");
    let pod = pod.as_str().expect("a pod");
    let environment = app
        .run(&format!(
            "get pod {pod} -o jsonpath={{.spec.containers[0].env[*].name}}"
        ))
        .ok();
    assert_eq!(environment, "GREETING PASSWORD POD_NAME");
    assert_eq!(
        admin
            .run_of(&[
                "auth",
                "can-i",
                "list",
                "configmaps",
                "-n",
                "steersman-app",
                "--as=system:serviceaccount:steersman-app:app"
            ])
            .stdout
            .trim(),
        "yes"
    );

    let changed = admin.run_of(&["apply", "-f", &manifest("app-changed.yaml")]).ok();
    assert!(
        changed.contains("deployment.apps/web configured") && changed.contains("service/web unchanged"),
        "{changed}"
    );
    let _ = app.run("rollout status deployment/web --timeout=90s").ok();
    let web = app.get("deployment web");
    assert_eq!(web.pointer("/spec/replicas"), Some(&json!(3)));
    assert_eq!(
        web.pointer("/spec/template/spec/containers/0/resources/requests/cpu"),
        None,
        "what the file no longer names is gone"
    );
    assert_eq!(web.pointer("/status/readyReplicas"), Some(&json!(3)));
    assert_eq!(app.field("configmap settings", "/data/greeting"), json!("good day"));

    let _ = admin
        .run_of(&["delete", "-f", &manifest("app-changed.yaml"), "--timeout=90s"])
        .ok();
    assert!(admin.run("get namespace steersman-app").refused().contains("NotFound"));
}

#[test]
fn labels_are_set_changed_and_taken_away() {
    let ns = Namespace::new("label");
    let _ = ns.kubectl.run("create configmap c").ok();
    let _ = ns.kubectl.run("label configmap c tier=front").ok();
    assert!(
        ns.kubectl
            .run("label configmap c tier=back")
            .refused()
            .contains("already has a value")
    );
    let _ = ns.kubectl.run("label configmap c tier=back --overwrite").ok();
    assert_eq!(
        ns.kubectl.run("get configmaps -l tier=back -o name").ok().trim(),
        "configmap/c"
    );
    let _ = ns.kubectl.run("label configmap c tier-").ok();
    assert_eq!(ns.kubectl.field("configmap c", "/metadata/labels"), Value::Null);
    assert!(
        ns.kubectl
            .run("label configmap c a=b_/c")
            .refused()
            .contains("a valid label")
    );
}

#[test]
fn the_three_patch_types_do_what_each_means() {
    let ns = Namespace::new("patch");
    ns.kubectl.apply(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":0,"selector":{"matchLabels":{"a":"d"}},
        "template":{"metadata":{"labels":{"a":"d"}},"spec":{"containers":[{"name":"one","image":"x"},{"name":"two","image":"x"}]}}}}"#,
    );
    let images = || {
        let containers = ns.kubectl.field("deployment d", "/spec/template/spec/containers");
        let images = containers
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| (c["name"].clone(), c["image"].clone()));
        images
            .map(|(n, i)| format!("{}={}", n.as_str().unwrap_or_default(), i.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let patch = |kind: &str, body: Value| {
        ns.kubectl
            .run_of(&["patch", "deployment", "d", "--type", kind, "-p", &body.to_string()])
    };

    let _ = patch(
        "strategic",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "y"}]}}}}),
    )
    .ok();
    assert_eq!(
        images(),
        ["one=x", "two=y"],
        "strategic merge finds the container by its name"
    );
    let _ = patch(
        "json",
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "z"}]),
    )
    .ok();
    assert_eq!(images(), ["one=z", "two=y"]);
    let _ = patch(
        "merge",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "three", "image": "w"}]}}}}),
    )
    .ok();
    assert_eq!(images(), ["three=w"], "merge patch replaces the list");

    let failed = patch("json", json!([{"op": "test", "path": "/spec/replicas", "value": 7}])).refused();
    assert!(failed.contains("The request is invalid"), "{failed}");
    let invalid = patch("merge", json!({"spec": {"replicas": -1}})).refused();
    assert!(
        invalid.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{invalid}"
    );
}

#[test]
fn a_namespace_takes_everything_in_it_along() {
    let ns = Namespace::new("sweep");
    let _ = ns.kubectl.run("create configmap c").ok();
    let _ = ns
        .kubectl
        .run(&format!(
            "create deployment d --image={} --replicas=2",
            steersman_conformance::WEB_IMAGE
        ))
        .ok();
    eventually_eq("the deployment's pods", 60, 2, || {
        ns.kubectl.get("pods")["items"].as_array().map_or(0, Vec::len)
    });
    let admin = Kubectl::new(&ns.cluster);
    let _ = admin.run(&format!("delete namespace {} --timeout=90s", ns.name)).ok();
    let _ = admin.run(&format!("create namespace {}", ns.name)).ok();
    let left = ns.kubectl.run("get pods,replicasets,deployments -o name").ok();
    assert_eq!(left, "");
}

#[test]
fn a_created_object_is_seen_by_a_watch_that_was_there_before() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let ns = Namespace::new("watch");
    let mut child = ns
        .kubectl
        .command("get configmaps --watch-only -o name")
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let watcher = steersman_conformance::process::Background(child);
    // The watch may still be connecting: create until it shows one.
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let mut count = 0;
    eventually("the watch shows a new object", 30, || {
        count += 1;
        let _ = ns.kubectl.run(&format!("create configmap c{count}")).ok();
        seen.recv_timeout(std::time::Duration::from_millis(500))
    });
    drop(watcher);
}
