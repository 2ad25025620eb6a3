//! What a Service can be told: ports by name, no selector, affinity to a client, who counts as ready, another type.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, WEB_IMAGE, eventually, manifest};

/// A web server pod that is ready when `ready` says so.
fn web(name: &str, app: &str, ready: bool) -> Value {
    let path = if ready { "/" } else { "/healthz" };
    let probe = json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": WEB_IMAGE,
            "ports": [{"name": "http", "containerPort": 8080}], "readinessProbe": probe}]}})
}

fn service(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn client(ns: &Namespace) {
    let _ = ns.kubectl.run_of(&["apply", "-f", &manifest("client.yaml")]).ok();
}

fn ready(ns: &Namespace, pods: &str) {
    let _ = ns
        .kubectl
        .run(&format!("wait {pods} --for=condition=Ready --timeout=90s"))
        .ok();
}

fn fetch(ns: &Namespace, url: &str) -> Result<String, String> {
    let output = ns
        .kubectl
        .run_of(&["exec", "client", "--", "timeout", "10", "wget", "-q", "-O", "-", url]);
    if output.code == 0 {
        Ok(output.stdout)
    } else {
        Err(output.stderr)
    }
}

fn answers(ns: &Namespace, url: &str, part: &str) {
    eventually(&format!("{url} answers with {part}"), 30, || match fetch(ns, url) {
        Ok(text) if text.contains(part) => Ok(()),
        other => Err(other),
    });
}

/// Addresses in the slices of a service whose condition `ready` is `ready`.
fn endpoints(ns: &Namespace, service: &str, ready: bool) -> usize {
    let slices = ns
        .kubectl
        .get(&format!("endpointslices -l kubernetes.io/service-name={service}"));
    let slices = slices["items"].as_array().into_iter().flatten();
    let all = slices.flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
    all.filter(|e| e.pointer("/conditions/ready") == Some(&json!(ready)))
        .count()
}

#[test]
fn ports_are_found_by_name_and_several_lead_to_their_own() {
    let ns = Namespace::new("ports");
    client(&ns);
    ns.kubectl.apply(&web("one", "web", true).to_string());
    let ports = json!([{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": 8080}]);
    ns.kubectl
        .apply(&service("web", &json!({"selector": {"app": "web"}, "ports": ports})));
    ready(&ns, "pod/client pod/one");
    answers(&ns, "http://web/", "one version 1");
    answers(&ns, "http://web:81/", "one version 1");
    let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=web");
    let ports = slices
        .pointer("/items/0/ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut found: Vec<(String, u64)> = ports
        .iter()
        .map(|p| {
            (
                p["name"].as_str().unwrap_or("-").to_owned(),
                p["port"].as_u64().unwrap_or_default(),
            )
        })
        .collect();
    found.sort();
    assert_eq!(found, [("a".to_owned(), 8080), ("b".to_owned(), 8080)]);
}

#[test]
fn only_ready_pods_get_requests() {
    let ns = Namespace::new("readiness");
    client(&ns);
    ns.kubectl.apply(&web("good", "web", true).to_string());
    ns.kubectl.apply(&web("moody", "web", false).to_string());
    ns.kubectl.apply(&service(
        "web",
        &json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    ready(&ns, "pod/client pod/good pod/moody");
    eventually_eq("two ready endpoints", 30, 2, || endpoints(&ns, "web", true));
    let address = ns.kubectl.field("pod moody", "/status/podIP");
    let moody = format!("http://{}:8080", address.as_str().expect("an address"));
    let _ = fetch(&ns, &format!("{moody}/unhealthy"));
    eventually_eq("one ready endpoint", 30, (1, 1), || {
        (endpoints(&ns, "web", true), endpoints(&ns, "web", false))
    });
    for _ in 0..6 {
        answers(&ns, "http://web/", "good version 1");
    }
    let _ = fetch(&ns, &format!("{moody}/healthy"));
    eventually_eq("two ready endpoints again", 30, 2, || endpoints(&ns, "web", true));
}

#[test]
fn endpoints_made_by_hand_are_served_without_a_selector() {
    let ns = Namespace::new("byhand");
    client(&ns);
    ns.kubectl.apply(&web("one", "web", true).to_string());
    ns.kubectl
        .apply(&service("manual", &json!({"ports": [{"name": "http", "port": 80}]})));
    ready(&ns, "pod/client pod/one");
    let address = ns.kubectl.field("pod one", "/status/podIP");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": [address]}]});
    ns.kubectl.apply(&slice.to_string());
    answers(&ns, "http://manual/", "one version 1");
    let _ = ns.kubectl.run("delete endpointslice manual-1").ok();
    eventually("nobody answers any more", 30, || {
        fetch(&ns, "http://manual/").map_or_else(|_| Ok(()), Err)
    });
}

#[test]
fn a_client_stays_with_its_endpoint_when_asked_to() {
    let ns = Namespace::new("affinity");
    client(&ns);
    for name in ["one", "two", "three"] {
        ns.kubectl.apply(&web(name, "web", true).to_string());
    }
    let spec =
        json!({"selector": {"app": "web"}, "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 8080}]});
    ns.kubectl.apply(&service("web", &spec));
    assert_eq!(
        ns.kubectl
            .field("service web", "/spec/sessionAffinityConfig/clientIP/timeoutSeconds"),
        json!(10800)
    );
    ready(&ns, "pod/client pod/one pod/two pod/three");
    eventually_eq("three ready endpoints", 30, 3, || endpoints(&ns, "web", true));
    answers(&ns, "http://web/", "version 1");
    // The proxy may still be learning of the last endpoint when the first answer comes.
    eventually("nine answers in a row come from one endpoint", 30, || {
        let answers: std::collections::BTreeSet<_> = (0..9).map(|_| fetch(&ns, "http://web/")).collect();
        if answers.len() == 1 && answers.iter().all(Result::is_ok) {
            Ok(())
        } else {
            Err(answers)
        }
    });
}

#[test]
fn a_type_changes_and_takes_what_belongs_to_it_along() {
    let ns = Namespace::new("types");
    ns.kubectl.apply(&service(
        "web",
        &json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    let get = |pointer: &str| ns.kubectl.field("service web", pointer);
    let address = get("/spec/clusterIP");
    assert_eq!(
        (get("/spec/type"), get("/spec/ipFamilies")),
        (json!("ClusterIP"), json!(["IPv4"]))
    );
    let patch = |patch: Value| {
        let _ = ns
            .kubectl
            .run_of(&["patch", "service", "web", "--type", "merge", "-p", &patch.to_string()])
            .ok();
    };
    patch(json!({"spec": {"type": "NodePort"}}));
    let port = get("/spec/ports/0/nodePort").as_u64().unwrap_or_default();
    assert!((30000..=32767).contains(&port), "{port}");
    assert_eq!(get("/spec/clusterIP"), address);
    patch(json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(get("/spec/ports/0/nodePort"), Value::Null);
    patch(json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}));
    assert_eq!(get("/spec/clusterIP"), Value::Null);
    patch(json!({"spec": {"type": "ClusterIP", "externalName": null}}));
    assert!(
        get("/spec/clusterIP")
            .as_str()
            .is_some_and(|a| a.starts_with("10.232."))
    );
    let kept = ns.kubectl.run_of(&[
        "patch",
        "service",
        "web",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"clusterIP":"10.232.200.200"}}"#,
    ]);
    assert!(
        kept.refused().contains("spec.clusterIPs[0]: Invalid value"),
        "the address may not change"
    );
}

#[test]
fn a_service_keeps_answering_while_its_pods_are_replaced() {
    let ns = Namespace::new("replaced");
    client(&ns);
    ns.serve_web("");
    ready(&ns, "pod/client");
    answers(&ns, "http://web/", "version 1");
    let _ = ns
        .kubectl
        .run("set image deployment/web web=steersman.local/web:2")
        .ok();
    answers(&ns, "http://web/", "version 2");
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
    eventually("only the new version answers", 30, || {
        let seen: Vec<_> = (0..4).map(|_| fetch(&ns, "http://web/")).collect();
        let all_new = seen
            .iter()
            .all(|s| s.as_ref().is_ok_and(|text| text.contains("version 2")));
        if all_new { Ok(()) } else { Err(seen) }
    });
}
