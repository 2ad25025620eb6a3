//! Which records cluster DNS has, and how a pod's resolver is set up.

use serde_json::{Value, json};
use steersman_conformance::{Namespace, WEB_IMAGE, eventually};

/// A busybox pod, ready.
fn shell(ns: &Namespace, name: &str, spec: &Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "shell"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"]}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    ns.kubectl.apply(&pod.to_string());
    let _ = ns
        .kubectl
        .run(&format!("wait pod/{name} --for=condition=Ready --timeout=60s"))
        .ok();
}

fn run(ns: &Namespace, pod: &str, script: &str) -> String {
    ns.kubectl.run_of(&["exec", pod, "--", "sh", "-c", script]).stdout
}

/// Waits until looking `name` up shows every part.
fn shows(ns: &Namespace, pod: &str, name: &str, parts: &[&str]) {
    eventually(&format!("{name} gives {parts:?}"), 20, || {
        let text = run(ns, pod, &format!("nslookup {name} 2>&1"));
        if parts.iter().all(|part| text.contains(part)) {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn records_of_services_ports_pods_and_aliases() {
    let ns = Namespace::new("records");
    let of = |name: &str| format!("{name}.{}.svc.cluster.local", ns.name);
    let service = |name: &str, spec: Value| {
        ns.kubectl.apply(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string(),
        );
    };
    shell(&ns, "shell", &json!({}));
    let member = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "member", "labels": {"app": "set"}},
        "spec": {"hostname": "first", "subdomain": "set", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": WEB_IMAGE, "ports": [{"name": "http", "containerPort": 8080}]}]}});
    ns.kubectl.apply(&member.to_string());
    service(
        "set",
        json!({"clusterIP": "None", "selector": {"app": "set"}, "ports": [{"name": "http", "port": 8080}]}),
    );
    service(
        "web",
        json!({"selector": {"app": "set"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
    );
    service("alias", json!({"type": "ExternalName", "externalName": of("web")}));
    let _ = ns
        .kubectl
        .run("wait pod/member --for=condition=Ready --timeout=60s")
        .ok();
    let pod_ip = ns.kubectl.field("pod member", "/status/podIP");
    let pod_ip = pod_ip.as_str().expect("an address");
    let web_ip = ns.kubectl.field("service web", "/spec/clusterIP");
    let web_ip = web_ip.as_str().expect("an address");

    shows(&ns, "shell", &of("web"), &[web_ip]);
    shows(&ns, "shell", &of("set"), &[pod_ip]);
    shows(&ns, "shell", &of("first.set"), &[pod_ip]);
    shows(&ns, "shell", &of("alias"), &["canonical name", &of("web")]);
    shows(
        &ns,
        "shell",
        &format!("-type=srv {}", of("_http._tcp.web")),
        &[" 80 ", &of("web")],
    );
    shows(
        &ns,
        "shell",
        &format!("-type=srv {}", of("_http._tcp.set")),
        &[" 8080 ", &of("first.set")],
    );
    shows(&ns, "shell", web_ip, &[&of("web")]);
    shows(&ns, "shell", &of("nobody"), &["NXDOMAIN"]);
    shows(&ns, "shell", "-type=txt dns-version.cluster.local", &["1.1.0"]);
    shows(&ns, "shell", pod_ip, &[&of("first.set")]);
    let dashed = format!("{}.{}.pod.cluster.local", pod_ip.replace('.', "-"), ns.name);
    shows(&ns, "shell", &dashed, &[pod_ip]);

    // A headless Service without endpoints is no name; a Service without such an address is one.
    service(
        "none",
        json!({"clusterIP": "None", "selector": {"app": "none"}, "ports": [{"port": 80}]}),
    );
    shows(&ns, "shell", &of("none"), &["NXDOMAIN"]);
    let other = run(&ns, "shell", &format!("nslookup -type=mx {} 2>&1", of("web")));
    assert!(!other.contains("NXDOMAIN"), "{other}");
    // The search list makes full names of short ones.
    for short in ["web", &format!("web.{}", ns.name), &format!("web.{}.svc", ns.name)] {
        let text = run(&ns, "shell", &format!("ping -c 1 -W 1 {short} 2>&1"));
        assert!(text.contains(&format!("({web_ip})")), "{short}: {text}");
    }
}

#[test]
fn a_pods_resolver_is_what_its_policy_says() {
    let ns = Namespace::new("resolver");
    shell(&ns, "first", &json!({}));
    shell(
        &ns,
        "own",
        &json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["one.example.com"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
    );
    shell(
        &ns,
        "more",
        &json!({"dnsConfig": {"searches": ["two.example.com"], "options": [{"name": "timeout", "value": "3"}]}}),
    );
    shell(
        &ns,
        "named",
        &json!({"hostname": "host-a", "subdomain": "sub", "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["seven", "sieben"]}]}),
    );
    let resolv = |pod: &str| run(&ns, pod, "cat /etc/resolv.conf");
    let first = resolv("first");
    assert!(first.contains("nameserver 10.232.0.10"), "{first}");
    assert!(
        first.contains(&format!(
            "search {}.svc.cluster.local svc.cluster.local cluster.local",
            ns.name
        )),
        "{first}"
    );
    assert!(first.contains("options ndots:5"), "{first}");
    let own = resolv("own");
    assert!(
        own.contains("nameserver 192.0.2.53") && !own.contains("10.232.0.10"),
        "{own}"
    );
    assert!(
        own.contains("search one.example.com") && own.contains("ndots:2") && own.contains("edns0"),
        "{own}"
    );
    let more = resolv("more");
    assert!(
        more.contains("cluster.local two.example.com") && more.contains("ndots:5") && more.contains("timeout:3"),
        "{more}"
    );
    let hosts = run(&ns, "named", "cat /etc/hosts");
    assert!(hosts.contains("192.0.2.7\tseven\tsieben"), "{hosts}");
    assert!(
        hosts.contains(&format!("\thost-a.sub.{}.svc.cluster.local\thost-a", ns.name)),
        "{hosts}"
    );
    assert_eq!(run(&ns, "named", "hostname"), "host-a\n");
    // Short names work through the search list.
    shows(&ns, "first", "kubernetes.default.svc.cluster.local", &["10.232.0.1"]);
    let short = run(
        &ns,
        "first",
        "timeout 5 wget -q -O - --no-check-certificate https://kubernetes.default/livez 2>&1",
    );
    assert!(!short.contains("bad address"), "{short}");
}

#[test]
fn pods_that_are_not_ready_are_published_only_on_request() {
    let ns = Namespace::new("unready");
    shell(&ns, "shell", &json!({}));
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "never", "labels": {"app": "never"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"], "readinessProbe": probe}]}});
    ns.kubectl.apply(&pod.to_string());
    for (name, publish) in [("hidden", false), ("shown", true)] {
        let spec = json!({"clusterIP": "None", "selector": {"app": "never"}, "publishNotReadyAddresses": publish, "ports": [{"port": 80}]});
        ns.kubectl.apply(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string(),
        );
    }
    let address = eventually("the pod has an address", 60, || {
        let address = ns.kubectl.field("pod never", "/status/podIP");
        address.as_str().map(str::to_owned).ok_or(address)
    });
    shows(
        &ns,
        "shell",
        &format!("shown.{}.svc.cluster.local", ns.name),
        &[&address],
    );
    let hidden = run(
        &ns,
        "shell",
        &format!("nslookup hidden.{}.svc.cluster.local 2>&1", ns.name),
    );
    assert!(!hidden.contains(&address), "{hidden}");
}
