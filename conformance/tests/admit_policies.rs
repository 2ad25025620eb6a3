//! What admission adds to objects and refuses beyond validation: limits, quotas, pod security, priorities, accounts, ends.

use serde_json::{Value, json};
use steersman_conformance::{Http, Kubectl, Namespace, WEB_IMAGE, eventually};

fn pod(name: &str, container: &Value, spec: &Value) -> Value {
    let mut main = json!({"name": "c", "image": WEB_IMAGE});
    let mut whole = json!({"terminationGracePeriodSeconds": 0, "nodeSelector": {"nowhere": "yes"}});
    for (into, from) in [(&mut main, container), (&mut whole, spec)] {
        for (key, value) in from.as_object().into_iter().flatten() {
            into[key] = value.clone();
        }
    }
    whole["containers"] = json!([main]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})
}

/// Creates over HTTP; code and body.
fn post(ns: &Namespace, collection: &str, object: &Value) -> (u16, Value) {
    let answer = Http::admin(&ns.cluster).json(
        "POST",
        &format!("/api/v1/namespaces/{}/{collection}", ns.name),
        "application/json",
        object,
    );
    (answer.code, answer.json())
}

fn message(body: &Value) -> &str {
    body["message"].as_str().unwrap_or_default()
}

#[test]
fn a_limit_range_gives_defaults_and_bounds() {
    let ns = Namespace::new("limits");
    let limit = json!({"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m", "memory": "32Mi"}, "max": {"cpu": "1"}, "min": {"cpu": "50m"}});
    let range =
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [limit]}});
    assert_eq!(post(&ns, "limitranges", &range).0, 201);
    let (code, made) = eventually("the limit is known", 20, || {
        let (code, made) = post(&ns, "pods?dryRun=All", &pod("a", &json!({}), &json!({})));
        let limited = made.pointer("/spec/containers/0/resources/limits/cpu") == Some(&json!("200m"));
        if limited { Ok((code, made)) } else { Err(made) }
    });
    assert_eq!(code, 201);
    assert_eq!(
        made.pointer("/spec/containers/0/resources/requests"),
        Some(&json!({"cpu": "100m", "memory": "32Mi"}))
    );
    assert!(
        made.pointer("/metadata/annotations/kubernetes.io~1limit-ranger")
            .is_some(),
        "{made}"
    );
    let (code, refused) = post(
        &ns,
        "pods",
        &pod("b", &json!({"resources": {"limits": {"cpu": "2"}}}), &json!({})),
    );
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{refused}"
    );
    let (code, refused) = post(
        &ns,
        "pods",
        &pod("b", &json!({"resources": {"requests": {"cpu": "10m"}}}), &json!({})),
    );
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("minimum cpu usage per Container is 50m, but request is 10m"),
        "{refused}"
    );
}

#[test]
fn a_quota_counts_and_refuses_what_exceeds_it() {
    let ns = Namespace::new("quota");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "requests.cpu": "500m", "count/configmaps": "20"}}});
    assert_eq!(post(&ns, "resourcequotas", &quota).0, 201);
    eventually("the quota has a status", 30, || {
        let status = ns.kubectl.field("resourcequota q", "/status/hard/pods");
        if status == json!("1") { Ok(()) } else { Err(status) }
    });
    let (code, refused) = post(&ns, "pods", &pod("bare", &json!({}), &json!({})));
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("failed quota: q: must specify requests.cpu for: c"),
        "{refused}"
    );
    let asks = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
    let (code, refused) = post(&ns, "pods", &pod("large", &asks("1"), &json!({})));
    assert_eq!(code, 403);
    assert!(
        message(&refused)
            .contains("exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=0, limited: requests.cpu=500m"),
        "{refused}"
    );
    assert_eq!(post(&ns, "pods", &pod("one", &asks("100m"), &json!({}))).0, 201);
    let (code, refused) = post(&ns, "pods", &pod("two", &asks("100m"), &json!({})));
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
        "{refused}"
    );
    eventually("what is used is shown", 30, || {
        let used = ns.kubectl.field("resourcequota q", "/status/used");
        if used["pods"] == "1" && used["requests.cpu"] == "100m" {
            Ok(())
        } else {
            Err(used)
        }
    });
    let _ = ns.kubectl.run("delete pod one --timeout=60s").ok();
    eventually("what is gone is given back", 60, || {
        let (code, body) = post(&ns, "pods", &pod("two", &asks("100m"), &json!({})));
        if code == 201 { Ok(()) } else { Err(body) }
    });
}

