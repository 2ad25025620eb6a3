//! Keeps the legacy Endpoints object of each Service with a selector.
//!
//! Watches: services, pods, endpoints. Writes: endpoints, events. [`decide`] is pure: subsets group addresses by ports,
//! as clients of the old API expect. At most 1000 addresses are kept; the annotation
//! `endpoints.kubernetes.io/over-capacity: truncated` tells when some are missing.
//! A start removes what Services have left that went while nobody looked, as upstream's does.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Event, Informer, Key};
use steersman_types::ObjectMeta;
use steersman_types::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::endpointslice::decide::{HEADLESS, addresses, is_headless};
use crate::endpointslice::trigger::{self, Triggers};
use crate::endpointslice::{on_pods, port, selector};
use crate::own::OwnWrites;
use crate::{labels, pods};

const WORKERS: usize = 5;
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Endpoints with this annotation are an election's and never had a Service.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// After this time at the latest the caches of both kinds show the moment of the start.
const CERTAIN: Duration = Duration::from_secs(10);

struct Legacy {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    executor: Executor,
    own: OwnWrites<Key>,
    /// Services that were seen to go: their Endpoints go too, also those that somebody made by hand.
    gone: Mutex<HashSet<Key>>,
    triggers: Triggers,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let services = context.informers.of::<Service>();
        let pods = context.informers.of::<Pod>();
        let endpoints = context.informers.of::<Endpoints>();
        let own = OwnWrites::new([("endpoints", endpoints.progress())]);
        let executor = context.executor("endpoint-controller");
        let this = Arc::new(Legacy {
            services,
            pods,
            endpoints,
            executor,
            own,
            gone: Mutex::default(),
            triggers: Triggers::default(),
        });
        this.services.synced().await;
        this.pods.synced().await;
        this.endpoints.synced().await;
        let left = left_over(&this.endpoints.list(), |key| this.services.get_key(key).is_some());
        let queue = context.queue::<Key>();
        let adding = queue.clone();
        let marking = this.clone();
        this.services.on_event(move |event| {
            let key = Key::of(event.object().as_ref());
            if matches!(event, Event::Deleted(_)) {
                marking.gone.lock().insert(key.clone());
            }
            adding.add(key);
        });
        on_pods(&this.pods, &this.services, queue.clone());
        let adding = queue.clone();
        this.endpoints
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        let looking = this.clone();
        let remove_left_over = async {
            tokio::time::sleep(CERTAIN).await;
            for old in left {
                let key = Key::of(old.as_ref());
                let same = looking.endpoints.get_key(&key);
                let same = same.is_some_and(|now| now.metadata.uid == old.metadata.uid);
                if same && looking.services.get_key(&key).is_none() {
                    looking.gone.lock().insert(key.clone());
                    queue.add(key);
                }
            }
        };
        let work = queue.run("service", WORKERS, move |key| reconcile(this.clone(), key));
        tokio::join!(work, remove_left_over);
        Ok(())
    })
}

async fn reconcile(this: Arc<Legacy>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let service = this.services.get_key(&key);
    let current = this.endpoints.get_key(&key);
    let deleted = this.gone.lock().remove(&key);
    let plan = match &service {
        // Without a Service that went, only what this controller made: others keep Endpoints of their own (old leader
        // elections, or the ones for a Service that comes later).
        None => {
            this.triggers.forget(&key);
            current
                .filter(|e| deleted || managed(e))
                .map(|e| Action::delete(e.as_ref()))
        }
        Some(service) => match selector(service) {
            None => None,
            Some(selector) => {
                let mut pods = this.pods.list_in(&key.namespace);
                pods.retain(|pod| labels::all_of(selector, pod.metadata.labels.as_ref()));
                let changed = this.triggers.changed(&key, service, &pods);
                decide(service, &pods, current.as_deref(), changed)
            }
        },
    };
    let Some(action) = plan else { return Ok(None) };
    let creating = matches!(action, Action::Create { .. });
    match this.executor.one(action).await {
        Ok(written) => {
            this.own.wrote(&key, &[written]);
            Ok(None)
        }
        Err(error) if error.is_namespace_terminating() => Ok(None),
        Err(error) => {
            if deleted {
                // Not forgotten until it is done.
                this.gone.lock().insert(key.clone());
            }
            if let Some(service) = service {
                let (reason, message) = if creating {
                    (
                        "FailedToCreateEndpoint",
                        format!("Failed to create endpoint for service {key}: {error}"),
                    )
                } else {
                    (
                        "FailedToUpdateEndpoint",
                        format!("Failed to update endpoint {key}: {error}"),
                    )
                };
                let about = ObjectReference {
                    kind: Some("Endpoints".into()),
                    uid: None,
                    ..reference(service.as_ref())
                };
                let _ = this
                    .executor
                    .one(Action::event(about, EventType::Warning, reason, message))
                    .await;
            }
            Err(error.to_string())
        }
    }
}

