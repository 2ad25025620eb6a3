//! Which slices a Service should have, and the fewest writes that get there. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use steersman_runtime::events::{EventType, reference};
use steersman_types::ObjectMeta;
use steersman_types::api::core::v1::{Node, ObjectReference, Pod, Service};
use steersman_types::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::hints::{self, Shares};
use super::port;
use super::trigger;
use crate::act::Action;
use crate::{owners, pods};

pub const MAX_ENDPOINTS: usize = 100;
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// What the caches say about one Service with a selector.
#[derive(Clone, Debug)]
pub struct Observed {
    pub service: Arc<Service>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// Known nodes of these pods, with their zone.
    pub nodes: HashMap<String, Option<String>>,
    /// Its slices, without those being deleted.
    pub slices: Vec<Arc<EndpointSlice>>,
    pub trigger: Option<Timestamp>,
    /// The zones' sizes, for Services that want their endpoints spread by them.
    pub shares: Option<Arc<Shares>>,
    /// What was last said about that, by family.
    pub told: Told,
}

/// What was last said about hints in proportion to zones, by family.
pub type Told = BTreeMap<&'static str, String>;

/// Creations, updates, then deletions.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Pods left out because their node is not known.
    pub skipped: Vec<String>,
    /// For the next run's [`Observed::told`].
    pub told: Told,
}

/// Identifies an endpoint: the pod, or its addresses when there is none.
type Identity = (Option<String>, Vec<String>);

/// Ports in a form that compares.
type PortKey = Vec<(String, Option<i32>, String, Option<String>)>;

#[must_use]
pub fn zone(node: &Node) -> Option<String> {
    let zone = node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone")?;
    Some(zone.clone()).filter(|z| !z.is_empty())
}

/// See [`Plan`].
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let families = families(&seen.service);
    let (mut creates, mut updates, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = Vec::new();
    for slice in seen
        .slices
        .iter()
        .filter(|s| !families.contains(&s.address_type.as_str()))
    {
        deletes.push(Action::delete(slice.as_ref()));
    }
    for family in families {
        let slices: Vec<&EndpointSlice> = seen
            .slices
            .iter()
            .map(AsRef::as_ref)
            .filter(|s| s.address_type == family)
            .collect();
        let wanted = desired(seen, family, &mut plan.skipped);
        let mut changes = place(seen, family, slices, wanted);
        let said = hints::apply(hints::mode(&seen.service), seen.shares.as_deref(), &mut changes.slices);
        notes.extend(note(seen, family, said.as_deref()));
        plan.told.extend(said.map(|said| (family, said)));
        changes.reuse(seen);
        changes.stamp(seen.trigger);
        let Changes {
            slices: changes,
            delete,
        } = changes;
        creates.extend(changes.create.iter().map(Action::create));
        updates.extend(changes.update.iter().map(Action::update));
        deletes.extend(delete.iter().map(Action::delete));
    }
    plan.skipped.sort();
    plan.skipped.dedup();
    // New places before old ones go, so that no endpoint is missing in between.
    plan.actions = creates.into_iter().chain(updates).chain(deletes).chain(notes).collect();
    plan
}

/// The event for what there is to say about hints, unless it was said before.
fn note(seen: &Observed, family: &str, said: Option<&str>) -> Option<Action> {
    let before = seen.told.get(family).map(String::as_str);
    let (kind, reason, text) = match said {
        _ if said == before => return None,
        Some(hints::ENABLED) => (EventType::Normal, "TopologyAwareHintsEnabled", hints::ENABLED),
        Some(why) => (EventType::Warning, "TopologyAwareHintsDisabled", why),
        None if before == Some(hints::ENABLED) => (EventType::Warning, "TopologyAwareHintsDisabled", hints::DISABLED),
        None => return None,
    };
    let message = format!("{text}, addressType: {family}");
    Some(Action::event(reference(seen.service.as_ref()), kind, reason, message))
}

/// `IPv4`, `IPv6`, or both.
fn families(service: &Service) -> Vec<&'static str> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let named: BTreeSet<&'static str> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named.into_iter().collect();
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => vec!["IPv4", "IPv6"],
        Some(address) => vec![if address.contains(':') { "IPv6" } else { "IPv4" }],
    }
}