#[test]
fn a_namespace_that_restricts_pods_says_what_is_wrong_with_one() {
    let ns = Namespace::new("restricted");
    let admin = Kubectl::new(&ns.cluster);
    let _ = admin
        .run(&format!(
            "label namespace {} pod-security.kubernetes.io/enforce=restricted",
            ns.name
        ))
        .ok();
    let refused = eventually("a plain pod is refused", 20, || {
        let (code, body) = post(&ns, "pods?dryRun=All", &pod("plain", &json!({}), &json!({})));
        if code == 403 { Ok(body) } else { Err(code) }
    });
    let expected = "pods \"plain\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert_eq!(message(&refused), expected);
    let good = json!({"securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}});
    let (code, body) = post(&ns, "pods?dryRun=All", &pod("good", &good, &json!({})));
    assert_eq!(code, 201, "{body}");
    // Workloads are only warned about.
    let warned = ns
        .kubectl
        .run(&format!("create deployment web --image={WEB_IMAGE} --replicas=0"));
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    let _ = admin
        .run(&format!(
            "label namespace {} pod-security.kubernetes.io/enforce- pod-security.kubernetes.io/warn=baseline",
            ns.name
        ))
        .ok();
    let warned = eventually("a privileged pod is warned about", 20, || {
        let bad = pod(
            "bad",
            &json!({"securityContext": {"privileged": true}}),
            &json!({"hostNetwork": true}),
        );
        let seen = ns
            .kubectl
            .run_with(&["create", "--dry-run=server", "-f", "-"], &bad.to_string());
        if seen.code == 0 && seen.stderr.contains("Warning: would violate") {
            Ok(seen.stderr)
        } else {
            Err(seen.stderr)
        }
    });
    assert!(
        warned.contains("PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"),
        "{warned}"
    );
    assert!(
        warned.contains("privileged (container \"c\" must not set securityContext.privileged=true)"),
        "{warned}"
    );
}

#[test]
fn a_pod_gets_its_priority_tolerations_account_and_defaults() {
    let ns = Namespace::new("additions");
    let (code, made) = post(
        &ns,
        "pods",
        &pod("a", &json!({}), &json!({"priorityClassName": "system-node-critical"})),
    );
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"]),
        (&json!(2_000_001_000), &json!("PreemptLowerPriority"))
    );
    let seconds: Vec<&Value> = spec["tolerations"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| &t["tolerationSeconds"])
        .collect();
    assert_eq!(seconds, [&json!(300), &json!(300)], "{spec}");
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let sources = spec
        .pointer("/volumes/0/projected/sources")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    // Token, root CA, namespace; a distribution may add its own.
    assert!(sources >= 3, "{spec}");
    assert_eq!(
        spec.pointer("/containers/0/volumeMounts/0/mountPath"),
        Some(&json!("/var/run/secrets/kubernetes.io/serviceaccount"))
    );
    assert_eq!(
        ["restartPolicy", "dnsPolicy", "schedulerName", "enableServiceLinks"].map(|f| spec[f].clone()),
        [
            json!("Always"),
            json!("ClusterFirst"),
            json!("default-scheduler"),
            json!(true)
        ]
    );
    assert_eq!(made.pointer("/status/qosClass"), Some(&json!("BestEffort")));
    let (code, refused) = post(
        &ns,
        "pods",
        &pod("b", &json!({}), &json!({"priorityClassName": "none"})),
    );
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains("no PriorityClass with name none was found"),
        "{refused}"
    );
    let (code, refused) = post(
        &ns,
        "pods",
        &pod("b", &json!({}), &json!({"serviceAccountName": "none"})),
    );
    assert_eq!(code, 403);
    assert!(
        message(&refused).contains(&format!(
            "error looking up service account {}/none: serviceaccount \"none\" not found",
            ns.name
        )),
        "{refused}"
    );
}

