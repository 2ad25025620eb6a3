//! Where a Service's traffic goes: traffic policies, hints, termination, addresses from outside, health checks, UDP.

use serde_json::{Value, json};
use steersman_conformance::{Namespace, WEB_IMAGE, eventually};

/// A web server on a node. It also serves as client, since its image has a shell.
fn pod(name: &str, app: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": WEB_IMAGE, "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

/// Applies all at once and waits until all are ready.
fn start(ns: &Namespace, pods: &[Value]) {
    let documents: Vec<String> = pods.iter().map(Value::to_string).collect();
    ns.kubectl.apply(&documents.join("\n---\n"));
    let names: Vec<String> = pods
        .iter()
        .map(|p| format!("pod/{}", p["metadata"]["name"].as_str().unwrap_or_default()))
        .collect();
    let wait = format!("wait {} --for=condition=Ready --timeout=90s", names.join(" "));
    let _ = ns.kubectl.run(&wait).ok();
}

fn service(ns: &Namespace, name: &str, spec: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    ns.kubectl.apply(&object.to_string());
}

fn patch(ns: &Namespace, what: &str, flags: &[&str], change: &Value) {
    let text = change.to_string();
    let args = [&["patch", what, "--type=merge", "-p", text.as_str()], flags].concat();
    let _ = ns.kubectl.run_of(&args).ok();
}

fn field(ns: &Namespace, what: &str, pointer: &str) -> String {
    let value = ns.kubectl.field(what, pointer);
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A request from inside a pod: the answer, `refused`, or `silence` when nothing comes within two seconds.
fn from_pod(ns: &Namespace, pod: &str, url: &str) -> String {
    from_pod_within(2, ns, pod, url)
}

fn from_pod_within(seconds: u32, ns: &Namespace, pod: &str, url: &str) -> String {
    let script = format!("timeout {seconds} wget -q -O - {url} 2>&1; echo \" code $?\"");
    let text = ns.kubectl.run_of(&["exec", pod, "--", "sh", "-c", &script]).stdout;
    match text.rsplit_once(" code ") {
        Some((answer, "0\n")) => answer.trim().to_owned(),
        Some((error, _)) if error.contains("refused") => "refused".to_owned(),
        Some((error, "143\n" | "124\n")) if error.trim().is_empty() || error.contains("Terminated") => {
            "silence".to_owned()
        }
        _ => text,
    }
}

/// The same from outside the cluster: this machine, which is no node.
fn from_outside(url: &str) -> String {
    let output = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "2", url])
        .output()
        .expect("curl starts");
    match output.status.code() {
        Some(0) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Some(7) => "refused".to_owned(),
        Some(28) => "silence".to_owned(),
        other => format!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn comes_to(what: &str, expected: &str, mut answer: impl FnMut() -> String) {
    eventually(&format!("{what}: {expected}"), 30, || {
        let seen = answer();
        if seen == expected { Ok(()) } else { Err(seen) }
    });
}

fn node_address(ns: &Namespace, node: &str) -> String {
    field(ns, &format!("node {node}"), "/status/addresses/0/address")
}

#[test]
fn a_node_port_keeps_to_the_external_policy_and_can_move() {
    let ns = Namespace::new("outside");
    service(
        &ns,
        "web",
        &json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}),
    );
    start(&ns, &[pod("one", "web", "node-1"), pod("other", "client", "node-2")]);
    let port = || field(&ns, "service web", "/spec/ports/0/nodePort");
    let first = port();
    let nodes = ["node-1", "node-2"].map(|node| node_address(&ns, node));
    for node in &nodes {
        comes_to("any node answers", "one version 1", || {
            from_outside(&format!("http://{node}:{first}/"))
        });
    }
    // Another node's endpoint cannot answer the client directly, so it sees the node.
    let seen = from_outside(&format!("http://{}:{first}/client", nodes[1]));
    assert_ne!(seen, "198.18.30.1", "masqueraded");

    patch(
        &ns,
        "service/web",
        &[],
        &json!({"spec": {"externalTrafficPolicy": "Local"}}),
    );
    comes_to("the node without endpoints", "silence", || {
        from_outside(&format!("http://{}:{first}/", nodes[1]))
    });
    comes_to("the node with an endpoint shows it the client", "198.18.30.1", || {
        from_outside(&format!("http://{}:{first}/client", nodes[0]))
    });
    // Pods may use a node port as they would use the cluster address.
    comes_to("a pod on the node without endpoints", "one version 1", || {
        from_pod(&ns, "other", &format!("http://{}:{first}/", nodes[1]))
    });

    let second = if first == "32767" {
        32766
    } else {
        first.parse::<u32>().unwrap_or_default() + 1
    };
    // The next number may be taken by somebody else's Service; the server gives another one then.
    let ports = json!([{"port": 80, "targetPort": "http", "nodePort": second}]);
    let change = json!({"spec": {"ports": ports}}).to_string();
    if ns
        .kubectl
        .run_of(&["patch", "service/web", "--type=merge", "-p", &change])
        .code
        != 0
    {
        patch(
            &ns,
            "service/web",
            &[],
            &json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": null}}),
        );
        patch(
            &ns,
            "service/web",
            &[],
            &json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Local"}}),
        );
    }
    let moved = port();
    comes_to("the new port", "one version 1", || {
        from_outside(&format!("http://{}:{moved}/", nodes[0]))
    });
    if moved != first {
        comes_to("the old port", "refused", || {
            from_outside(&format!("http://{}:{first}/", nodes[0]))
        });
    }
}

