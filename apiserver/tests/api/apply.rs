//! Server-side apply and the owners of fields, over the wire.

use http::Method;
use serde_json::{Value, json};

use super::harness::{ADMIN, Answer, Server};

/// Sends a PATCH of type apply.
async fn apply(server: &Server, path: &str, query: &str, config: &Value) -> Answer {
    let media = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{path}?{query}");
    server
        .send(Method::PATCH, &path, Some(config.to_string().into()), &media, ADMIN)
        .await
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// `manager operation subresource` of every owner.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let one = |e: &Value| {
        format!(
            "{} {} {}",
            text(e, "manager"),
            text(e, "operation"),
            text(e, "subresource")
        )
    };
    entries.iter().map(|entry| one(entry).trim_end().to_owned()).collect()
}

#[tokio::test]
async fn an_apply_creates_then_changes_nothing_then_removes_what_it_no_longer_names() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &[]).await);
    let first = apply(&server, &path, "fieldManager=me", &config(json!({"a": "1", "b": "2"})))
        .await
        .expect(201);
    assert_eq!(owners(&first), ["me Apply"]);
    assert_eq!(
        first["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {"f:a": {}, "f:b": {}}})
    );
    let again = apply(&server, &path, "fieldManager=me", &config(json!({"a": "1", "b": "2"})))
        .await
        .expect(200);
    assert_eq!(again, first);
    let less = apply(&server, &path, "fieldManager=me", &config(json!({"a": "1"})))
        .await
        .expect(200);
    assert_eq!(less["data"], json!({"a": "1"}));
}

#[tokio::test]
async fn others_fields_are_a_conflict_that_names_them_unless_forced() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &[]).await);
    apply(&server, &path, "fieldManager=me", &config(json!({"a": "1"})))
        .await
        .expect(201);
    let patch = server
        .patch(
            &format!("{path}?fieldManager=editor"),
            "merge",
            json!({"data": {"a": "2"}}),
        )
        .await
        .expect(200);
    assert_eq!(owners(&patch), ["editor Update"]);
    let refused = apply(&server, &path, "fieldManager=me", &config(json!({"a": "1"}))).await;
    assert_eq!(refused.code, 409);
    let refused = refused.json();
    assert_eq!(refused["reason"], "Conflict");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"editor\" using v1", "field": ".data.a"}])
    );
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a"
    );
    let forced = apply(&server, &path, "fieldManager=me&force=true", &config(json!({"a": "1"})))
        .await
        .expect(200);
    assert_eq!(
        (&forced["data"], owners(&forced)),
        (&json!({"a": "1"}), vec!["me Apply".to_owned()])
    );
}

#[tokio::test]
async fn wrong_applies_are_told_what_is_wrong() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    apply(&server, &path, "", &config(json!({}))).await.refused(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let refused = apply(&server, &path, "fieldManager=me", &pod).await;
    refused.refused(400, "BadRequest", "invalid object type: /v1, Kind=Pod");
    let mut other = config(json!({}));
    other["metadata"]["name"] = "b".into();
    let refused = apply(&server, &path, "fieldManager=me", &other).await;
    refused.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    let refused = server.patch(&format!("{path}?force=true"), "merge", json!({})).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn every_way_of_writing_leaves_its_mark() {
    let server = Server::start().await;
    let namespace = server.namespace("n", &[]).await.replace("/api/v1", "/apis/apps/v1");
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let path = format!("{namespace}/deployments");
    server
        .post(&format!("{path}?fieldManager=creator"), deployment)
        .await
        .expect(201);
    let path = format!("{path}/d");
    server
        .patch(
            &format!("{path}/status?fieldManager=watcher"),
            "merge",
            json!({"status": {"replicas": 1}}),
        )
        .await
        .expect(200);
    server
        .patch(
            &format!("{path}/scale?fieldManager=scaler"),
            "merge",
            json!({"spec": {"replicas": 3}}),
        )
        .await
        .expect(200);
    let mut owners = owners(&server.get(&path).await.expect(200));
    owners.sort();
    assert_eq!(
        owners,
        ["creator Update", "scaler Update scale", "watcher Update status"]
    );
}
