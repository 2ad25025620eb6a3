//! Server-side apply as kubectl users meet it.

use serde_json::{Value, json};
use steersman_conformance::Namespace;

fn deployment(replicas: u32, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers: [{{name: web, image: {image}}}]
"
    )
}

fn owners(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.filter_map(|entry| entry["manager"].as_str()).collect()
}

fn shown(ns: &Namespace) -> Value {
    let text = ns.kubectl.run("get deployment web -o json --show-managed-fields").ok();
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

#[test]
fn an_object_is_applied_by_the_server_and_conflicts_are_the_users_to_solve() {
    let ns = Namespace::new("apply");
    let apply = |flags: &[&str], yaml: &str| {
        let args = [&["apply", "--server-side", "-f", "-"], flags].concat();
        ns.kubectl.run_with(&args, yaml)
    };
    // No pods: the image does not exist.
    let first = apply(&[], &deployment(0, "none.invalid/web:1")).ok();
    assert_eq!(first, "deployment.apps/web serverside-applied\n");
    assert!(owners(&shown(&ns)).contains(&"kubectl"));

    let _ = ns.kubectl.run("set image deployment/web web=none.invalid/web:2").ok();
    let refused = apply(&[], &deployment(0, "none.invalid/web:1")).refused();
    let conflict = r#"Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: .spec.template.spec.containers[name="web"].image"#;
    assert!(refused.contains(conflict), "{refused}");
    let _ = apply(&["--force-conflicts"], &deployment(0, "none.invalid/web:3")).ok();
    let object = shown(&ns);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][0]["image"],
        "none.invalid/web:3"
    );
    assert!(!owners(&object).contains(&"kubectl-set"), "{:?}", owners(&object));

    // Another manager shares what it agrees with, and gives it up again.
    let mine = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, annotations: {note: mine}}\n";
    let _ = apply(&["--field-manager=other"], mine).ok();
    assert_eq!(shown(&ns)["metadata"]["annotations"]["note"], "mine");
    let bare = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let _ = apply(&["--field-manager=other"], bare).ok();
    assert_eq!(shown(&ns).pointer("/metadata/annotations/note"), None);
}

#[test]
fn what_was_applied_on_the_clients_side_moves_to_the_server_without_conflicts() {
    let ns = Namespace::new("migrate");
    let _ = ns
        .kubectl
        .run_with(&["apply", "-f", "-"], &deployment(0, "none.invalid/web:1"))
        .ok();
    assert!(owners(&shown(&ns)).contains(&"kubectl-client-side-apply"));
    let moved = ns
        .kubectl
        .run_with(
            &["apply", "--server-side", "-f", "-"],
            &deployment(0, "none.invalid/web:2"),
        )
        .ok();
    assert_eq!(moved, "deployment.apps/web serverside-applied\n");
    let object = shown(&ns);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][0]["image"],
        "none.invalid/web:2"
    );
    assert!(
        !owners(&object).contains(&"kubectl-client-side-apply"),
        "{:?}",
        owners(&object)
    );
    // A dry run on the server changes nothing.
    let args = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    let dry = ns.kubectl.run_with(&args, &deployment(0, "none.invalid/web:9")).ok();
    assert_eq!(dry, "deployment.apps/web serverside-applied (server dry run)\n");
    assert_eq!(
        shown(&ns)["metadata"]["resourceVersion"],
        object["metadata"]["resourceVersion"]
    );
}

#[test]
fn owners_are_not_shown_unless_asked_for() {
    let ns = Namespace::new("owners");
    let _ = ns.kubectl.run("create configmap c --from-literal=a=1").ok();
    assert_eq!(ns.kubectl.field("configmap c", "/metadata/managedFields"), Value::Null);
    let text = ns.kubectl.run("get configmap c -o json --show-managed-fields").ok();
    let object: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "kubectl-create");
    assert_eq!(
        object["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {".": {}, "f:a": {}}})
    );
}