#[test]
fn inside_traffic_stays_on_its_node_when_told_to_or_prefers_it() {
    let ns = Namespace::new("inside");
    let spec = |more: Value| {
        let mut spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    service(&ns, "strict", &spec(json!({"internalTrafficPolicy": "Local"})));
    service(&ns, "close", &spec(json!({"trafficDistribution": "PreferSameNode"})));
    let pods = [
        pod("one", "web", "node-1"),
        pod("first", "client", "node-1"),
        pod("second", "client", "node-2"),
    ];
    start(&ns, &pods);
    comes_to("an endpoint here", "one version 1", || {
        from_pod(&ns, "first", "http://strict/")
    });
    comes_to("none here", "silence", || from_pod(&ns, "second", "http://strict/"));
    // A preference is none while there is no choice.
    comes_to("the only endpoint", "one version 1", || {
        from_pod(&ns, "second", "http://close/")
    });
    let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=close");
    assert_eq!(
        slices.pointer("/items/0/endpoints/0/hints/forNodes"),
        Some(&json!([{"name": "node-1"}])),
        "{slices}"
    );

    start(&ns, &[pod("two", "web", "node-2")]);
    for (client, expected) in [("first", "one version 1"), ("second", "two version 1")] {
        eventually(&format!("six answers for {client} come from its own node"), 30, || {
            let seen: Vec<String> = (0..6).map(|_| from_pod(&ns, client, "http://close/")).collect();
            if seen.iter().all(|text| text == expected) {
                Ok(())
            } else {
                Err(seen)
            }
        });
        comes_to("the strict one as well", expected, || {
            from_pod(&ns, client, "http://strict/")
        });
    }
    let _ = ns.kubectl.run("delete pod one --wait=true").ok();
    comes_to(
        "another node's endpoint, when this node's is gone",
        "two version 1",
        || from_pod(&ns, "first", "http://close/"),
    );
    comes_to("the strict one has none", "silence", || {
        from_pod(&ns, "first", "http://strict/")
    });
    patch(
        &ns,
        "service/close",
        &[],
        &json!({"spec": {"trafficDistribution": null}}),
    );
    eventually("hints go with the field", 30, || {
        let slices = ns
            .kubectl
            .get("endpointslices -l kubernetes.io/service-name=close")
            .to_string();
        if slices.contains("hints") { Err(slices) } else { Ok(()) }
    });
}

#[test]
fn external_and_balancer_addresses_lead_inside_and_balancers_can_ask_for_health() {
    let ns = Namespace::new("balancer");
    // Documentation addresses: nobody has them, so only translation can make them answer.
    let (external, balancer) = ("192.0.2.71", "192.0.2.72");
    service(
        &ns,
        "web",
        &json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": [external],
            "selector": {"app": "web"}, "ports": [{"port": 8071, "targetPort": "http"}]}),
    );
    let health = field(&ns, "service web", "/spec/healthCheckNodePort");
    let ask = |node: &str| {
        let output = std::process::Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "2",
                "-w",
                " %{http_code} %header{X-Load-Balancing-Endpoint-Weight}",
            ])
            .arg(format!("http://{}:{health}/", node_address(&ns, node)))
            .output()
            .expect("curl starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once("} ").unwrap_or(("", &text));
        let body: Value = serde_json::from_str(&format!("{body}}}")).unwrap_or_default();
        (code.to_owned(), body)
    };
    let state = |code: &str, count: u32| {
        let service = json!({"namespace": ns.name, "name": "web"});
        let body = json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": true});
        (code.to_owned(), body)
    };
    eventually("without endpoints no node is healthy", 30, || {
        let seen = [ask("node-1"), ask("node-2")];
        if seen == [state("503 0", 0), state("503 0", 0)] {
            Ok(())
        } else {
            Err(seen)
        }
    });
    start(&ns, &[pod("one", "web", "node-1"), pod("other", "client", "node-2")]);
    eventually("only the node with the endpoint is healthy", 30, || {
        let seen = [ask("node-1"), ask("node-2")];
        if seen == [state("200 1", 1), state("503 0", 0)] {
            Ok(())
        } else {
            Err(seen)
        }
    });
    comes_to("an external address", "one version 1", || {
        from_pod(&ns, "other", &format!("http://{external}:8071/"))
    });

    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": balancer}]}}});
    patch(&ns, "service/web", &["--subresource=status"], &status);
    let url = format!("http://{balancer}:8071/");
    comes_to("the balancer's address", "one version 1", || {
        from_pod(&ns, "other", &url)
    });
    let ranges = |range: &str| {
        patch(
            &ns,
            "service/web",
            &[],
            &json!({"spec": {"loadBalancerSourceRanges": [range]}}),
        )
    };
    ranges("203.0.113.0/24");
    comes_to("a stranger", "silence", || from_pod(&ns, "other", &url));
    comes_to("other addresses have no ranges", "one version 1", || {
        from_pod(&ns, "other", &format!("http://{external}:8071/"))
    });
    ranges("10.231.0.0/16");
    comes_to("a guest", "one version 1", || from_pod(&ns, "other", &url));
    // A balancer that is a proxy itself must get what is sent to it.
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": balancer, "ipMode": "Proxy"}]}}});
    patch(&ns, "service/web", &["--subresource=status"], &status);
    eventually("the balancer's address is left to the balancer", 30, || {
        let seen = from_pod(&ns, "other", &url);
        if seen.contains("version 1") { Err(seen) } else { Ok(()) }
    });
}

