//! The API server as a plain HTTP client sees it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use steersman_conformance::Cluster;

/// A client as the administrator, to another server than the kubeconfig's if `server` says so.
pub async fn client(cluster: &Cluster, server: Option<&str>) -> Result<Client> {
    let mut file = Kubeconfig::read_from(cluster.kubeconfig())?;
    if let Some(server) = server {
        for named in &mut file.clusters {
            if let Some(cluster) = &mut named.cluster {
                cluster.server = Some(server.to_owned());
            }
        }
    }
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// One request; the body of a successful answer.
pub async fn send(client: &Client, method: &str, path: &str, accept: &str, body: Option<&Value>) -> Result<Bytes> {
    send_with(
        client,
        method,
        path,
        &[("accept", accept), ("content-type", "application/json")],
        body,
    )
    .await
}

/// [`send`] with headers of one's own.
pub async fn send_with(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<Bytes> {
    use http_body_util::BodyExt;
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        if *name != "content-type" || body.is_some() {
            request = request.header(*name, *value);
        }
    }
    let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string().into_bytes()));
    let response = client.send(request.body(body)?).await?;
    let status = response.status();
    let all = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&all));
    }
    Ok(all)
}

/// A JSON merge patch.
pub async fn patch(client: &Client, path: &str, body: &Value) -> Result<()> {
    let headers = [
        ("accept", "application/json"),
        ("content-type", "application/merge-patch+json"),
    ];
    send_with(client, "PATCH", path, &headers, Some(body)).await.map(drop)
}

pub async fn json(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let bytes = send(client, method, path, "application/json", body).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("{method} {path}"))
}

/// A namespace for a benchmark, with its service account. One that an interrupted run left is taken.
pub async fn namespace(client: &Client, name: &str) -> Result<()> {
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    if json(client, "GET", &format!("/api/v1/namespaces/{name}"), None)
        .await
        .is_err()
    {
        json(client, "POST", "/api/v1/namespaces", Some(&object)).await?;
    }
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    for _ in 0..600 {
        if json(client, "GET", &account, None).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("namespace {name} got no default service account")
}

/// Deletes a namespace and waits, at most two minutes, until nothing is left of it: what comes next is measured alone.
pub async fn drop_namespace(client: &Client, name: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{name}");
    json(client, "DELETE", &path, None).await?;
    for _ in 0..1200 {
        if json(client, "GET", &path, None).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("namespace {name} is not gone after two minutes")
}
