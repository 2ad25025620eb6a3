//! Lists as clients that go on watching use them: chunks, versions, tables, metadata.

use serde_json::{Value, json};
use steersman_conformance::maps::version;
use steersman_conformance::{Maps, Namespace};

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .filter_map(|i| i.pointer("/metadata/name")?.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn chunks_show_one_moment_even_while_objects_come_and_go() {
    let ns = Namespace::new("chunks");
    let maps = Maps::of(&ns);
    for i in 0..7 {
        let _ = maps.create(&format!("m{i}"), &json!({}));
    }
    let first = maps.list("limit=3").ok();
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    let token = first
        .pointer("/metadata/continue")
        .and_then(Value::as_str)
        .expect("a token")
        .to_owned();
    maps.delete("m3");
    let _ = maps.create("m8", &json!({}));
    let second = maps.list(&format!("limit=3&continue={token}")).ok();
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(version(&second), version(&first));
    let token = second
        .pointer("/metadata/continue")
        .and_then(Value::as_str)
        .expect("a token")
        .to_owned();
    let last = maps.list(&format!("limit=3&continue={token}")).ok();
    assert_eq!(names(&last), ["m6"]);
    assert_eq!(last.pointer("/metadata/continue"), None);
    // From the list's version on, a watch shows what the chunks did not.
    let watch = maps.watch(&format!("resourceVersion={}", version(&last)));
    assert_eq!(watch.next_named(), ("DELETED".into(), "m3".into()));
    assert_eq!(watch.next_named(), ("ADDED".into(), "m8".into()));
}

#[test]
fn a_chunk_tells_how_many_remain_unless_a_selector_makes_that_costly() {
    let ns = Namespace::new("remaining");
    let maps = Maps::of(&ns);
    for i in 0..4 {
        let _ = maps.create(&format!("a{i}"), &json!({}));
    }
    let selected = maps.list("limit=1").ok();
    assert_eq!(selected.pointer("/metadata/remainingItemCount"), None);
    // Controllers make some as well, for instance kube-root-ca.crt.
    let count = names(&maps.http.get(&maps.path).ok()).len();
    let all = maps.http.get(&format!("{}?limit=2", maps.path)).ok();
    assert_eq!(all.pointer("/metadata/remainingItemCount"), Some(&json!(count - 2)));
}

#[test]
fn a_token_belongs_to_its_request() {
    let ns = Namespace::new("token");
    let maps = Maps::of(&ns);
    for i in 0..3 {
        let _ = maps.create(&format!("a{i}"), &json!({}));
    }
    let first = maps.list("limit=1").ok();
    let token = first
        .pointer("/metadata/continue")
        .and_then(Value::as_str)
        .expect("a token")
        .to_owned();
    let bad = maps.list("limit=1&continue=%25%25");
    assert_eq!(bad.code, 400, "{}", bad.body);
    let both = maps.list(&format!("limit=1&continue={token}&resourceVersion={}", version(&first)));
    assert_eq!(both.code, 400, "{}", both.body);
    assert!(
        both.body
            .contains("specifying resource version is not allowed when using continue"),
        "{}",
        both.body
    );
}

#[test]
fn versions_say_how_fresh_an_answer_must_be() {
    let ns = Namespace::new("versions");
    let maps = Maps::of(&ns);
    let old = version(&maps.create("a", &json!({})));
    let now = version(&maps.create("b", &json!({})));
    assert_eq!(names(&maps.list("").ok()), ["a", "b"]);
    assert_eq!(
        names(
            &maps
                .list(&format!("resourceVersion={now}&resourceVersionMatch=NotOlderThan"))
                .ok()
        ),
        ["a", "b"]
    );
    let exact = maps
        .list(&format!("resourceVersion={old}&resourceVersionMatch=Exact"))
        .ok();
    assert_eq!((names(&exact), version(&exact)), (vec!["a".to_owned()], old.clone()));
    let missing = maps.list("resourceVersionMatch=Exact");
    assert_eq!(missing.code, 422, "{}", missing.body);
    let zero = maps.list("resourceVersion=0&resourceVersionMatch=Exact");
    assert_eq!(zero.code, 422, "{}", zero.body);
    let future: u64 = now.parse::<u64>().expect("a number") + 1_000_000;
    let late = maps.list(&format!("resourceVersion={future}"));
    assert_eq!(late.code, 504, "{}", late.body);
    assert!(late.body.contains("Too large resource version"), "{}", late.body);
    assert_eq!(late.json().pointer("/details/retryAfterSeconds"), Some(&json!(1)));
}

#[test]
fn a_list_comes_as_table_metadata_or_protobuf() {
    let ns = Namespace::new("listforms");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({}));
    let _ = maps.create("b", &json!({}));
    let path = format!("{}?labelSelector=test", maps.path);
    let get = |accept: &str, more: &str| {
        maps.http
            .send("GET", &format!("{path}{more}"), &[&format!("Accept: {accept}")], &[])
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io", "").ok();
    assert_eq!(table["kind"], "Table");
    let cells: Vec<&Value> = table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| &r["cells"][0])
        .collect();
    assert_eq!(cells, [&json!("a"), &json!("b")]);
    assert_eq!(
        table.pointer("/rows/0/object/kind"),
        Some(&json!("PartialObjectMetadata"))
    );
    assert_eq!(
        table.pointer("/rows/0/object/metadata/labels/test"),
        Some(&json!("yes"))
    );
    let whole = get("application/json;as=Table;v=v1;g=meta.k8s.io", "&includeObject=Object").ok();
    assert_eq!(whole.pointer("/rows/0/object/kind"), Some(&json!("ConfigMap")));
    assert_eq!(whole.pointer("/rows/0/object/data/a"), Some(&json!("1")));
    let bare = get("application/json;as=Table;v=v1;g=meta.k8s.io", "&includeObject=None").ok();
    assert!(bare.pointer("/rows/0/object").is_none_or(Value::is_null), "{bare}");

    let metadata = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "").ok();
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&metadata), ["a", "b"]);
    assert_eq!(metadata.pointer("/items/0/data"), None);
    let one = maps
        .http
        .send(
            "GET",
            &format!("{}/a", maps.path),
            &["Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"],
            &[],
        )
        .ok();
    assert_eq!(
        (&one["kind"], one.pointer("/data")),
        (&json!("PartialObjectMetadata"), None)
    );

    let protobuf = get("application/vnd.kubernetes.protobuf", "");
    assert!(protobuf.body.starts_with("k8s\0"), "{:?}", protobuf.body.get(..20));
    // The first that the server can do is taken.
    let fallback = get("application/json;as=Nothing;v=v1;g=meta.k8s.io,application/json", "").ok();
    assert_eq!(fallback["kind"], "ConfigMapList");
}