#[test]
fn endpoints_serve_while_they_terminate_if_nobody_else_does_and_pods_reach_themselves() {
    let ns = Namespace::new("leaving");
    let mut leaving = pod("leaving", "web", "node-1");
    leaving["spec"]["terminationGracePeriodSeconds"] = json!(60);
    leaving["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 50}}});
    service(
        &ns,
        "web",
        &json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}),
    );
    start(&ns, &[leaving, pod("other", "client", "node-2")]);
    comes_to("by its Service", "leaving version 1", || {
        from_pod(&ns, "other", "http://web/")
    });
    comes_to("a pod to itself by its Service", "leaving version 1", || {
        from_pod(&ns, "leaving", "http://web/")
    });
    let _ = ns.kubectl.run("delete pod leaving --wait=false").ok();
    eventually("the endpoint is terminating", 30, || {
        let slices = ns.kubectl.get("endpointslices -l kubernetes.io/service-name=web");
        let conditions = slices.pointer("/items/0/endpoints/0/conditions").cloned();
        let expected = json!({"ready": false, "serving": true, "terminating": true});
        if conditions.as_ref() == Some(&expected) {
            Ok(())
        } else {
            Err(conditions)
        }
    });
    // The proxy has had the time of a few requests to take it out, if it would.
    for _ in 0..3 {
        assert_eq!(from_pod_within(20, &ns, "other", "http://web/"), "leaving version 1");
    }
    start(&ns, &[pod("fresh", "web", "node-2")]);
    eventually("only the one that stays answers", 30, || {
        let seen: Vec<String> = (0..5).map(|_| from_pod(&ns, "other", "http://web/")).collect();
        if seen.iter().all(|text| text == "fresh version 1") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let _ = ns.kubectl.run("delete pod leaving --force --grace-period=0").ok();
}

#[test]
fn a_udp_client_with_one_port_follows_the_endpoint_and_affinity_ends_in_time() {
    let ns = Namespace::new("udp");
    service(
        &ns,
        "udp",
        &json!({"selector": {"app": "web"}, "ports": [{"port": 53, "targetPort": 8080, "protocol": "UDP"}]}),
    );
    service(
        &ns,
        "sticky",
        &json!({"selector": {"sticky": "yes"}, "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}, "ports": [{"port": 80, "targetPort": "http"}]}),
    );
    let mut sticky: Vec<Value> = ["s1", "s2", "s3"]
        .iter()
        .map(|name| pod(name, "sticky", "node-2"))
        .collect();
    for pod in &mut sticky {
        pod["metadata"]["labels"]["sticky"] = json!("yes");
    }
    let mut pods = vec![pod("one", "web", "node-1"), pod("client", "client", "node-2")];
    pods.extend(sticky);
    start(&ns, &pods);
    let address = field(&ns, "service udp", "/spec/clusterIP");
    // The client's own server sends the packet: always from the same port.
    let ask = || from_pod(&ns, "client", &format!("http://localhost:8080/udp/{address}:53"));
    comes_to("the first endpoint", "one version 1", ask);
    let _ = ns.kubectl.run("delete pod one --wait=true").ok();
    start(&ns, &[pod("two", "web", "node-1")]);
    comes_to("its replacement", "two version 1", ask);

    let fetch = || from_pod(&ns, "client", "http://sticky/");
    eventually("a client is answered", 30, || {
        if fetch().contains("version 1") { Ok(()) } else { Err(()) }
    });
    let first = fetch();
    eventually("after a pause somebody else answers", 60, || {
        // This is what is tested: the client is remembered for a second.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let seen = fetch();
        if seen != first && seen.contains("version 1") {
            Ok(())
        } else {
            Err(seen)
        }
    });
}
