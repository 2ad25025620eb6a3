use http::Method;
use serde_json::json;

use crate::harness::{ADMIN, NOBODY, Server, config};

#[tokio::test]
async fn nobody_gets_in_without_credentials_and_nothing_without_rights() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    server
        .send(Method::GET, &path, None, &[], "")
        .await
        .refused(401, "Unauthorized", "Unauthorized");
    server
        .send(Method::GET, &path, None, &[], "made-up")
        .await
        .refused(401, "Unauthorized", "Unauthorized");
    server.send(Method::GET, &path, None, &[], NOBODY).await.refused(
        403,
        "Forbidden",
        "configmaps is forbidden: User \"nobody\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"n\"",
    );
    server.send(Method::GET, "/metrics", None, &[], NOBODY).await.refused(
        403,
        "Forbidden",
        "forbidden: User \"nobody\" cannot get path \"/metrics\"",
    );
}

#[tokio::test]
async fn every_resource_is_closed_to_strangers() {
    let server = Server::start().await;
    for resource in server.api.resources.all() {
        let facts = resource.facts;
        let root = if facts.group.is_empty() {
            format!("/api/{}", facts.version)
        } else {
            format!("/apis/{}/{}", facts.group, facts.version)
        };
        let path = if facts.namespaced {
            format!("{root}/namespaces/x/{}", facts.plural)
        } else {
            format!("{root}/{}", facts.plural)
        };
        assert_eq!(server.send(Method::GET, &path, None, &[], "").await.code, 401, "{path}");
        let refused = server.send(Method::GET, &path, None, &[], NOBODY).await.code;
        assert_eq!(refused, 403, "{path}");
    }
}

#[tokio::test]
async fn paths_and_methods_that_nobody_serves() {
    let server = Server::start().await;
    let path = server.namespace("n", &["a"]).await;
    let missing = "the server could not find the requested resource";
    let method = "the server does not allow this method on the requested resource";
    server
        .get(&format!("{path}/foos"))
        .await
        .refused(404, "NotFound", missing);
    server
        .get(&format!("{path}/configmaps/a/status"))
        .await
        .refused(404, "NotFound", missing);
    server
        .get("/api/v1/namespaces/n/nodes")
        .await
        .refused(404, "NotFound", missing);
    assert_eq!(server.get("/apis/foo/v1/bars").await.text, "404 page not found\n");
    server
        .post(&format!("{path}/configmaps/a"), json!({}))
        .await
        .refused(405, "MethodNotAllowed", method);
    server
        .put(&format!("{path}/configmaps"), json!({}))
        .await
        .refused(405, "MethodNotAllowed", method);
    server
        .post("/api/v1/configmaps", config("a"))
        .await
        .refused(405, "MethodNotAllowed", method);
    server
        .delete("/api/v1/namespaces")
        .await
        .refused(405, "MethodNotAllowed", method);
}

#[tokio::test]
async fn bad_bodies_are_told_what_is_wrong() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    for body in [
        "",
        "hello",
        "{\"a\":",
        "[]",
        "null",
        "{\"data\":{\"a\":1}}",
        "\u{0}",
        "{\"apiVersion\":\"v2\",\"kind\":\"ConfigMap\"}",
    ] {
        let answer = server
            .send(Method::POST, &path, Some(body.to_owned().into()), &[], ADMIN)
            .await;
        assert!(
            (400..500).contains(&answer.code),
            "{body:?}: {} {}",
            answer.code,
            answer.text
        );
        assert_eq!(answer.json()["kind"], "Status", "{body:?}");
    }
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "1");
    assert_eq!(
        server
            .send(Method::POST, &path, Some(deep.into()), &[], ADMIN)
            .await
            .code,
        400
    );
    let large = config("a")
        .to_string()
        .replace("\"1\"", &format!("{:?}", "x".repeat(4 << 20)));
    server
        .send(Method::POST, &path, Some(large.into()), &[], ADMIN)
        .await
        .refused(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        );
    let text = [("content-type", "text/plain")];
    assert_eq!(
        server
            .send(Method::POST, &path, Some("a".into()), &text, ADMIN)
            .await
            .code,
        415
    );
    let other = server
        .post(&path, json!({"metadata": {"name": "a", "namespace": "other"}}))
        .await;
    other.refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
}

#[tokio::test]
async fn bad_queries_are_told_what_is_wrong() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    for (query, code) in [
        ("limit=x", 400),
        ("resourceVersion=abc", 400),
        ("resourceVersion=-1", 400),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("resourceVersionMatch=Some&resourceVersion=1", 422),
        ("sendInitialEvents=true", 422),
        ("watch=1&sendInitialEvents=true", 422),
        ("labelSelector=a%20in%20(b", 400),
        ("labelSelector=%3D", 400),
        ("fieldSelector=foo%3Dbar", 400),
        ("continue=junk", 400),
        ("timeout=soon", 400),
        ("timeoutSeconds=x", 400),
    ] {
        let answer = server.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.text);
    }
    let future = server
        .get(&format!("{path}?resourceVersion=999999999"))
        .await
        .expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}