fn managed(endpoints: &Endpoints) -> bool {
    endpoints
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(MANAGED_BY))
        .is_some_and(|by| by == MANAGER)
}

/// Endpoints whose Service is not there. If that is still so after [`CERTAIN`], they are taken for those of Services that
/// went while nobody looked.
fn left_over(all: &[Arc<Endpoints>], has_service: impl Fn(&Key) -> bool) -> Vec<Arc<Endpoints>> {
    let elections = |e: &Endpoints| e.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let left = all
        .iter()
        .filter(|e| !elections(e) && !has_service(&Key::of(e.as_ref())));
    left.cloned().collect()
}

/// Pure: the write that brings a Service's Endpoints up to date, if they are not. `changed` is the time of the change that
/// it is for.
#[must_use]
pub fn decide(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    changed: Option<Timestamp>,
) -> Option<Action> {
    let (subsets, truncated) = truncate(subsets(service, pods));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let over = current
        .and_then(|c| c.metadata.annotations.as_ref())
        .and_then(|a| a.get(OVER_CAPACITY))
        .is_some();
    if let Some(current) = current {
        let same = current.subsets.clone().unwrap_or_default() == subsets;
        if same && current.metadata.labels.as_ref() == Some(&labels) && over == truncated {
            return None;
        }
    }
    let mut new = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    new.subsets = Some(subsets);
    new.metadata.labels = Some(labels);
    let annotations = new.metadata.annotations.get_or_insert_default();
    match changed {
        Some(at) => annotations.insert(trigger::ANNOTATION.to_owned(), at.to_string()),
        None => annotations.remove(trigger::ANNOTATION),
    };
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    Some(if current.is_some() {
        Action::update(&new)
    } else {
        Action::create(&new)
    })
}

type PortKey = (String, i32, String, Option<String>);

/// Addresses that share the same set of ports form one subset; everything is sorted, so that equal content is equal.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut by_ports: BTreeMap<BTreeSet<PortKey>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in pods
        .iter()
        .filter(|pod| !pods::is_finished(pod) && (publish_all || !pods::is_terminating(pod)))
    {
        let Some(address) = address(service, pod) else { continue };
        let found: BTreeSet<PortKey> = ports
            .iter()
            .filter_map(|p| {
                let number = port::target(pod, p)?;
                let name = p.name.clone().unwrap_or_default();
                Some((name, number, port::protocol(p).to_owned(), p.app_protocol.clone()))
            })
            .collect();
        if found.is_empty() && !(ports.is_empty() && is_headless(service)) {
            continue;
        }
        let (ready, not_ready) = by_ports.entry(found).or_default();
        if publish_all || pods::is_ready(pod) {
            ready.push(address)
        } else {
            not_ready.push(address)
        }
    }
    let sorted = |mut addresses: Vec<EndpointAddress>| {
        let uid = |a: &EndpointAddress| a.target_ref.as_ref().and_then(|t| t.uid.clone());
        addresses.sort_by(|a, b| (&a.ip, uid(a)).cmp(&(&b.ip, uid(b))));
        Some(addresses).filter(|a| !a.is_empty())
    };
    by_ports
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: sorted(ready),
            not_ready_addresses: sorted(not_ready),
            ports: Some(ports.into_iter().map(endpoint_port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
        })
        .collect()
}

