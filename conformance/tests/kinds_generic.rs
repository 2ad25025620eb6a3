//! Every stable resource that can be written: created, read, listed, patched three ways, replaced, deleted.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use steersman_conformance::examples::{Served, examples, served};
use steersman_conformance::{Cluster, Http, Namespace, Nodes, eventually};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const JSON: &str = "application/json";

/// Some of these objects have controllers that write them too: what conflicts is tried again.
fn walk(http: &Http, namespace: &str, served: &Served, mut object: Value) {
    let collection = served.collection(namespace);
    let name = served.complete(&mut object, namespace);
    let Served { kind, api_version, .. } = served;
    let path = format!("{collection}/{name}");
    let _mine = (kind == "Node").then(|| Nodes::added(&Cluster::here()));

    let created = http
        .json("POST", &format!("{collection}?fieldValidation=Strict"), JSON, &object)
        .ok();
    assert_eq!(
        (&created["kind"], &created["apiVersion"]),
        (&json!(kind), &json!(api_version)),
        "{path}"
    );
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(created["metadata"][field].is_string(), "{path} has no {field}");
    }
    assert_eq!(http.json("POST", &collection, JSON, &object).code, 409, "{path} twice");
    let _ = http
        .json("PATCH", &path, MERGE, &json!({"metadata": {"labels": {"merge": "1"}}}))
        .ok();
    let _ = http
        .json(
            "PATCH",
            &path,
            STRATEGIC,
            &json!({"metadata": {"labels": {"strategic": "1"}}}),
        )
        .ok();
    let _ = http
        .json(
            "PATCH",
            &path,
            JSON_PATCH,
            &json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]),
        )
        .ok();
    let list = http
        .get(&format!(
            "{collection}?labelSelector=merge,strategic,json&fieldSelector=metadata.name={name}"
        ))
        .ok();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{path}: {list}");
    let table = http
        .send(
            "GET",
            &path,
            &["Accept: application/json;as=Table;g=meta.k8s.io;v=v1"],
            &[],
        )
        .ok();
    let cells = table
        .pointer("/rows/0/cells")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    // Not equality: upstream's rows of IP addresses have a cell more than there are columns.
    assert!(
        cells >= table["columnDefinitions"].as_array().map_or(1, Vec::len),
        "{path}: {table}"
    );
    eventually(&format!("{path} is replaced"), 10, || {
        let mut current = http.get(&path).ok();
        current["metadata"]["annotations"]["replaced"] = json!("1");
        let answer = http.json("PUT", &path, JSON, &current);
        if answer.code == 200 { Ok(()) } else { Err(answer) }
    });
    assert_eq!(
        http.get(&path).ok()["metadata"]["annotations"]["replaced"],
        json!("1"),
        "{path}"
    );
    let watch = http.watch(
        &format!("{collection}?watch=true&fieldSelector=metadata.name={name}"),
        &[],
    );
    assert_eq!(watch.next_named(), ("ADDED".to_owned(), name.clone()), "{path}");
    drop(watch);
    let _ = http.json("DELETE", &path, JSON, &Value::Null).ok();
    eventually(&format!("{path} is gone"), 60, || {
        let answer = http.get(&path);
        if answer.code == 404 { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn every_stable_resource_lives_through_all_verbs() {
    let ns = Namespace::new("kinds");
    let http = Http::admin(&ns.cluster);
    let served = served(&http);
    let mut examples = examples();
    let known: BTreeSet<&str> = examples.iter().map(|(resource, ..)| *resource).collect();
    let names: BTreeSet<&str> = served.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, known, "the examples are all that discovery lists");
    let mut work = served
        .iter()
        .map(|s| {
            let at = examples
                .iter()
                .position(|(resource, ..)| *resource == s.name)
                .expect("an example");
            (s, examples.swap_remove(at).1)
        })
        .collect::<Vec<_>>();
    // Four walkers with a share each.
    let share = work.len().div_ceil(4);
    std::thread::scope(|scope| {
        while !work.is_empty() {
            let mine = work.split_off(work.len().saturating_sub(share));
            let (http, namespace) = (&http, &ns.name);
            scope.spawn(move || {
                mine.into_iter()
                    .for_each(|(served, object)| walk(http, namespace, served, object))
            });
        }
    });
}
