//! Cluster DNS as a pod sees it.

use steersman_conformance::{Namespace, eventually, manifest};

fn lookup(ns: &Namespace, name: &str) -> Result<String, String> {
    let output = ns.kubectl.run_of(&["exec", "client", "--", "nslookup", name]);
    if output.code == 0 {
        Ok(output.stdout)
    } else {
        Err(output.stdout + &output.stderr)
    }
}

#[test]
fn services_headless_services_and_missing_names_resolve_as_specified() {
    let ns = Namespace::new("dns");
    let _ = ns.kubectl.run_of(&["apply", "-f", &manifest("client.yaml")]).ok();
    ns.serve_web("");
    let _ = ns
        .kubectl
        .run("expose deployment web --name=headless --port=80 --target-port=8080 --cluster-ip=None")
        .ok();
    let _ = ns
        .kubectl
        .run("wait pod/client --for=condition=Ready --timeout=60s")
        .ok();

    let address = ns.kubectl.field("service web", "/spec/clusterIP");
    let full = |service: &str| format!("{service}.{}.svc.cluster.local", ns.name);
    eventually("the service's name gives its address", 20, || {
        let text = lookup(&ns, &full("web"))?;
        if text.contains(address.as_str().unwrap_or("-")) {
            Ok(())
        } else {
            Err(text)
        }
    });
    let pods = ns.kubectl.get("pods -l app=web");
    let addresses: Vec<String> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p.pointer("/status/podIP")?.as_str().map(str::to_owned))
        .collect();
    assert_eq!(addresses.len(), 2);
    eventually("a headless name gives the pods' addresses", 20, || {
        let text = lookup(&ns, &full("headless"))?;
        if addresses.iter().all(|a| text.contains(a.as_str())) {
            Ok(())
        } else {
            Err(text)
        }
    });
    let missing = lookup(&ns, &full("nobody"));
    assert!(missing.as_ref().is_err_and(|t| t.contains("NXDOMAIN")), "{missing:?}");
    assert!(lookup(&ns, "kubernetes.default.svc.cluster.local").is_ok_and(|t| t.contains("10.232.0.1")));
}
