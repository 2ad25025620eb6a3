//! The endpoints of `default/kubernetes`: every running API server, by leases under `/registry/masterleases/`.
//!
//! Each server renews its own lease and writes the endpoints from all leases, so that a server that is gone disappears
//! after [`LEASE`] without anybody's help. Same keys and values as upstream.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use steersman_schema::codec;
use steersman_schema::status::Status;
use steersman_storage::store::{self, RangeRequest};

use super::{address, replace, write_new};
use crate::api::Api;
use crate::registry::object;

/// How long a server that does not renew counts as running (upstream: 15 s).
const LEASE: Duration = Duration::from_secs(15);

fn prefix(api: &Api) -> String {
    format!("{}/masterleases/", api.options.etcd.etcd_prefix.trim_end_matches('/'))
}

fn failed(error: store::Error) -> Status {
    Status::service_unavailable(format!("leases of the API servers: {error}"))
}

/// Renews our lease and writes the endpoints.
pub async fn reconcile(api: &Api) -> Result<(), Status> {
    if api.options.network.endpoint_reconciler_type == "none" {
        return Ok(());
    }
    if api.advertised.is_loopback() {
        // Endpoints may not be loopback addresses. Upstream tries, fails and logs, every ten seconds.
        return Ok(());
    }
    let own = api.advertised.to_string();
    renew(api, &own).await?;
    let leases = RangeRequest {
        prefix: prefix(api),
        ..RangeRequest::default()
    };
    let page = api.store.range(leases).await.map_err(failed)?;
    let mut addresses: Vec<String> = page
        .kvs
        .iter()
        .filter_map(|kv| kv.key.rsplit('/').next())
        .filter(|ip| ip.parse::<std::net::IpAddr>().is_ok())
        .map(str::to_owned)
        .collect();
    addresses.sort();
    addresses.dedup();
    write(api, endpoints(&addresses, api.options.serving.secure_port)).await?;
    write(api, slice(&addresses, api.options.serving.secure_port)).await
}

/// Takes our lease back when the server stops.
pub async fn withdraw(api: &Api) {
    let key = format!("{}{}", prefix(api), api.advertised);
    if let Ok(Some(kv)) = api.store.get(&key).await.map(|got| got.kv)
        && let Err(error) = api.store.delete(&key, kv.mod_revision).await
    {
        tracing::warn!(%error, "our lease among the API servers stays until it runs out");
    }
}

async fn renew(api: &Api, ip: &str) -> Result<(), Status> {
    let key = format!("{}{ip}", prefix(api));
    let value =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {}, "subsets": [{"addresses": [{"ip": ip}]}]});
    let bytes: Bytes = codec::encode_stored(&value).map_err(Status::internal)?.into();
    let outcome = match api.store.get(&key).await.map_err(failed)?.kv {
        Some(kv) => api.store.update(&key, bytes, kv.mod_revision, Some(LEASE)).await,
        None => api.store.create(&key, bytes, Some(LEASE)).await,
    };
    match outcome {
        // Another server on the same address renewed it.
        Ok(_) | Err(store::Error::AlreadyExists { .. } | store::Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn endpoints(addresses: &[String], port: u16) -> Value {
    let list: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": list, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    })
}

fn slice(addresses: &[String], port: u16) -> Value {
    let list: Vec<Value> = addresses
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
        .collect();
    let family = if addresses.first().is_some_and(|ip| ip.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": list,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates the object, or brings its endpoints up to date.
async fn write(api: &Api, wanted: Value) -> Result<(), Status> {
    let (ticket, target) = address(api, &wanted)?;
    let Some(found) = api.cache.get(&target.key()) else {
        return write_new(api, &ticket, &target, wanted).await;
    };
    let existing = object::value(&target.resource, &found)?;
    let mut updated = existing.clone();
    for key in ["subsets", "endpoints", "ports", "addressType"] {
        if let Some(value) = wanted.get(key) {
            updated[key] = value.clone();
        }
    }
    steersman_schema::defaults::apply(&mut updated);
    (target.resource.kind.default)(&mut updated);
    if updated == existing {
        Ok(())
    } else {
        replace(api, &ticket, &target, updated).await
    }
}
