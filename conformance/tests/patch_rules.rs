//! What holds for every patch: validation, conflicts, preconditions, subresources, dry runs.

use serde_json::{Value, json};
use steersman_conformance::maps::version;
use steersman_conformance::{Http, Maps, Namespace};

const MERGE: &str = "application/merge-patch+json";

#[test]
fn patches_at_the_same_time_are_all_kept() {
    let ns = Namespace::new("racing");
    let maps = Maps::of(&ns);
    let _ = maps.create("c", &json!({}));
    std::thread::scope(|scope| {
        for i in 0..8 {
            let maps = &maps;
            scope.spawn(move || {
                for j in 0..3 {
                    let _ = maps.merge("c", &json!({"data": {format!("k{i}-{j}"): "v"}}));
                }
            });
        }
    });
    let data = maps.get("c")["data"].as_object().cloned().unwrap_or_default();
    assert_eq!(data.keys().filter(|k| k.starts_with('k')).count(), 24);
}

#[test]
fn a_patch_with_a_version_or_uid_holds_only_for_that_one() {
    let ns = Namespace::new("precondition");
    let maps = Maps::of(&ns);
    let made = maps.create("c", &json!({}));
    let old = version(&made);
    let new = version(&maps.merge("c", &json!({"data": {"a": "2"}})));
    let stale = maps.patch(
        "c",
        MERGE,
        &json!({"metadata": {"resourceVersion": old}, "data": {"a": "3"}}),
    );
    assert_eq!(stale.code, 409, "{}", stale.body);
    assert!(
        stale
            .body
            .contains("the object has been modified; please apply your changes to the latest version and try again"),
        "{}",
        stale.body
    );
    let _ = maps.merge("c", &json!({"metadata": {"resourceVersion": new}, "data": {"a": "3"}}));
    let foreign = maps.patch(
        "c",
        MERGE,
        &json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}, "data": {"a": "4"}}),
    );
    assert_eq!(foreign.code, 422, "{}", foreign.body);
    assert!(foreign.body.contains("metadata.uid: Invalid value"), "{}", foreign.body);
    let other = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let refused = maps
        .http
        .json("DELETE", &format!("{}/c", maps.path), "application/json", &other);
    assert_eq!(refused.code, 409, "{}", refused.body);
    assert!(
        refused.body.contains(
            "the UID in the precondition (00000000-0000-0000-0000-000000000000) does not match the UID in record"
        ),
        "{}",
        refused.body
    );
    assert_eq!(maps.get("c").pointer("/data/a"), Some(&json!("3")));
}

#[test]
fn a_patch_that_changes_nothing_writes_nothing() {
    let ns = Namespace::new("nothing");
    let maps = Maps::of(&ns);
    let made = maps.create("c", &json!({}));
    let same = maps.merge("c", &json!({"data": {"a": "1"}}));
    assert_eq!(version(&same), version(&made));
    let watch = maps.watch(&format!("resourceVersion={}", version(&made)));
    let _ = maps.merge("c", &json!({}));
    let changed = version(&maps.merge("c", &json!({"data": {"a": "2"}})));
    assert_eq!(
        version(&watch.next(20)),
        changed,
        "the first event is that of the change"
    );
}

#[test]
fn what_cannot_be_changed_is_refused_or_kept() {
    let ns = Namespace::new("fixed");
    let maps = Maps::of(&ns);
    let made = maps.create("c", &json!({}));
    let renamed = maps.patch("c", MERGE, &json!({"metadata": {"name": "d"}}));
    assert_eq!(renamed.code, 400, "{}", renamed.body);
    assert!(
        renamed
            .body
            .contains("the name of the object (d) does not match the name on the URL (c)"),
        "{}",
        renamed.body
    );
    let moved = maps.patch("c", MERGE, &json!({"metadata": {"namespace": "default"}}));
    assert_eq!(moved.code, 400, "{}", moved.body);
    let kept = maps.merge(
        "c",
        &json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7, "labels": {"x": "y"}}}),
    );
    assert_eq!(
        kept.pointer("/metadata/creationTimestamp"),
        made.pointer("/metadata/creationTimestamp")
    );
    let missing = maps.patch("none", MERGE, &json!({"data": {"a": "1"}}));
    assert_eq!(missing.code, 404, "{}", missing.body);
    let sealed = maps.merge("c", &json!({"immutable": true}));
    assert_eq!(sealed["immutable"], true);
    let refused = maps.patch("c", MERGE, &json!({"data": {"a": "2"}}));
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        refused.body.contains("field is immutable when `immutable` is set"),
        "{}",
        refused.body
    );
}

