//! What kubectl shows of a cluster: nodes, resources, explanations, rights.

use steersman_conformance::{Cluster, Kubectl, Namespace, Nodes, WEB_IMAGE, eventually};

fn admin() -> Kubectl {
    Kubectl::new(&Cluster::here())
}

/// The columns of a table's first line.
fn columns(table: &str) -> Vec<&str> {
    table
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect()
}

#[test]
fn nodes_are_ready_and_show_upstreams_wide_columns() {
    let _all = Nodes::counted(&Cluster::here());
    let table = admin().run("get nodes -o wide").ok();
    let expected = [
        "NAME",
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        "INTERNAL-IP",
        "EXTERNAL-IP",
        "OS-IMAGE",
        "KERNEL-VERSION",
        "CONTAINER-RUNTIME",
    ];
    assert_eq!(columns(&table), expected);
    let ready = table
        .lines()
        .skip(1)
        .filter(|l| l.split_whitespace().nth(1) == Some("Ready"))
        .count();
    assert_eq!(ready, table.lines().count() - 1, "{table}");
    assert!(table.contains("containerd://"), "{table}");
}

#[test]
fn the_servers_version_is_a_1_36() {
    let version = admin().run("version -o json").ok();
    let version: serde_json::Value = serde_json::from_str(&version).expect("JSON");
    assert_eq!(
        version.pointer("/serverVersion/minor").and_then(|v| v.as_str()),
        Some("36"),
        "{version}"
    );
}

#[test]
fn explain_describes_a_field_and_its_children() {
    let text = admin().run("explain pod.spec.containers").ok();
    assert!(text.contains("FIELD: containers <[]Container>"), "{text}");
    assert!(text.contains("List of containers belonging to the pod."), "{text}");
    assert!(text.contains("  image\t<string>"), "{text}");
    let deeper = admin()
        .run("explain deployment.spec.strategy.rollingUpdate --recursive")
        .ok();
    assert!(deeper.contains("maxSurge\t<IntOrString>"), "{deeper}");
    assert!(
        admin()
            .run("explain pod.spec.nothing")
            .refused()
            .contains("field \"nothing\" does not exist")
    );
}

#[test]
fn api_resources_lists_groups_short_names_and_scope() {
    let table = admin().run("api-resources -o wide").ok();
    let line = |name: &str| {
        table
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{name} in\n{table}"))
    };
    for (name, parts) in [
        ("pods ", ["po", "v1", "true", "Pod"]),
        ("deployments ", ["deploy", "apps/v1", "true", "Deployment"]),
        ("nodes ", ["no", "v1", "false", "Node"]),
        (
            "endpointslices ",
            ["endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice"],
        ),
    ] {
        let found: Vec<&str> = line(name).split_whitespace().collect();
        for part in parts {
            assert!(found.contains(&part), "{part} in {found:?}");
        }
    }
    let names = admin().run("api-resources --namespaced=false -o name").ok();
    assert!(
        names.lines().any(|l| l == "clusterroles.rbac.authorization.k8s.io"),
        "{names}"
    );
}

#[test]
fn auth_tells_who_one_is_and_what_one_may() {
    let admin = admin();
    let who = admin.run("auth whoami -o json").ok();
    let who: serde_json::Value = serde_json::from_str(&who).expect("JSON");
    let groups = who.pointer("/status/userInfo/groups").cloned().unwrap_or_default();
    assert!(
        groups.as_array().is_some_and(|g| g.contains(&"system:masters".into())),
        "{who}"
    );
    assert_eq!(admin.run("auth can-i create deployments").ok().trim(), "yes");
    let anybody = ["auth", "can-i", "delete", "nodes", "--as", "somebody"];
    assert_eq!(admin.run_of(&anybody).stdout.trim(), "no");
    let rules = admin.run("auth can-i --list").ok();
    assert!(
        rules.lines().next().is_some_and(|l| l.contains("Non-Resource URLs")),
        "{rules}"
    );
}

#[test]
fn describe_shows_spec_status_and_events_of_a_pod() {
    let ns = Namespace::new("describe");
    let _ = ns
        .kubectl
        .run(&format!("run web --image={WEB_IMAGE} --image-pull-policy=IfNotPresent"))
        .ok();
    let _ = ns.kubectl.run("wait pod/web --for=condition=Ready --timeout=60s").ok();
    eventually("all events of a pod's start", 15, || {
        let text = ns.kubectl.run("describe pod web").ok();
        let all = ["Scheduled", "Created", "Started", "Successfully assigned"]
            .iter()
            .all(|part| text.contains(part));
        if all { Ok(()) } else { Err(text) }
    });
    let events = ns.kubectl.run("get events").ok();
    assert_eq!(columns(&events), ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    assert!(events.contains("pod/web"), "{events}");
    let node = Kubectl::new(&ns.cluster).run("describe node node-1").ok();
    assert!(
        node.contains("Allocated resources:") && node.contains("KubeletReady"),
        "{node}"
    );
}

#[test]
fn health_version_and_metrics_answer() {
    let admin = admin();
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(admin.run(&format!("get --raw {path}")).ok(), "ok", "{path}");
    }
    assert!(admin.run("get --raw /readyz?verbose").ok().contains("[+]ping ok"));
    assert!(
        admin
            .run("get --raw /metrics")
            .ok()
            .contains("apiserver_request_total{")
    );
}