fn endpoint_port((name, port, protocol, app_protocol): PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(name).filter(|n| !n.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

/// The pod's address of the Service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref()?;
    let own = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
    let hint = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !matches!(*ip, "" | "None"))
        .or(own);
    let family = spec.ip_families.iter().flatten().next().map(String::as_str);
    let family = family.unwrap_or(if hint.is_some_and(|ip| ip.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    });
    let pod_spec = pod.spec.as_ref();
    let named = pod_spec.and_then(|s| s.subdomain.as_ref()).filter(|s| !s.is_empty()) == service.metadata.name.as_ref();
    Some(EndpointAddress {
        ip: addresses(pod, family).into_iter().next()?,
        hostname: pod_spec
            .and_then(|s| s.hostname.clone())
            .filter(|h| named && !h.is_empty()),
        node_name: pod_spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Ready addresses are kept before others.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let total: usize = subsets
        .iter()
        .map(|s| s.addresses.as_ref().map_or(0, Vec::len) + s.not_ready_addresses.as_ref().map_or(0, Vec::len))
        .sum();
    if total <= MAX_ADDRESSES {
        return (subsets, false);
    }
    let mut room = MAX_ADDRESSES;
    let mut cut = |addresses: &mut Option<Vec<EndpointAddress>>| {
        let list = addresses.get_or_insert_default();
        list.truncate(room);
        room -= list.len();
        if list.is_empty() {
            *addresses = None;
        }
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn service() -> Service {
        Service::from_value(&json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"a": "b"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .unwrap()
    }

    fn pod(i: usize, ready: bool) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("u{i}")},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", i / 250, i % 250)}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(Pod::from_value(&value).unwrap())
    }

    fn made(action: Option<Action>) -> Endpoints {
        match action {
            Some(Action::Create { object, .. } | Action::Update { object, .. }) => {
                Endpoints::from_value(&object).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ready_and_unready_pods_share_a_subset_and_a_second_run_does_nothing() {
        let pods = [pod(1, true), pod(2, false)];
        let endpoints = made(decide(&service(), &pods, None, None));
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 1);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 1);
        assert_eq!(decide(&service(), &pods, Some(&endpoints), None), None);
    }

    #[test]
    fn more_than_a_thousand_addresses_are_cut_and_marked() {
        let pods: Vec<_> = (0..1100).map(|i| pod(i, i % 2 == 0)).collect();
        let endpoints = made(decide(&service(), &pods, None, None));
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 550);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 450);
        assert!(
            endpoints
                .metadata
                .annotations
                .as_ref()
                .unwrap()
                .contains_key(OVER_CAPACITY)
        );
        assert_eq!(decide(&service(), &pods, Some(&endpoints), None), None);
    }

    #[test]
    fn the_change_that_a_write_is_for_is_noted_and_its_time_alone_is_no_reason_to_write() {
        let at: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
        let endpoints = made(decide(&service(), &[pod(1, true)], None, Some(at)));
        let note = |e: &Endpoints| e.metadata.annotations.as_ref()?.get(trigger::ANNOTATION).cloned();
        assert_eq!(note(&endpoints).unwrap(), "2026-01-01T00:00:05Z");
        assert_eq!(decide(&service(), &[pod(1, true)], Some(&endpoints), None), None);
        let later = made(decide(&service(), &[pod(1, false)], Some(&endpoints), None));
        assert_eq!(note(&later), None);
    }

    #[test]
    fn what_services_have_left_is_found_but_for_elections() {
        let endpoints = |name: &str, annotations: serde_json::Value| {
            let value = json!({"metadata": {"namespace": "ns", "name": name, "annotations": annotations}});
            Arc::new(Endpoints::from_value(&value).unwrap())
        };
        let all = [
            endpoints("served", json!({})),
            endpoints("left", json!({})),
            endpoints("election", json!({LEADER: "{}"})),
        ];
        let found = left_over(&all, |key| key.name == "served");
        let found: Vec<Key> = found.iter().map(|e| Key::of(e.as_ref())).collect();
        assert_eq!(found, [Key::new("ns", "left")]);
    }
}