#[test]
fn the_result_is_validated_and_unknown_fields_are_handled_as_asked() {
    let ns = Namespace::new("checked");
    let maps = Maps::of(&ns);
    let _ = maps.create("c", &json!({}));
    let path = |query: &str| format!("{}/c{query}", maps.path);
    let bad = maps.patch("c", MERGE, &json!({"metadata": {"labels": {"bad key": "x"}}}));
    assert_eq!(bad.code, 422, "{}", bad.body);
    assert!(bad.body.contains("metadata.labels: Invalid value"), "{}", bad.body);
    let wrong = maps.patch("c", MERGE, &json!({"data": {"a": 7}}));
    assert!(wrong.code == 400 || wrong.code == 422, "{}: {}", wrong.code, wrong.body);
    let unknown = json!({"datta": {"x": "y"}});
    let strict = maps
        .http
        .json("PATCH", &path("?fieldValidation=Strict"), MERGE, &unknown);
    assert_eq!(strict.code, 422, "{}", strict.body);
    assert!(
        strict
            .body
            .contains("strict decoding error: unknown field \\\"datta\\\""),
        "{}",
        strict.body
    );
    let _ = maps
        .http
        .json("PATCH", &path("?fieldValidation=Ignore"), MERGE, &unknown)
        .ok();
    let _ = maps
        .http
        .json("PATCH", &path("?fieldValidation=Warn"), MERGE, &unknown)
        .ok();
    let nonsense = maps
        .http
        .json("PATCH", &path("?fieldValidation=Perhaps"), MERGE, &json!({}));
    assert_eq!(nonsense.code, 422, "{}", nonsense.body);
}

#[test]
fn a_dry_run_answers_as_if_and_stores_nothing() {
    let ns = Namespace::new("dry");
    let maps = Maps::of(&ns);
    let made = maps.create("c", &json!({}));
    let shown = maps
        .http
        .json(
            "PATCH",
            &format!("{}/c?dryRun=All", maps.path),
            MERGE,
            &json!({"data": {"a": "2"}}),
        )
        .ok();
    assert_eq!(shown.pointer("/data/a"), Some(&json!("2")));
    assert_eq!(maps.get("c"), made);
    let refused = maps
        .http
        .json("PATCH", &format!("{}/c?dryRun=Some", maps.path), MERGE, &json!({}));
    assert_eq!(refused.code, 422, "{}", refused.body);
}

fn deployment(ns: &Namespace, http: &Http) -> String {
    let collection = format!("/apis/apps/v1/namespaces/{}/deployments", ns.name);
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "paused": true, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let _ = http.json("POST", &collection, "application/json", &object).ok();
    format!("{collection}/d")
}

#[test]
fn spec_and_status_are_patched_apart() {
    let ns = Namespace::new("halves");
    let http = Http::admin(&ns.cluster);
    let path = deployment(&ns, &http);
    let patch = |sub: &str, body: Value| http.json("PATCH", &format!("{path}{sub}"), MERGE, &body).ok();
    let condition = json!({"type": "Tested", "status": "True", "reason": "R", "message": "m", "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let got = patch(
        "",
        json!({"spec": {"minReadySeconds": 5}, "status": {"conditions": [condition]}}),
    );
    assert_eq!(got.pointer("/spec/minReadySeconds"), Some(&json!(5)));
    assert!(!got["status"].to_string().contains("Tested"), "{got}");
    let generation = got.pointer("/metadata/generation").cloned();
    let got = patch(
        "/status",
        json!({"spec": {"minReadySeconds": 9}, "status": {"conditions": [condition]}, "metadata": {"labels": {"x": "y"}}}),
    );
    assert_eq!(got.pointer("/spec/minReadySeconds"), Some(&json!(5)));
    assert!(got["status"].to_string().contains("Tested"), "{got}");
    assert_eq!(got.pointer("/metadata/generation").cloned(), generation);
    let read = http.get(&format!("{path}/status")).ok();
    assert_eq!(read["kind"], "Deployment");
}

#[test]
fn the_scale_of_a_workload_is_patched_through_its_own_object() {
    let ns = Namespace::new("scalepatch");
    let http = Http::admin(&ns.cluster);
    let path = deployment(&ns, &http);
    let scale = http
        .json(
            "PATCH",
            &format!("{path}/scale"),
            MERGE,
            &json!({"spec": {"replicas": 2}}),
        )
        .ok();
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(scale.pointer("/spec/replicas"), Some(&json!(2)));
    assert_eq!(scale.pointer("/status/selector"), Some(&json!("app=d")));
    let whole = http.get(&path).ok();
    assert_eq!(whole.pointer("/spec/replicas"), Some(&json!(2)));
    assert_eq!(whole.pointer("/spec/paused"), Some(&json!(true)));
    let negative = http.json(
        "PATCH",
        &format!("{path}/scale"),
        MERGE,
        &json!({"spec": {"replicas": -1}}),
    );
    assert_eq!(negative.code, 422, "{}", negative.body);
    let _ = http
        .json(
            "PATCH",
            &format!("{path}/scale"),
            MERGE,
            &json!({"spec": {"replicas": 0}}),
        )
        .ok();
}
