//! The patch types: what each does to lists, maps and missing things.

use serde_json::{Value, json};
use steersman_conformance::http::Answer;
use steersman_conformance::{Http, Namespace};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";

/// A Deployment without pods, and patches of it.
struct Target {
    _ns: Namespace,
    http: Http,
    path: String,
}

impl Target {
    fn new(name: &str) -> Self {
        let ns = Namespace::new(name);
        let http = Http::admin(&ns.cluster);
        let collection = format!("/apis/apps/v1/namespaces/{}/deployments", ns.name);
        let container = |name: &str| json!({"name": name, "image": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "command": ["one", "two"]});
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "labels": {"a": "1", "b": "2"}, "annotations": {"note": "old"}, "finalizers": ["example.com/one"]},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                "template": {"metadata": {"labels": {"app": "d"}},
                    "spec": {"nodeSelector": {"x": "1", "y": "2"}, "tolerations": [{"key": "k", "operator": "Exists"}],
                        "containers": [container("main"), container("side")],
                        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}}}});
        let _ = http.json("POST", &collection, "application/json", &object).ok();
        let path = format!("{collection}/d");
        Self { _ns: ns, http, path }
    }

    fn patch(&self, media: &str, patch: &Value) -> Answer {
        self.http.json("PATCH", &self.path, media, patch)
    }

    /// A patch of the template's pod spec; the spec afterwards.
    fn strategic(&self, spec: &Value) -> Value {
        let patched = self
            .patch(STRATEGIC, &json!({"spec": {"template": {"spec": spec}}}))
            .ok();
        patched.pointer("/spec/template/spec").cloned().unwrap_or_default()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // The namespace could not go otherwise.
        let _ = self.patch(MERGE, &json!({"metadata": {"finalizers": null}}));
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|i| i["name"].as_str()).collect()
}

#[test]
fn a_merge_patch_sets_removes_and_replaces_whole_lists() {
    let target = Target::new("merge");
    let got = target
        .patch(
            MERGE,
            &json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": null}, "spec": {"paused": true}}),
        )
        .ok();
    assert_eq!(got.pointer("/metadata/labels"), Some(&json!({"b": "2", "c": "3"})));
    assert_eq!(got.pointer("/metadata/annotations/note"), None);
    assert_eq!(
        (got.pointer("/spec/paused"), got.pointer("/spec/replicas")),
        (Some(&json!(true)), Some(&json!(0)))
    );
    let got = target
        .patch(
            MERGE,
            &json!({"spec": {"template": {"spec": {"containers": [{"name": "only", "image": "y"}]}}}}),
        )
        .ok();
    assert_eq!(names(&got["spec"]["template"]["spec"]["containers"]), ["only"]);
    // A field that is taken away gets its default again.
    let got = target.patch(MERGE, &json!({"spec": {"revisionHistoryLimit": 3}})).ok();
    assert_eq!(got.pointer("/spec/revisionHistoryLimit"), Some(&json!(3)));
    let got = target
        .patch(MERGE, &json!({"spec": {"revisionHistoryLimit": null}}))
        .ok();
    assert_eq!(got.pointer("/spec/revisionHistoryLimit"), Some(&json!(10)));
}