#[must_use]
pub fn is_headless(service: &Service) -> bool {
    matches!(
        service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()),
        None | Some("" | "None")
    )
}

struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

fn desired(seen: &Observed, family: &str, skipped: &mut Vec<String>) -> BTreeMap<PortKey, Group> {
    let mut groups: BTreeMap<PortKey, Group> = BTreeMap::new();
    let publish_all = seen
        .service
        .spec
        .as_ref()
        .and_then(|s| s.publish_not_ready_addresses)
        .unwrap_or(false);
    for pod in seen.pods.iter().filter(|pod| !pods::is_finished(pod)) {
        let addresses = addresses(pod, family);
        if addresses.is_empty() {
            continue;
        }
        let ports = ports(&seen.service, pod);
        let group = groups.entry(port_key(&ports)).or_insert_with(|| Group {
            ports,
            endpoints: BTreeMap::new(),
        });
        let zone = seen.nodes.get(pods::node(pod));
        if zone.is_none() && !publish_all {
            skipped.push(pod.metadata.name.clone().unwrap_or_default());
            continue;
        }
        let endpoint = endpoint(&seen.service, pod, addresses, zone.cloned().flatten(), publish_all);
        group.endpoints.insert(identity(&endpoint), endpoint);
    }
    groups
}

/// The pod's addresses of one family.
#[must_use]
pub fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    let mut all: Vec<&str> = listed.collect();
    if all.is_empty() {
        all.extend(status.pod_ip.as_deref());
    }
    let v6 = family == "IPv6";
    all.into_iter()
        .filter(|ip| !ip.is_empty() && ip.contains(':') == v6)
        .map(str::to_owned)
        .collect()
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    ports
        .into_iter()
        .flatten()
        .filter_map(|p| {
            Some(EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(port::target(pod, p)?),
                protocol: Some(port::protocol(p).to_owned()),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

fn port_key(ports: &[EndpointPort]) -> PortKey {
    let mut key: PortKey = ports
        .iter()
        .map(|p| {
            (
                p.name.clone().unwrap_or_default(),
                p.port,
                p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                p.app_protocol.clone(),
            )
        })
        .collect();
    key.sort();
    key
}

fn endpoint(service: &Service, pod: &Pod, addresses: Vec<String>, zone: Option<String>, publish_all: bool) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let named = spec.and_then(|s| s.subdomain.as_ref()).filter(|s| !s.is_empty()) == service.metadata.name.as_ref();
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            // For those who know only this one: never true while terminating, unless everything is published.
            ready: Some(publish_all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| named),
        node_name: Some(pods::node(pod).to_owned()).filter(|n| !n.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}

fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    (endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()), addresses)
}

#[derive(Default)]
struct Changes {
    slices: hints::Slices,
    delete: Vec<EndpointSlice>,
}

impl Changes {
    /// A new slice takes the place of one that would go: one write instead of two, and no moment without either.
    fn reuse(&mut self, seen: &Observed) {
        let ours = |slice: &EndpointSlice| {
            owners::controller_of(&slice.metadata).map(|o| &o.uid) == seen.service.metadata.uid.as_ref()
        };
        while let Some(at) = self.delete.iter().position(ours) {
            let Some(new) = self.slices.create.pop() else { break };
            let old = self.delete.remove(at);
            self.slices.update.push(EndpointSlice {
                metadata: ObjectMeta {
                    labels: new.metadata.labels,
                    ..old.metadata
                },
                ..new
            });
        }
    }

    /// Says of every slice that is written what it is written for.
    fn stamp(&mut self, trigger: Option<Timestamp>) {
        for slice in self.slices.create.iter_mut().chain(&mut self.slices.update) {
            let annotations = slice.metadata.annotations.get_or_insert_default();
            match trigger {
                Some(at) => annotations.insert(trigger::ANNOTATION.to_owned(), at.to_string()),
                None => annotations.remove(trigger::ANNOTATION),
            };
        }
    }
}

fn place(seen: &Observed, family: &str, slices: Vec<&EndpointSlice>, wanted: BTreeMap<PortKey, Group>) -> Changes {
    let mut changes = Changes::default();
    let uid = seen.service.metadata.uid.as_deref();
    let mut present: BTreeMap<PortKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &slices {
        if owners::controller_of(&slice.metadata).map(|o| o.uid.as_str()) == uid {
            present
                .entry(port_key(slice.ports.as_deref().unwrap_or_default()))
                .or_default()
                .push(slice);
        } else {
            // Left from an earlier Service of the same name.
            changes.delete.push((*slice).clone());
        }
    }
    for (key, group) in wanted {
        if group.endpoints.is_empty() {
            continue;
        }
        place_group(
            seen,
            family,
            present.remove(&key).unwrap_or_default(),
            group,
            &mut changes,
        );
    }
    changes.delete.extend(present.into_values().flatten().cloned());
    if changes.delete.len() == slices.len() && changes.slices.create.is_empty() {
        keep_one(seen, family, &mut changes);
    }
    changes
}

/// A Service without endpoints has one empty slice, so that consumers can tell "none" from "not yet".
fn keep_one(seen: &Observed, family: &str, changes: &mut Changes) {
    let placeholder = new_slice(seen, family, Vec::new());
    let same = |slice: &EndpointSlice| {
        slice.endpoints.iter().flatten().next().is_none()
            && slice.ports.iter().flatten().next().is_none()
            && slice.metadata.labels == placeholder.metadata.labels
            && owners::controller_of(&slice.metadata).map(|o| &o.uid) == seen.service.metadata.uid.as_ref()
    };
    if let Some(position) = changes.delete.iter().position(same) {
        changes.delete.remove(position);
    } else {
        changes.slices.create.push(placeholder);
    }
}

fn place_group(seen: &Observed, family: &str, present: Vec<&EndpointSlice>, mut group: Group, changes: &mut Changes) {
    let labels = labels(seen);
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<EndpointSlice>) = (Vec::new(), Vec::new());
    for slice in present {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let mut kept = Vec::new();
        let mut differs = false;
        for endpoint in before {
            if let Some(now) = group.endpoints.remove(&identity(endpoint)) {
                differs |= now != without_hints(endpoint);
                kept.push(now);
            }
        }
        if kept.is_empty() && !before.is_empty() {
            changes.delete.push(slice.clone());
            continue;
        }
        let relabelled = slice.metadata.labels.as_ref() != Some(&labels);
        let mut copy = slice.clone();
        if differs || kept.len() != before.len() || relabelled {
            copy.endpoints = Some(kept);
            copy.metadata.labels = Some(labels.clone());
            changed.push(copy);
        } else {
            unchanged.push(copy);
        }
    }
    let mut left: Vec<Endpoint> = group.endpoints.into_values().collect();
    let size = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
    let fill = |slice: &mut EndpointSlice, left: &mut Vec<Endpoint>| {
        let room = MAX_ENDPOINTS.saturating_sub(size(slice)).min(left.len());
        slice.endpoints.get_or_insert_default().extend(left.drain(..room));
    };
    // Slices that are written anyway take the rest, the fullest first.
    changed.sort_by_key(|slice| std::cmp::Reverse(size(slice)));
    for slice in &mut changed {
        fill(slice, &mut left);
    }
    while !left.is_empty() {
        // One slice more to write: the fullest that takes all of the rest, else a new one.
        let fits = unchanged
            .iter()
            .enumerate()
            .filter(|(_, s)| size(s) + left.len() <= MAX_ENDPOINTS);
        let mut slice = match fits.max_by_key(|(_, s)| size(s)).map(|(i, _)| i) {
            Some(i) => unchanged.remove(i),
            None => new_slice(seen, family, group.ports.clone()),
        };
        fill(&mut slice, &mut left);
        if slice.metadata.name.is_some() {
            changed.push(slice)
        } else {
            changes.slices.create.push(slice)
        }
    }
    changes.slices.update.extend(changed);
    changes.slices.unchanged.extend(unchanged);
}

fn without_hints(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        hints: None,
        ..endpoint.clone()
    }
}

/// The Service's labels, and ours over them.
fn labels(seen: &Observed) -> BTreeMap<String, String> {
    let mut labels = seen.service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(&seen.service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(
        SERVICE_NAME.to_owned(),
        seen.service.metadata.name.clone().unwrap_or_default(),
    );
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(seen: &Observed, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let service = seen.service.as_ref();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(seen)),
            owner_references: Some(vec![owners::reference_to(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}
