use serde_json::{Value, json};

use crate::harness::Server;

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

#[tokio::test]
async fn addresses_and_ports_are_given_once_and_taken_back() {
    let server = Server::start().await;
    let path = format!("{}/services", server.namespace("n", &[]).await);
    let made = server
        .post(&path, service("a", json!({"type": "NodePort"})))
        .await
        .expect(201);
    let (ip, port) = (
        made["spec"]["clusterIP"].as_str().unwrap().to_owned(),
        made["spec"]["ports"][0]["nodePort"].as_u64().unwrap(),
    );
    assert!(
        ip.starts_with("10.232.0.") && (30_000..=32_767).contains(&port),
        "{ip} {port}"
    );
    let holder = server
        .get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
        .await
        .expect(200);
    assert_eq!(holder["spec"]["parentRef"]["name"], "a");

    let taken = server
        .post(&path, service("b", json!({"clusterIP": ip})))
        .await
        .expect(422);
    assert!(
        taken["message"]
            .as_str()
            .unwrap()
            .ends_with("provided IP is already allocated"),
        "{taken}"
    );
    let same_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let taken = server.post(&path, service("b", same_port)).await.expect(422);
    assert!(
        taken["message"]
            .as_str()
            .unwrap()
            .ends_with("provided port is already allocated"),
        "{taken}"
    );

    server.delete(&format!("{path}/a")).await.expect(200);
    assert_eq!(
        server
            .get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
            .await
            .code,
        404
    );
    let again = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]});
    server.post(&path, service("b", again)).await.expect(201);
}

#[tokio::test]
async fn a_failed_create_gives_its_address_back() {
    let server = Server::start().await;
    let path = format!("{}/services", server.namespace("n", &[]).await);
    let bad = json!({"clusterIP": "10.232.0.77", "ports": [{"port": 99_999}]});
    server.post(&path, service("a", bad)).await.expect(422);
    server
        .post(&path, service("a", json!({"clusterIP": "10.232.0.77"})))
        .await
        .expect(201);
}

#[tokio::test]
async fn many_services_at_once_get_different_addresses() {
    let server = Server::start().await;
    let path = format!("{}/services", server.namespace("n", &[]).await);
    let names: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    let made = names
        .iter()
        .map(|name| server.post(&path, service(name, json!({"type": "NodePort"}))));
    let mut seen = std::collections::BTreeSet::new();
    for answer in futures::future::join_all(made).await {
        let value = answer.expect(201);
        assert!(
            seen.insert(value["spec"]["clusterIP"].as_str().unwrap().to_owned()),
            "{seen:?}"
        );
        assert!(
            seen.insert(value["spec"]["ports"][0]["nodePort"].to_string()),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn the_servers_own_service_is_there() {
    let server = Server::start().await;
    let service = server
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await
        .expect(200);
    assert_eq!(service["spec"]["clusterIP"], "10.232.0.1");
    let slice = server
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await
        .expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.1");
    let range = server
        .get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
        .await
        .expect(200);
    assert_eq!(range["status"]["conditions"][0]["type"], "Ready");
}

#[tokio::test]
async fn an_address_stays_unless_the_service_gives_it_up() {
    let server = Server::start().await;
    let path = format!("{}/services", server.namespace("n", &[]).await);
    let made = server.post(&path, service("a", json!({}))).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let other = json!({"spec": {"clusterIP": "10.232.0.200"}});
    server.patch(&format!("{path}/a"), "merge", other).await.expect(422);
    assert_eq!(
        server
            .get("/apis/networking.k8s.io/v1/ipaddresses/10.232.0.200")
            .await
            .code,
        404,
        "what the refused change took is given back"
    );
    let kept = server
        .put(&format!("{path}/a"), service("a", json!({"ports": [{"port": 81}]})))
        .await
        .expect(200);
    assert_eq!(
        (kept["spec"]["clusterIP"].as_str(), &kept["spec"]["clusterIPs"]),
        (Some(ip.as_str()), &json!([ip]))
    );
    let external =
        json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": null, "clusterIPs": null}});
    server.patch(&format!("{path}/a"), "merge", external).await.expect(200);
    assert_eq!(
        server
            .get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
            .await
            .code,
        404
    );
}
