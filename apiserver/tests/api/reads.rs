use http::Method;
use serde_json::json;

use crate::harness::{ADMIN, Server};

#[tokio::test]
async fn a_list_is_paged_from_one_snapshot() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a", "b", "c"]).await);
    let first = server.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    assert!(
        first["items"][0].get("kind").is_none(),
        "items do not repeat what the list says"
    );
    // What happens in between is not seen by the second page.
    server.post(&path, crate::harness::config("d")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server
        .get(&format!("{path}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn selectors_cut_a_list() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a", "b"]).await);
    server
        .patch(
            &format!("{path}/a"),
            "merge",
            json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await
        .expect(200);
    for (query, names) in [
        ("labelSelector=x%3Dy", vec!["a"]),
        ("labelSelector=x!%3Dy", vec!["b"]),
        ("labelSelector=!x", vec!["b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
    ] {
        let list = server.get(&format!("{path}?{query}")).await.expect(200);
        let found: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(found, names, "{query}");
    }
}

#[tokio::test]
async fn an_exact_revision_shows_the_past() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let then = server.get(&path).await.expect(200)["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    server.delete(&format!("{path}/a")).await.expect(200);
    let past = server
        .get(&format!("{path}?resourceVersion={then}&resourceVersionMatch=Exact"))
        .await
        .expect(200);
    assert_eq!(past["items"].as_array().unwrap().len(), 1);
    let now = server
        .get(&format!(
            "{path}?resourceVersion={then}&resourceVersionMatch=NotOlderThan"
        ))
        .await
        .expect(200);
    assert!(now["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn three_encodings_say_the_same() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let accept = |kind: &'static str| [("accept", kind)];
    let yaml = server
        .send(
            Method::GET,
            &format!("{path}/a"),
            None,
            &accept("application/yaml"),
            ADMIN,
        )
        .await;
    assert!(yaml.text.contains("kind: ConfigMap"), "{}", yaml.text);
    for place in [path.clone(), format!("{path}/a")] {
        let protobuf = server
            .send(
                Method::GET,
                &place,
                None,
                &accept("application/vnd.kubernetes.protobuf"),
                ADMIN,
            )
            .await;
        assert_eq!(protobuf.headers["content-type"], "application/vnd.kubernetes.protobuf");
        assert!(protobuf.text.starts_with("k8s\0"));
    }
    let table = server
        .send(
            Method::GET,
            &path,
            None,
            &accept("application/json;as=Table;v=v1;g=meta.k8s.io"),
            ADMIN,
        )
        .await
        .expect(200);
    assert_eq!(
        (&table["kind"], &table["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = server
        .send(Method::GET, &path, None, &accept(partial), ADMIN)
        .await
        .expect(200);
    assert!(partial["items"][0].get("data").is_none());
}

#[tokio::test]
async fn a_protobuf_list_decodes_to_its_items() {
    use steersman_schema::codec::{MediaType, decode};
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a", "b", "c"]).await);
    let api = &server.api;
    let resource = api.resources.find("", "v1", "configmaps").unwrap();
    api.cache.fresh().await.unwrap();
    assert_eq!(
        api.cache
            .snapshot(&resource.prefix)
            .count("/registry/configmaps/n/", None),
        3
    );
    let response = server
        .send(
            Method::GET,
            &path,
            None,
            &[("accept", "application/vnd.kubernetes.protobuf")],
            ADMIN,
        )
        .await;
    let list = decode(MediaType::Protobuf, &response.bytes, None).unwrap().value;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["items"][2]["data"]["a"], "1");
}

#[tokio::test]
async fn discovery_has_both_forms_and_an_etag() {
    let server = Server::start().await;
    let legacy = server.get("/apis/apps/v1").await.expect(200);
    let names: Vec<&str> = legacy["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"deployments") && names.contains(&"deployments/scale"),
        "{names:?}"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = server
        .send(Method::GET, "/apis", None, &[("accept", accept)], ADMIN)
        .await;
    let etag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(aggregated.expect(200)["kind"], "APIGroupDiscoveryList");
    let again = server
        .send(
            Method::GET,
            "/apis",
            None,
            &[("accept", accept), ("if-none-match", &etag)],
            ADMIN,
        )
        .await;
    assert_eq!(again.code, 304);
}

#[tokio::test]
async fn health_is_open_to_all_and_lists_its_checks() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz", "/healthz"] {
        let answer = server.send(Method::GET, path, None, &[], "").await;
        assert_eq!((answer.code, answer.text.as_str()), (200, "ok"), "{path}");
    }
    let verbose = server.get("/readyz?verbose").await;
    assert!(
        verbose.text.contains("[+]etcd ok") && verbose.text.ends_with("readyz check passed\n"),
        "{}",
        verbose.text
    );
    assert_eq!(server.get("/livez/ping").await.text, "ok");
    assert_eq!(server.get("/livez/nothing").await.code, 404);
}
