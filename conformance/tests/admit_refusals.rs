//! Refusals: each is upstream's `Status`, and nothing is stored.

use serde_json::{Value, json};
use steersman_conformance::{Cluster, Http, Kubectl, Namespace};

fn create(kubectl: &Kubectl, object: &Value) -> String {
    kubectl
        .run_with(&["create", "--validate=false", "-f", "-"], &object.to_string())
        .refused()
}

#[test]
fn an_invalid_pod_is_told_every_fault_with_its_path() {
    let ns = Namespace::new("invalid");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Bad_Name"},
        "spec": {"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}, {"name": "a"}]}});
    let text = create(&ns.kubectl, &pod);
    for part in [
        "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[1].name: Duplicate value: \"a\"",
        "spec.containers[1].image: Required value",
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(ns.kubectl.run("get pods -o name").ok(), "");
}

#[test]
fn unknown_and_duplicate_fields_are_refused_when_validation_is_strict() {
    let ns = Namespace::new("strict");
    let text = ns.kubectl.run_with(
        &["create", "--validate=strict", "-f", "-"],
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"datta":{"a":"b"}}"#,
    );
    let text = text.refused();
    assert!(
        text.contains("strict decoding error: unknown field \"datta\""),
        "{text}"
    );
    let warned = ns.kubectl.run_with(
        &["create", "--validate=warn", "-f", "-"],
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"datta":{"a":"b"}}"#,
    );
    assert!(warned.stderr.contains("Warning: unknown field \"datta\""), "{warned:?}");
}

#[test]
fn what_is_not_there_or_is_there_already_is_said_in_upstreams_words() {
    let ns = Namespace::new("status");
    assert_eq!(
        ns.kubectl.run("get pod ghost").refused().trim(),
        "Error from server (NotFound): pods \"ghost\" not found"
    );
    let _ = ns.kubectl.run("create configmap c").ok();
    let again = ns.kubectl.run("create configmap c").refused();
    assert_eq!(
        again.trim(),
        "error: failed to create configmap: configmaps \"c\" already exists"
    );
    let nowhere = Kubectl::new(&ns.cluster)
        .in_namespace("no-such-namespace")
        .run("create configmap c")
        .refused();
    assert!(
        nowhere.contains("namespaces \"no-such-namespace\" not found"),
        "{nowhere}"
    );
    let kept = Kubectl::new(&ns.cluster).run("delete namespace default").refused();
    assert!(
        kept.contains("namespaces \"default\" is forbidden: this namespace may not be deleted"),
        "{kept}"
    );
}

#[test]
fn whoever_has_no_rights_is_told_which_are_missing() {
    let ns = Namespace::new("forbidden");
    let text = ns.kubectl.run("get pods --as=somebody").refused();
    let expected = format!(
        "pods is forbidden: User \"somebody\" cannot list resource \"pods\" in API group \"\" in the namespace \"{}\"",
        ns.name
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_stale_update_is_a_conflict() {
    let ns = Namespace::new("conflict");
    let _ = ns.kubectl.run("create configmap c --from-literal=a=1").ok();
    let stale = ns.kubectl.get("configmap c");
    let _ = ns.kubectl.run("label configmap c x=y").ok();
    let text = ns
        .kubectl
        .run_with(&["replace", "-f", "-"], &stale.to_string())
        .refused();
    let expected = "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn malformed_requests_get_an_answer_of_the_4xx_kind() {
    let cluster = Cluster::here();
    let http = Http::admin(&cluster);
    let maps = "/api/v1/namespaces/default/configmaps";
    let post = |content: &str, body: &str| {
        http.send("POST", maps, &[&format!("Content-Type: {content}")], body.as_bytes())
            .code
    };
    let get = |path: &str| http.get(path).code;
    assert_eq!(post("application/json", "{"), 400);
    assert_eq!(post("application/json", &"[".repeat(100_000)), 400);
    assert_eq!(post("application/yaml", "a: [b"), 400);
    assert_eq!(post("application/vnd.kubernetes.protobuf", "k8s\0\u{7f}\u{7f}"), 400);
    assert_eq!(post("application/x-unheard-of", "{}"), 415);
    assert_eq!(
        post(
            "application/json",
            &format!("{{\"x\":\"{}\"}}", "a".repeat(4 * 1024 * 1024))
        ),
        413
    );
    assert_eq!(
        post("application/json", "{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}"),
        400
    );
    assert_eq!(get(&format!("{maps}?labelSelector=a+in+b")), 400);
    assert_eq!(get(&format!("{maps}?fieldSelector=nothing")), 400);
    assert_eq!(get(&format!("{maps}?limit=many")), 400);
    assert_eq!(get(&format!("{maps}?continue=garbage")), 400);
    assert_eq!(get(&format!("{maps}?resourceVersion=abc")), 400);
    assert_eq!(get("/api/v1/nothing"), 404);
    assert_eq!(http.send("PUT", "/api/v1/pods", &[], &[]).code, 405);
    assert_eq!(http.send("GET", maps, &["Accept: image/png"], &[]).code, 406);
    assert_eq!(get("/readyz"), 200);
}

#[test]
fn without_credentials_only_the_health_paths_answer() {
    let http = Http::anonymous(&Cluster::here());
    assert_eq!(http.get("/livez").code, 200);
    assert_eq!(http.get("/readyz").code, 200);
    assert_eq!(http.get("/api/v1/pods").code, 401);
    assert_eq!(http.get("/version").code, 401);
    assert_eq!(
        http.send("GET", "/livez", &["Authorization: Bearer not-a-token"], &[])
            .code,
        401
    );
}
