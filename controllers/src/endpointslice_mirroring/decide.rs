//! Which slices the Endpoints object of a Service without selector should have. Pure.
//!
//! Subsets are regrouped by their ports and the family of their addresses; each group is one slice, of at most 1000
//! endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use steersman_runtime::events::{EventType, reference};
use steersman_types::ObjectMeta;
use steersman_types::api::core::v1::{EndpointAddress, EndpointPort as OldPort, Endpoints, Service};
use steersman_types::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use crate::act::Action;
use crate::endpointslice::decide::{MANAGED_BY, SERVICE_NAME};
use crate::owners;

/// Who manages these slices.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of a group that are mirrored (`--mirroring-max-endpoints-per-subset`).
pub const MOST: usize = 1000;
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Not copied from Endpoints to slices.
const PRIVATE: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What the caches say about one name.
#[derive(Clone, Debug)]
pub struct Observed {
    pub endpoints: Option<Arc<Endpoints>>,
    pub service: Option<Arc<Service>>,
    /// The slices that mirror it, without those being deleted.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Name, port, protocol, application protocol; sorted.
type Ports = BTreeSet<(String, i32, String, Option<String>)>;

/// One slice's content.
#[derive(Default)]
struct Group {
    /// By address, and the pod behind it.
    endpoints: BTreeMap<(String, Option<String>), Endpoint>,
}

/// Creations, updates, then deletions; events last.
#[must_use]
pub fn decide(seen: &Observed) -> Vec<Action> {
    let slices: Vec<&EndpointSlice> = seen.slices.iter().map(Arc::as_ref).collect();
    let Some(endpoints) = seen
        .endpoints
        .as_deref()
        .filter(|e| is_mirrored(e, seen.service.as_deref()))
    else {
        return slices.into_iter().map(Action::delete).collect();
    };
    let mut notes = Vec::new();
    let groups = groups(endpoints, &mut notes);
    let (mut create, mut update, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    let mut left = slices;
    for ((family, ports), group) in &groups {
        let wanted = slice(endpoints, family, ports, group);
        let of_group =
            |s: &&EndpointSlice| s.address_type == *family && self::ports(s.ports.iter().flatten()) == *ports;
        let (mut mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(of_group);
        left = others;
        if mine.is_empty() {
            create.push(wanted);
            continue;
        }
        let first = mine.remove(0);
        delete.extend(mine);
        if !same(first, &wanted) {
            update.push(renamed(wanted, first));
        }
    }
    delete.extend(left);
    // A slice that would go is used for one that would come.
    create.retain(|wanted| {
        let Some(i) = delete.iter().position(|gone| gone.address_type == wanted.address_type) else {
            return true;
        };
        update.push(renamed(wanted.clone(), delete.remove(i)));
        false
    });
    if endpoints.metadata.deletion_timestamp.is_some() {
        create.clear();
    }
    let mut actions: Vec<Action> = create.iter().map(Action::create).collect();
    actions.extend(update.iter().map(Action::update));
    actions.extend(delete.into_iter().map(Action::delete));
    actions.extend(notes);
    actions
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta
        .labels
        .as_ref()
        .and_then(|l| l.get(SKIP))
        .is_some_and(|v| v == "true");
    let leader = meta.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let selector = service.map(|s| s.spec.as_ref().and_then(|s| s.selector.as_ref()));
    !skipped && !leader && selector.is_some_and(|s| s.is_none_or(BTreeMap::is_empty))
}

fn groups(endpoints: &Endpoints, notes: &mut Vec<Action>) -> BTreeMap<(&'static str, Ports), Group> {
    let mut groups: BTreeMap<(&str, Ports), Group> = BTreeMap::new();
    let (mut invalid, mut skipped) = (0usize, 0usize);
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Ports = subset.ports.iter().flatten().map(old_port).collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(others) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((family, ports.clone())).or_default();
            let pod = address.target_ref.as_ref().and_then(|t| t.uid.clone());
            let key = (ip.to_string(), pod);
            if group.endpoints.len() >= MOST && !group.endpoints.contains_key(&key) {
                skipped += 1;
                continue;
            }
            group
                .endpoints
                .entry(key)
                .or_insert_with(|| endpoint(address, ip, ready));
        }
    }
    let mut note = |reason, message| {
        notes.push(Action::event(reference(endpoints), EventType::Warning, reason, message));
    };
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        note("InvalidIPAddress", message);
    }
    if skipped > 0 {
        let message = format!(
            "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        note("TooManyAddressesToMirror", message);
    }
    groups
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn old_port(port: &OldPort) -> (String, i32, String, Option<String>) {
    (
        port.name.clone().unwrap_or_default(),
        port.port,
        port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port.app_protocol.clone(),
    )
}

fn ports<'a>(ports: impl Iterator<Item = &'a EndpointPort>) -> Ports {
    ports
        .map(|port| {
            (
                port.name.clone().unwrap_or_default(),
                port.port.unwrap_or(0),
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port.app_protocol.clone(),
            )
        })
        .collect()
}

fn slice(endpoints: &Endpoints, family: &str, ports: &Ports, group: &Group) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !PRIVATE.contains(&key.as_str()));
    let ports = ports.iter().map(|(name, port, protocol, app)| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: app.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![owners::reference_to(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(group.endpoints.values().cloned().collect()),
        ports: Some(ports.collect()),
    }
}

/// `wanted` in the place of a slice that is there.
fn renamed(mut wanted: EndpointSlice, there: &EndpointSlice) -> EndpointSlice {
    wanted.metadata.generate_name = None;
    wanted.metadata.name = there.metadata.name.clone();
    wanted.metadata.resource_version = there.metadata.resource_version.clone();
    wanted
}

fn same(there: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let facts = |slice: &EndpointSlice| {
        let mut endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| {
                let target = e.target_ref.as_ref().and_then(|t| t.uid.clone());
                let ready = e.conditions.as_ref().and_then(|c| c.ready);
                (
                    e.addresses.clone(),
                    target,
                    ready,
                    e.hostname.clone(),
                    e.node_name.clone(),
                )
            })
            .collect();
        endpoints.sort();
        let owner = owners::controller_of(&slice.metadata).map(|o| o.uid.clone());
        let filled = |map: &Option<BTreeMap<String, String>>| map.clone().filter(|m| !m.is_empty());
        (
            endpoints,
            owner,
            filled(&slice.metadata.labels),
            filled(&slice.metadata.annotations),
        )
    };
    facts(there) == facts(wanted)
}
