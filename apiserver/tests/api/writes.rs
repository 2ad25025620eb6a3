use http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN, Server, config};

#[tokio::test]
async fn what_the_server_owns_a_client_cannot_set() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    let mut sent = config("a");
    sent["metadata"]["uid"] = "mine".into();
    sent["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    sent["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    let made = server.post(&path, sent).await.expect(201);
    assert_ne!(made["metadata"]["uid"], "mine");
    assert!(
        !made["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .starts_with("2001")
    );
    assert!(made["metadata"].get("deletionTimestamp").is_none());
}

#[tokio::test]
async fn names_are_generated() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    let made = server
        .post(&path, json!({"metadata": {"generateName": "web-"}}))
        .await
        .expect(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn a_stale_update_conflicts_and_an_equal_one_writes_nothing() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    let first = server.get(&path).await.expect(200);
    let same = server.put(&path, first.clone()).await.expect(200);
    assert_eq!(
        same["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let mut changed = first.clone();
    changed["data"]["a"] = "2".into();
    let second = server.put(&path, changed).await.expect(200);
    assert_ne!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let mut late = first;
    late["data"]["a"] = "3".into();
    server.put(&path, late).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
}

#[tokio::test]
async fn the_three_patches_change_an_object() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    server
        .patch(&path, "merge", json!({"data": {"b": "2"}}))
        .await
        .expect(200);
    server
        .patch(&path, "json", json!([{"op": "add", "path": "/data/c", "value": "3"}]))
        .await
        .expect(200);
    let done = server
        .patch(&path, "strategic-merge", json!({"data": {"a": null}}))
        .await
        .expect(200);
    assert_eq!(done["data"], json!({"b": "2", "c": "3"}));
    let refused = server
        .patch(&path, "json", json!([{"op": "test", "path": "/data/c", "value": "x"}]))
        .await;
    assert_eq!(refused.code, 422);
    let unknown = [("content-type", "application/x-patch")];
    assert_eq!(
        server
            .send(Method::PATCH, &path, Some("{}".into()), &unknown, ADMIN)
            .await
            .code,
        415
    );
}

#[tokio::test]
async fn many_patches_at_once_all_arrive() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    let all = (0..12).map(|n| server.patch(&path, "merge", json!({"data": {format!("k{n}"): "v"}})));
    for answer in futures::future::join_all(all).await {
        answer.expect(200);
    }
    assert_eq!(
        server.get(&path).await.expect(200)["data"].as_object().unwrap().len(),
        13
    );
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    server
        .post(&format!("{path}?dryRun=All"), config("b"))
        .await
        .expect(201);
    assert_eq!(server.get(&format!("{path}/b")).await.code, 404);
    server
        .patch(&format!("{path}/a?dryRun=All"), "merge", json!({"data": {"a": "9"}}))
        .await
        .expect(200);
    server.delete(&format!("{path}/a?dryRun=All")).await.expect(200);
    assert_eq!(server.get(&format!("{path}/a")).await.expect(200)["data"]["a"], "1");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    server
        .patch(&path, "merge", json!({"metadata": {"finalizers": ["x.io/hold"]}}))
        .await
        .expect(200);
    let dying = server.delete(&path).await.expect(200);
    assert!(dying["metadata"]["deletionTimestamp"].is_string());
    let refused = server
        .patch(
            &path,
            "merge",
            json!({"metadata": {"finalizers": ["x.io/hold", "y.io/more"]}}),
        )
        .await;
    assert_eq!(refused.code, 422);
    server
        .patch(&path, "merge", json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn preconditions_guard_a_delete() {
    let server = Server::start().await;
    let path = format!("{}/configmaps/a", server.namespace("n", &["a"]).await);
    let body = |value: Value| Some(value.to_string().into());
    let send = |value: Value| server.send(Method::DELETE, &path, body(value), &[], ADMIN);
    assert_eq!(send(json!({"preconditions": {"uid": "other"}})).await.code, 409);
    assert_eq!(send(json!({"preconditions": {"resourceVersion": "1"}})).await.code, 409);
    let status = send(json!({})).await.expect(200);
    assert_eq!(
        (&status["status"], &status["details"]["name"]),
        (&json!("Success"), &json!("a"))
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a", "b", "c"]).await);
    server
        .patch(
            &format!("{path}/b"),
            "merge",
            json!({"metadata": {"labels": {"keep": "1"}}}),
        )
        .await
        .expect(200);
    server.delete(&format!("{path}?labelSelector=!keep")).await.expect(200);
    let left = server.get(&path).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    let mut sent = config("a");
    sent["foo"] = 1.into();
    server.post(&format!("{path}?fieldValidation=Strict"), sent.clone()).await.refused(
        400,
        "BadRequest",
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\"",
    );
    let warned = server.post(&path, sent.clone()).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"foo\\\"\"");
    warned.expect(201);
    sent["metadata"]["name"] = "b".into();
    let ignored = server.post(&format!("{path}?fieldValidation=Ignore"), sent).await;
    assert!(!ignored.headers.contains_key("warning"));
}

#[tokio::test]
async fn a_pod_is_bound_once_and_dies_gracefully() {
    let server = Server::start().await;
    let path = server.namespace("n", &[]).await;
    server
        .post(
            &format!("{path}/serviceaccounts"),
            json!({"metadata": {"name": "default"}}),
        )
        .await
        .expect(201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post(&format!("{path}/pods"), pod).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    server
        .post(&format!("{path}/pods/p/binding"), binding.clone())
        .await
        .expect(201);
    server.post(&format!("{path}/pods/p/binding"), binding).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"",
    );
    let dying = server.delete(&format!("{path}/pods/p")).await.expect(200);
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 30);
    server
        .delete(&format!("{path}/pods/p?gracePeriodSeconds=0"))
        .await
        .expect(200);
    assert_eq!(server.get(&format!("{path}/pods/p")).await.code, 404);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let server = Server::start().await;
    let path = server.namespace("n", &["a"]).await;
    let dying = server.delete(&path).await.expect(200);
    assert_eq!(dying["status"]["phase"], "Terminating");
    assert_eq!(server.post(&format!("{path}/configmaps"), config("b")).await.code, 403);
    let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {}});
    server.put(&format!("{path}/finalize"), finalized).await.expect(200);
    assert_eq!(server.get(&path).await.code, 404);
}
