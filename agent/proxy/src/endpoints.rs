//! Which endpoints a Service port's traffic goes to, seen from one node.
//!
//! [`select`] merges the EndpointSlices of a Service and applies upstream's rules: ready endpoints; when there is none,
//! those that still serve while they terminate; topology hints when every candidate has them. Pure; called by
//! [`crate::rules`].

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use steersman_types::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::config::NodeView;
use crate::family::Family;
use crate::service::{Protocol, ServicePort};

/// Where traffic can go. Sorted, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For traffic that may leave the node.
    pub cluster: Vec<SocketAddr>,
    /// For traffic that must stay on the node.
    pub local: Vec<SocketAddr>,
    /// Whether any endpoint exists on any node: no endpoint at all is refused, none on this node is dropped.
    pub anywhere: bool,
    /// Addresses that are on this node: only these can call themselves.
    pub here: BTreeSet<IpAddr>,
    /// Everybody who serves, on whatever node and terminating or not: existing connections to these may go on.
    pub serving: BTreeSet<SocketAddr>,
    /// Addresses on this node that are ready, for the health checks of load balancers.
    pub ready_here: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Default)]
struct Candidate {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
}

impl Candidate {
    fn read(endpoint: &Endpoint, node: &NodeView) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let hints = endpoint.hints.as_ref();
        Self {
            ready,
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            local: endpoint.node_name.as_deref().is_some_and(|n| n == node.name),
            zones: hints
                .and_then(|h| h.for_zones.as_ref())
                .into_iter()
                .flatten()
                .map(|z| z.name.clone())
                .collect(),
            nodes: hints
                .and_then(|h| h.for_nodes.as_ref())
                .into_iter()
                .flatten()
                .map(|n| n.name.clone())
                .collect(),
        }
    }

    fn last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// The endpoints of `port` out of all slices of its Service.
#[must_use]
pub fn select(port: &ServicePort, slices: &[Arc<EndpointSlice>], family: Family, node: &NodeView) -> Endpoints {
    let mut all: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
    // The order of slices is no fact about the Service.
    let mut slices: Vec<&Arc<EndpointSlice>> = slices.iter().collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for slice in slices.into_iter().filter(|s| s.address_type == family.slice_type()) {
        let Some(number) = port_number(slice, port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(Ok(address)) = endpoint.addresses.first().map(|a| a.parse::<IpAddr>()) else {
                continue;
            };
            let candidate = Candidate::read(endpoint, node);
            // An endpoint may be in two slices for a moment while it moves from one to the other, and a new pod may have
            // the address of one that is still terminating.
            match all.entry(SocketAddr::new(address, number)) {
                Entry::Vacant(slot) => {
                    slot.insert(candidate);
                }
                Entry::Occupied(mut slot) if !candidate.terminating => {
                    slot.insert(candidate);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    let pick = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<SocketAddr> {
        let ready: Vec<_> = all
            .iter()
            .filter(|(_, c)| c.ready && wanted(c))
            .map(|(a, _)| *a)
            .collect();
        if !ready.is_empty() {
            return ready;
        }
        all.iter()
            .filter(|(_, c)| c.last_resort() && wanted(c))
            .map(|(a, _)| *a)
            .collect()
    };
    let hints = hints(all.values().filter(|c| c.ready), node);
    let cluster = pick(&|c| match hints {
        Hints::None => true,
        Hints::Node => c.nodes.contains(&node.name),
        Hints::Zone => c.zones.contains(&node.zone),
    });
    let local = pick(&|c| c.local);
    let which = |wanted: &dyn Fn(&Candidate) -> bool| -> BTreeSet<SocketAddr> {
        all.iter().filter(|(_, c)| wanted(c)).map(|(a, _)| *a).collect()
    };
    let addresses = |of: BTreeSet<SocketAddr>| of.into_iter().map(|a| a.ip()).collect();
    Endpoints {
        anywhere: !cluster.is_empty() || !local.is_empty(),
        cluster,
        local,
        here: addresses(which(&|c| c.local)),
        serving: which(&|c| c.serving),
        ready_here: addresses(which(&|c| c.local && c.ready)),
    }
}

/// The number that the slice gives the Service port's name; `None` if it has another protocol or none.
fn port_number(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let mut ports = slice.ports.iter().flatten();
    let found = ports.find(|p| {
        p.name.as_deref().unwrap_or_default() == port.name
            && Protocol::parse(p.protocol.as_deref()) == Some(port.protocol)
    })?;
    found.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

#[derive(Clone, Copy)]
enum Hints {
    None,
    Node,
    Zone,
}

/// Hints count only if every ready endpoint has them and some are for us: half of a plan is no plan.
fn hints<'a>(ready: impl Iterator<Item = &'a Candidate> + Clone, node: &NodeView) -> Hints {
    if ready.clone().next().is_none() {
        return Hints::None;
    }
    if ready.clone().all(|c| !c.nodes.is_empty()) && ready.clone().any(|c| c.nodes.contains(&node.name)) {
        return Hints::Node;
    }
    if !node.zone.is_empty()
        && ready.clone().all(|c| !c.zones.is_empty())
        && ready.clone().any(|c| c.zones.contains(&node.zone))
    {
        return Hints::Zone;
    }
    Hints::None
}
