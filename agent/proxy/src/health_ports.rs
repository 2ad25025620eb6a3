//! The health check ports of Services whose external traffic stays on the node it arrives at: load balancers ask each
//! node there whether it has endpoints.
//!
//! [`HealthPorts::want`] takes over what a changed Service says, [`HealthPorts::settle`] opens and closes ports for it;
//! what could not be opened is tried again at the next settling. Owned by [`crate::sync`]. What stays true: one port per
//! Service and family; an answer always shows the last count that was wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use steersman_runtime::events::{EventType, Recorder};
use steersman_runtime::serve::plain;
use steersman_types::api::core::v1::ObjectReference;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{NodePortAddresses, NodeView, Settings};
use crate::family::Family;
use crate::health::Health;
use crate::rules::HealthCheck;
use crate::table::Owner;

type Key = (Owner, Family);

/// All of them.
pub struct HealthPorts {
    health: Arc<Health>,
    recorder: Recorder,
    wanted: BTreeMap<Key, HealthCheck>,
    open: BTreeMap<Key, Open>,
    /// Said already.
    failed: BTreeSet<Key>,
}

struct Open {
    addresses: Vec<SocketAddr>,
    local: Arc<AtomicUsize>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl HealthPorts {
    #[must_use]
    pub fn new(health: Arc<Health>, recorder: Recorder) -> Self {
        Self {
            health,
            recorder,
            wanted: BTreeMap::new(),
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
        }
    }

    /// What a Service wants from now on.
    pub fn want(&mut self, owner: &Owner, family: Family, check: Option<&HealthCheck>) {
        let key = (owner.clone(), family);
        match check {
            Some(check) => self.wanted.insert(key, check.clone()),
            None => self.wanted.remove(&key),
        };
    }

    /// Nobody wants anything, until they say so again.
    pub fn want_nothing(&mut self) {
        self.wanted.clear();
    }

    /// Makes the ports as wanted.
    pub async fn settle(&mut self, node: &NodeView, settings: &Settings) {
        if self.wanted.is_empty() && self.open.is_empty() {
            return;
        }
        let addresses = |key: &Key, check: &HealthCheck| -> Vec<SocketAddr> {
            let all = listening(key.1, node, settings).into_iter();
            all.map(|ip| SocketAddr::new(ip, check.port)).collect()
        };
        // First those that go: their ports may be wanted by others.
        let stays = |key: &Key, open: &Open| {
            self.wanted
                .get(key)
                .is_some_and(|c| addresses(key, c) == open.addresses)
        };
        let leaving: Vec<Key> = self
            .open
            .iter()
            .filter(|(key, open)| !stays(key, open))
            .map(|(key, _)| key.clone())
            .collect();
        for key in leaving {
            if let Some(open) = self.open.remove(&key) {
                open.close().await;
            }
        }
        self.failed.retain(|key| self.wanted.contains_key(key));
        for (key, check) in &self.wanted {
            if let Some(open) = self.open.get(key) {
                open.local.store(check.local.len(), Ordering::Relaxed);
                continue;
            }
            match open(key, check, addresses(key, check), &self.health).await {
                Ok(open) => {
                    info!(
                        namespace = key.0.0,
                        service = key.0.1,
                        port = check.port,
                        "Opening healthcheck"
                    );
                    self.failed.remove(key);
                    self.open.insert(key.clone(), open);
                }
                Err(error) if self.failed.insert(key.clone()) => {
                    let (namespace, name) = &key.0;
                    let message = format!(
                        "node {} failed to start healthcheck \"{namespace}/{name}\" on port {}: {error}",
                        node.name, check.port
                    );
                    warn!("{message}");
                    let about = ObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Service".to_owned()),
                        namespace: Some(namespace.clone()),
                        name: Some(name.clone()),
                        ..ObjectReference::default()
                    };
                    self.recorder
                        .event(&about, EventType::Warning, "FailedToStartServiceHealthcheck", &message);
                }
                Err(_) => {}
            }
        }
    }
}

impl Open {
    async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            // It ends by itself once it is told to.
            let _ = task.await;
        }
    }
}

/// Where node ports answer: on the node's own address, or, where ranges say so, on all.
fn listening(family: Family, node: &NodeView, settings: &Settings) -> Vec<IpAddr> {
    let own = node.addresses.iter().copied().filter(|a| Family::of(a) == family);
    let own: Vec<IpAddr> = own.collect();
    match (&settings.node_ports, family) {
        (NodePortAddresses::Primary, _) if !own.is_empty() => own,
        (_, Family::V4) => vec![Ipv4Addr::UNSPECIFIED.into()],
        // All of IPv6 would take IPv4's ports, too.
        (_, Family::V6) => own,
    }
}

async fn open(
    key: &Key,
    check: &HealthCheck,
    addresses: Vec<SocketAddr>,
    health: &Arc<Health>,
) -> std::io::Result<Open> {
    let mut listeners = Vec::new();
    for address in &addresses {
        listeners.push(TcpListener::bind(address).await?);
    }
    let (local, stop) = (Arc::new(AtomicUsize::new(check.local.len())), CancellationToken::new());
    let tasks = listeners.into_iter().map(|listener| {
        let (owner, local, health) = (key.0.clone(), local.clone(), health.clone());
        let responder = move |_: &str| answer(&owner, local.load(Ordering::Relaxed), health.is_alive(crate::now()));
        plain::serve(listener, Arc::new(responder), stop.clone())
    });
    let tasks = tasks.collect();
    Ok(Open {
        addresses,
        local,
        stop,
        tasks,
    })
}

/// Upstream's answer.
#[must_use]
pub fn answer(owner: &Owner, local: usize, healthy: bool) -> Response<String> {
    let (namespace, name) = owner;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut response = Response::new(body);
    if local == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(local));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_how_many_endpoints_there_are() {
        let owner = ("ns".to_owned(), "web".to_owned());
        let good = answer(&owner, 2, true);
        assert_eq!(good.status(), StatusCode::OK);
        assert_eq!(
            good.headers().get("x-load-balancing-endpoint-weight"),
            Some(&HeaderValue::from(2))
        );
        let body: serde_json::Value = serde_json::from_str(good.body()).unwrap_or_default();
        let expected = serde_json::json!({"service": {"namespace": "ns", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(body, expected);
        for (local, healthy) in [(0, true), (1, false)] {
            assert_eq!(answer(&owner, local, healthy).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
