use serde_json::json;

use crate::harness::{Server, config};

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let mut watch = server.watch(&format!("{path}?watch=1")).await;
    assert_eq!(watch.named().await, "ADDED a");
    server.post(&path, config("b")).await.expect(201);
    server
        .patch(&format!("{path}/b"), "merge", json!({"data": {"a": "2"}}))
        .await
        .expect(200);
    let gone = server.delete(&format!("{path}/b")).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(watch.named().await, "ADDED b");
    let modified = watch.next().await.unwrap();
    assert_eq!(
        (&modified["type"], &modified["object"]["data"]["a"]),
        (&json!("MODIFIED"), &json!("2"))
    );
    let deleted = watch.next().await.unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["data"]["a"]),
        (&json!("DELETED"), &json!("2"))
    );
    assert_ne!(
        deleted["object"]["metadata"]["resourceVersion"],
        modified["object"]["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn an_object_moves_in_and_out_of_a_selector() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let mut watch = server.watch(&format!("{path}?watch=1&labelSelector=x%3Dy")).await;
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"x": value}}});
    for (value, event) in [
        (json!("y"), "ADDED a"),
        (json!("z"), "DELETED a"),
        (json!("y"), "ADDED a"),
    ] {
        server
            .patch(&format!("{path}/a"), "merge", label(value))
            .await
            .expect(200);
        assert_eq!(watch.named().await, event);
    }
}

#[tokio::test]
async fn a_watch_resumes_exactly() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let seen = server.get(&path).await.expect(200)["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    server.post(&path, config("b")).await.expect(201);
    server.post(&path, config("c")).await.expect(201);
    let mut watch = server.watch(&format!("{path}?watch=1&resourceVersion={seen}")).await;
    assert_eq!(watch.named().await, "ADDED b");
    assert_eq!(watch.named().await, "ADDED c");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a", "b"]).await);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{path}?{query}")).await;
    assert_eq!(watch.named().await, "ADDED a");
    assert_eq!(watch.named().await, "ADDED b");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn a_watch_of_one_object_hears_of_no_other() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let mut watch = server
        .watch(&format!(
            "{path}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion=0"
        ))
        .await;
    server
        .patch(&format!("{path}/a"), "merge", json!({"data": {"a": "2"}}))
        .await
        .expect(200);
    server.post(&path, config("b")).await.expect(201);
    assert_eq!(watch.named().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_at_its_time() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    let mut watch = server.watch(&format!("{path}?watch=1&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches() {
    let mut server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let mut watch = server.watch(&format!("{path}?watch=1")).await;
    assert_eq!(watch.named().await, "ADDED a");
    server.stop().await;
    assert!(watch.next().await.is_none());
}