#[test]
fn a_strategic_patch_merges_lists_by_their_keys() {
    let target = Target::new("strategic");
    let spec = target.strategic(&json!({"containers": [{"name": "side", "image": "y", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}, {"name": "new", "image": "z"}]}));
    let mut found = names(&spec["containers"]);
    found.sort_unstable();
    assert_eq!(found, ["main", "new", "side"]);
    let side = spec["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["name"] == "side")
        .expect("side");
    assert_eq!(side["image"], "y");
    let mut env: Vec<String> = side["env"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| format!("{}={}", e["name"], e["value"]).replace('"', ""))
        .collect();
    env.sort_unstable();
    assert_eq!(env, ["A=1", "B=3", "C=4"]);
    // A list without a key is replaced, and so is a map only where it is named.
    let spec = target.strategic(&json!({"nodeSelector": {"x": null, "z": "3"}, "tolerations": [{"key": "other", "operator": "Exists"}], "containers": [{"name": "main", "command": ["three"]}]}));
    assert_eq!(spec["nodeSelector"], json!({"y": "2", "z": "3"}));
    assert_eq!(spec["tolerations"], json!([{"key": "other", "operator": "Exists"}]));
    let main = spec["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["name"] == "main")
        .expect("main");
    assert_eq!(main["command"], json!(["three"]));
}

#[test]
fn a_strategic_patch_deletes_replaces_and_orders_on_request() {
    let target = Target::new("directives");
    let spec = target.strategic(&json!({"containers": [{"name": "side", "$patch": "delete"}]}));
    assert_eq!(names(&spec["containers"]), ["main"]);
    let spec = target.strategic(&json!({"containers": [{"name": "late", "image": "y"}], "$setElementOrder/containers": [{"name": "late"}, {"name": "main"}]}));
    assert_eq!(names(&spec["containers"]), ["late", "main"]);
    let spec = target.strategic(&json!({"containers": [{"$patch": "replace"}, {"name": "alone", "image": "y"}]}));
    assert_eq!(names(&spec["containers"]), ["alone"]);
    let spec = target.strategic(&json!({"nodeSelector": {"$patch": "replace", "n": "1"}}));
    assert_eq!(spec["nodeSelector"], json!({"n": "1"}));
    // Of a union, the other members go on request.
    let spec = target.strategic(
        &json!({"volumes": [{"name": "v", "configMap": {"name": "c"}, "$retainKeys": ["name", "configMap"]}]}),
    );
    assert_eq!(spec.pointer("/volumes/0/emptyDir"), None);
    assert_eq!(spec.pointer("/volumes/0/configMap/name"), Some(&json!("c")));
    // Lists of plain values that merge: finalizers.
    let got = target
        .patch(STRATEGIC, &json!({"metadata": {"finalizers": ["example.com/two"]}}))
        .ok();
    let mut finalizers: Vec<&str> = got["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    finalizers.sort_unstable();
    assert_eq!(finalizers, ["example.com/one", "example.com/two"]);
    let got = target
        .patch(
            STRATEGIC,
            &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/one"]}}),
        )
        .ok();
    assert_eq!(got["metadata"]["finalizers"], json!(["example.com/two"]));
}

#[test]
fn a_json_patch_does_its_steps_in_order_or_none() {
    let target = Target::new("jsonpatch");
    let got = target
        .patch(
            JSON,
            &json!([
                {"op": "test", "path": "/metadata/labels/a", "value": "1"},
                {"op": "replace", "path": "/metadata/labels/a", "value": "one"},
                {"op": "add", "path": "/metadata/labels/example.com~1slash", "value": "s"},
                {"op": "copy", "from": "/metadata/labels/a", "path": "/metadata/labels/copied"},
                {"op": "move", "from": "/metadata/labels/b", "path": "/metadata/labels/moved"},
                {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "last", "image": "y"}},
                {"op": "add", "path": "/spec/template/spec/containers/0", "value": {"name": "first", "image": "y"}},
                {"op": "remove", "path": "/spec/template/spec/containers/1"}
            ]),
        )
        .ok();
    assert_eq!(
        got.pointer("/metadata/labels"),
        Some(&json!({"a": "one", "copied": "one", "moved": "2", "example.com/slash": "s"}))
    );
    assert_eq!(
        names(&got["spec"]["template"]["spec"]["containers"]),
        ["first", "side", "last"]
    );

    let before = target.http.get(&target.path).ok();
    let half = target.patch(
        JSON,
        &json!([{"op": "replace", "path": "/metadata/labels/a", "value": "two"}, {"op": "test", "path": "/spec/paused", "value": "no"}]),
    );
    assert_eq!(half.code, 422, "{}", half.body);
    let missing = target.patch(JSON, &json!([{"op": "remove", "path": "/metadata/labels/none"}]));
    assert_eq!(missing.code, 422, "{}", missing.body);
    let replaced = target.patch(
        JSON,
        &json!([{"op": "replace", "path": "/spec/none/deeper", "value": 1}]),
    );
    assert_eq!(replaced.code, 422, "{}", replaced.body);
    let kept = target.http.get(&target.path).ok();
    assert_eq!(kept["metadata"]["labels"], before["metadata"]["labels"]);
}

#[test]
fn what_is_no_patch_is_refused() {
    let target = Target::new("nopatch");
    let code = |media: &str, body: &str| {
        let header = format!("Content-Type: {media}");
        target
            .http
            .send("PATCH", &target.path, &[&header], body.as_bytes())
            .code
    };
    assert_eq!(code(MERGE, "{"), 400);
    assert_eq!(code(STRATEGIC, "[]"), 400);
    assert_eq!(code(JSON, "{}"), 400);
    assert_eq!(code(JSON, r#"[{"op": "dance", "path": "/a"}]"#), 422);
    let steps = format!(
        "[{}]",
        vec![r#"{"op":"test","path":"/kind","value":"Deployment"}"#; 10_001].join(",")
    );
    assert_eq!(code(JSON, &steps), 413);
    let unknown = target
        .http
        .send("PATCH", &target.path, &["Content-Type: application/json"], b"{}");
    assert_eq!(unknown.code, 415);
    assert_eq!(unknown.json()["reason"], "UnsupportedMediaType", "{}", unknown.body);
}
