//! Cluster addresses: one `IPAddress` object each.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use steersman_schema::field::quote;
use steersman_schema::status::Status;
use steersman_storage::store;

use crate::api::Api;
use crate::call::seconds;
use crate::registry::object;

/// Addresses drawn at random before the range is walked through.
const DRAWS: usize = 16;
/// Addresses tried when walking through a range.
const MAX_WALK: u128 = 65_536;
/// How long a store that does not answer is asked to take an address back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(5);

/// The first usable address of a range: the `kubernetes` Service's.
pub fn first_address(range: &IpNet) -> IpAddr {
    nth(range, 1)
}

/// The size of the part of a range that is left for addresses people choose: `min(max(16, size/16), 256)`.
fn reserved(size: u128) -> u128 {
    if size < 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// How many addresses can be given: all but the first, and for IPv4 the last.
fn usable(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(64);
    let size = 1_u128 << bits;
    size.saturating_sub(if range.addr().is_ipv4() { 2 } else { 1 })
}

fn nth(range: &IpNet, n: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => IpAddr::from((u32::from(base).wrapping_add(n as u32)).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from((u128::from(base).wrapping_add(n)).to_be_bytes()),
    }
}

/// The object that holds an address.
pub fn ip_address_object(ip: &str, namespace: &str, name: &str, uid: &str, now: &str) -> Value {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip,
            "uid": uid,
            "creationTimestamp": now,
            "labels": {"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}

/// Takes an address that the client chose; `owner` is the Service's namespace and name.
pub(super) async fn take_given(
    api: &Api,
    range: &IpNet,
    ip: &str,
    owner: &(String, String),
    dry_run: bool,
) -> Result<String, String> {
    let mismatch = || "the provided network does not match the current range".to_owned();
    let parsed: IpAddr = ip.parse().map_err(|_| mismatch())?;
    if !dry_run && !range.contains(&parsed) {
        return Err(mismatch());
    }
    if !range.contains(&parsed) || parsed == range.network() || (parsed.is_ipv4() && parsed == range.broadcast()) {
        return Err(format!(
            "the provided IP ({parsed}) is not in the valid range. The range of valid IPs is {range}"
        ));
    }
    // A dry run does not look whether it is free, here as upstream.
    if dry_run {
        return Ok(ip.to_owned());
    }
    match create(api, &parsed.to_string(), owner).await {
        Ok(true) => Ok(ip.to_owned()),
        Ok(false) => Err("provided IP is already allocated".to_owned()),
        Err(status) => Err(status.message),
    }
}

/// Takes any free address: from the upper part at random, then whatever is left. A dry run shows the range's own address,
/// which no Service ever gets.
pub(super) async fn take_any(
    api: &Api,
    range: &IpNet,
    owner: &(String, String),
    dry_run: bool,
) -> Result<String, Status> {
    if dry_run {
        return Ok(range.network().to_string());
    }
    let size = usable(range);
    let offset = reserved(size);
    for _ in 0..DRAWS {
        let drawn = nth(
            range,
            1 + offset + u128::from(rand::random::<u64>()) % (size - offset).max(1),
        )
        .to_string();
        if create(api, &drawn, owner).await? {
            return Ok(drawn);
        }
    }
    for n in (offset..size.min(MAX_WALK)).chain(0..offset) {
        let ip = nth(range, 1 + n).to_string();
        if api.cache.get(&key(api, &ip)).is_none() && create(api, &ip, owner).await? {
            return Ok(ip);
        }
    }
    Err(Status::internal(format!(
        "failed to allocate a serviceIP for Service {}: range is full",
        quote(&owner.1)
    )))
}

fn key(api: &Api, ip: &str) -> String {
    api.resources
        .find("networking.k8s.io", "v1", "ipaddresses")
        .map(|resource| resource.key("", ip))
        .unwrap_or_default()
}

/// Whether the address was free and is now ours.
async fn create(api: &Api, ip: &str, owner: &(String, String)) -> Result<bool, Status> {
    let Some(resource) = api.resources.find("networking.k8s.io", "v1", "ipaddresses") else {
        return Err(Status::internal("networking.k8s.io/v1 IPAddress is not served"));
    };
    let key = resource.key("", ip);
    if api.cache.get(&key).is_some() {
        return Ok(false);
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let value = ip_address_object(ip, &owner.0, &owner.1, &uid, &seconds(jiff::Timestamp::now()));
    match api.store.create(&key, object::to_stored(resource, &value)?, None).await {
        Ok(_) => Ok(true),
        Err(store::Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(crate::registry::store_refusal(error, resource, ip, "create")),
    }
}

/// Gives an address back.
pub(super) async fn release(api: &Api, ip: &str) {
    let key = key(api, ip);
    let outcome = tokio::time::timeout(RELEASE_DEADLINE, async {
        while let Some(kv) = api.store.get(&key).await?.kv {
            match api.store.delete(&key, kv.mod_revision).await {
                Err(store::Error::Conflict { .. }) => {}
                other => return other.map(|_| ()),
            }
        }
        Ok(())
    })
    .await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(ip, %error, "cluster address not released"),
        Err(_) => tracing::warn!(ip, "cluster address not released in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted_as_upstream_counts_them() {
        let range: IpNet = "10.232.0.0/16".parse().expect("range");
        assert_eq!(first_address(&range).to_string(), "10.232.0.1");
        assert_eq!(usable(&range), 65_534);
        assert_eq!(reserved(usable(&range)), 256);
        let small: IpNet = "10.0.0.0/28".parse().expect("range");
        assert_eq!((usable(&small), reserved(usable(&small))), (14, 0));
        let six: IpNet = "fd00::/112".parse().expect("range");
        assert_eq!(
            (first_address(&six).to_string(), usable(&six)),
            ("fd00::1".to_owned(), 65_535)
        );
    }
}