#[test]
fn fields_select_what_the_kind_allows() {
    let ns = Namespace::new("fields");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({}));
    let _ = maps.create("b", &json!({}));
    assert_eq!(names(&maps.list("fieldSelector=metadata.name%3Da").ok()), ["a"]);
    assert_eq!(names(&maps.list("fieldSelector=metadata.name!%3Da").ok()), ["b"]);
    assert_eq!(
        names(
            &maps
                .list(&format!("fieldSelector=metadata.namespace%3D{}", ns.name))
                .ok()
        ),
        ["a", "b"]
    );
    let everywhere = maps
        .http
        .get("/api/v1/configmaps?labelSelector=test%3Dyes&fieldSelector=metadata.name%3Da")
        .ok();
    assert!(names(&everywhere).contains(&"a".to_owned()));
    let pods = format!("/api/v1/namespaces/{}/pods", ns.name);
    for field in [
        "spec.nodeName%3Dx",
        "status.phase%3DRunning",
        "spec.restartPolicy%3DAlways",
        "spec.schedulerName%3Dx",
        "status.podIP%3D1.2.3.4",
        "spec.serviceAccountName%3Dx",
    ] {
        assert_eq!(
            names(&maps.http.get(&format!("{pods}?fieldSelector={field}")).ok()),
            Vec::<String>::new(),
            "{field}"
        );
    }
    let unknown = maps.http.get(&format!("{pods}?fieldSelector=spec.priority%3D1"));
    assert_eq!(unknown.code, 400, "{}", unknown.body);
    assert!(
        unknown.body.contains("field label not supported: spec.priority"),
        "{}",
        unknown.body
    );
}

#[test]
fn a_collection_is_deleted_by_selector() {
    let ns = Namespace::new("deleteall");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({"colour": "blue"}));
    let _ = maps.create("b", &json!({"colour": "blue"}));
    let _ = maps.create("c", &json!({"colour": "red"}));
    let dry = maps
        .http
        .send(
            "DELETE",
            &format!("{}?labelSelector=colour%3Dblue&dryRun=All", maps.path),
            &[],
            &[],
        )
        .ok();
    assert_eq!(names(&dry).len(), 2, "{dry}");
    assert_eq!(names(&maps.list("").ok()), ["a", "b", "c"]);
    let _ = maps
        .http
        .send(
            "DELETE",
            &format!("{}?labelSelector=colour%3Dblue", maps.path),
            &[],
            &[],
        )
        .ok();
    assert_eq!(names(&maps.list("").ok()), ["c"]);
}
