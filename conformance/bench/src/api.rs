//! The API server as a plain HTTP client sees it.

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
    use http_body_util::BodyExt;
    let mut request = Request::builder().method(method).uri(path).header("accept", accept);
    if body.is_some() {
        request = request.header("content-type", "application/json");
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

pub async fn json(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let bytes = send(client, method, path, "application/json", body).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("{method} {path}"))
}

/// A namespace for a benchmark, with its service account.
pub async fn namespace(client: &Client, name: &str) -> Result<()> {
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    json(client, "POST", "/api/v1/namespaces", Some(&object)).await?;
    for _ in 0..200 {
        if json(
            client,
            "GET",
            &format!("/api/v1/namespaces/{name}/serviceaccounts/default"),
            None,
        )
        .await
        .is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bail!("namespace {name} got no default service account")
}

pub async fn drop_namespace(client: &Client, name: &str) -> Result<()> {
    json(client, "DELETE", &format!("/api/v1/namespaces/{name}"), None)
        .await
        .map(drop)
}
