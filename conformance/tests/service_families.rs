//! Services of one address family and of two, on whatever cluster there is: one of `hack/up --dual-stack` serves both, any
//! other says so.

use serde_json::{Value, json};
use steersman_conformance::{Namespace, WEB_IMAGE, eventually};

fn service(ns: &Namespace, name: &str, more: &Value) -> steersman_conformance::Output {
    let mut spec = json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    ns.kubectl.run_with(&["apply", "-f", "-"], &object.to_string())
}

/// Families and how many addresses.
fn families(ns: &Namespace, name: &str) -> (Value, usize) {
    let spec = ns.kubectl.field(&format!("service {name}"), "/spec");
    let addresses = spec["clusterIPs"].as_array().map_or(0, Vec::len);
    (spec["ipFamilies"].clone(), addresses)
}

fn patch(ns: &Namespace, name: &str, policy: &str) {
    let change = json!({"spec": {"ipFamilyPolicy": policy}}).to_string();
    let _ = ns
        .kubectl
        .run_of(&["patch", "service", name, "--type=merge", "-p", &change])
        .ok();
}

#[test]
fn a_service_has_the_families_that_it_asks_for_and_the_cluster_has() {
    let ns = Namespace::new("families");
    let cidrs = ns.kubectl.field("servicecidr kubernetes", "/spec/cidrs");
    let _ = service(&ns, "plain", &json!({})).ok();
    assert_eq!(families(&ns, "plain"), (json!(["IPv4"]), 1));
    let _ = service(&ns, "heads", &json!({"clusterIP": "None", "selector": null})).ok();
    assert_eq!(families(&ns, "heads"), (json!(["IPv4", "IPv6"]), 1));
    let _ = service(&ns, "prefers", &json!({"ipFamilyPolicy": "PreferDualStack"})).ok();
    if cidrs.as_array().map_or(0, Vec::len) == 1 {
        assert_eq!(families(&ns, "prefers"), (json!(["IPv4"]), 1));
        let refused = service(&ns, "requires", &json!({"ipFamilyPolicy": "RequireDualStack"})).refused();
        let why = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services";
        assert!(refused.contains(why), "{refused}");
        let refused = service(&ns, "six", &json!({"ipFamilies": ["IPv6"]})).refused();
        assert!(
            refused.contains("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
            "{refused}"
        );
        return;
    }
    let both = (json!(["IPv4", "IPv6"]), 2);
    assert_eq!(families(&ns, "prefers"), both);
    let _ = service(&ns, "six", &json!({"ipFamilies": ["IPv6"]})).ok();
    assert_eq!(families(&ns, "six"), (json!(["IPv6"]), 1));
    // It grows, and shrinks again; its first address stays.
    let first = ns.kubectl.field("service six", "/spec/clusterIP");
    patch(&ns, "six", "RequireDualStack");
    assert_eq!(families(&ns, "six"), (json!(["IPv6", "IPv4"]), 2));
    patch(&ns, "six", "SingleStack");
    assert_eq!(families(&ns, "six"), (json!(["IPv6"]), 1));
    assert_eq!(ns.kubectl.field("service six", "/spec/clusterIP"), first);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": WEB_IMAGE}]}});
    ns.kubectl.apply(&pod.to_string());
    let _ = ns.kubectl.run("wait pod/web --for=condition=Ready --timeout=90s").ok();
    let ips = ns.kubectl.field("pod web", "/status/podIPs");
    assert_eq!(ips.as_array().map_or(0, Vec::len), 2, "{ips}");
    eventually("a slice for each family", 30, || {
        let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=prefers");
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let mut kinds: Vec<String> = slices
            .iter()
            .map(|s| s["addressType"].as_str().unwrap_or("-").to_owned())
            .collect();
        kinds.sort();
        if kinds == ["IPv4", "IPv6"] { Ok(()) } else { Err(kinds) }
    });
    let addresses = ns.kubectl.field("service prefers", "/spec/clusterIPs");
    for address in addresses.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        eventually(&format!("{host} answers"), 30, || {
            let url = format!("http://{host}/");
            let output = ns
                .kubectl
                .run_of(&["exec", "web", "--", "timeout", "2", "wget", "-qO-", &url]);
            if output.stdout == "web version 1\n" {
                Ok(())
            } else {
                Err(output)
            }
        });
        let named = ns.kubectl.run_of(&["exec", "web", "--", "nslookup", address]).stdout;
        assert!(
            named.contains(&format!("prefers.{}.svc.cluster.local", ns.name)),
            "{named}"
        );
    }
    let name = format!("prefers.{}.svc.cluster.local", ns.name);
    let six = ns
        .kubectl
        .run_of(&["exec", "web", "--", "nslookup", "-type=aaaa", &name])
        .stdout;
    assert!(
        addresses
            .pointer("/1")
            .and_then(Value::as_str)
            .is_some_and(|a| six.contains(a)),
        "{six}"
    );
}