#[test]
fn a_namespace_that_is_ending_takes_nothing_new() {
    let ns = Namespace::new("ending");
    let kept = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "finalizers": ["example.com/kept"]}});
    assert_eq!(post(&ns, "configmaps", &kept).0, 201);
    let admin = Kubectl::new(&ns.cluster);
    let _ = admin.run(&format!("delete namespace {} --wait=false", ns.name)).ok();
    let (code, refused) = post(
        &ns,
        "configmaps",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}}),
    );
    let condition = eventually("the namespace says what is left", 30, || {
        let conditions = admin.field(&format!("namespace {}", ns.name), "/status/conditions");
        let found = conditions.as_array().and_then(|c| {
            c.iter()
                .find(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
                .cloned()
        });
        found.ok_or(conditions)
    });
    let _ = ns
        .kubectl
        .run_of(&[
            "patch",
            "configmap",
            "kept",
            "--type",
            "merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .ok();
    assert_eq!(code, 403);
    let expected = format!(
        "configmaps \"late\" is forbidden: unable to create new content in namespace {} because it is being terminated",
        ns.name
    );
    assert_eq!(message(&refused), expected);
    assert!(
        condition["message"]
            .as_str()
            .is_some_and(|m| m.contains("example.com/kept in 1 resource instances")),
        "{condition}"
    );
    eventually("the namespace is gone", 60, || {
        let seen = admin.run(&format!("get namespace {}", ns.name));
        if seen.stderr.contains("NotFound") {
            Ok(())
        } else {
            Err(seen.stdout)
        }
    });
    // What Drop deletes.
    let _ = admin.run(&format!("create namespace {}", ns.name)).ok();
}

#[test]
fn a_node_may_change_only_what_is_its_own() {
    let ns = Namespace::new("noderights");
    let as_node = |args: &str| {
        Kubectl::new(&ns.cluster).run(&format!(
            "{args} --as=system:node:node-1 --as-group=system:nodes --as-group=system:authenticated"
        ))
    };
    let own = as_node("label node node-1 example.com/test=yes --dry-run=server");
    assert_eq!(own.code, 0, "{}", own.stderr);
    let headers = [
        "Content-Type: application/merge-patch+json",
        "Impersonate-User: system:node:node-1",
        "Impersonate-Group: system:nodes",
    ];
    let change = br#"{"metadata":{"labels":{"example.com/test":"yes"}}}"#;
    let other = Http::admin(&ns.cluster).send("PATCH", "/api/v1/nodes/node-2?dryRun=All", &headers, change);
    assert_eq!(other.code, 403, "{}", other.body);
    assert!(
        other
            .body
            .contains("node \\\"node-1\\\" is not allowed to modify node \\\"node-2\\\""),
        "{}",
        other.body
    );
    let reserved = as_node("label node node-1 node-restriction.kubernetes.io/x=y --dry-run=server").refused();
    assert!(
        reserved.contains("is not allowed to modify labels: node-restriction.kubernetes.io/x"),
        "{reserved}"
    );
    let taint = as_node("taint node node-1 a=b:NoSchedule --dry-run=server").refused();
    assert!(taint.contains("is not allowed to modify taints"), "{taint}");
    let secret = as_node(&format!("get secrets -n {}", ns.name)).refused();
    assert!(secret.contains("forbidden"), "{secret}");
}
