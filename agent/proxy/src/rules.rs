//! What one Service means in nftables: the pure heart of the proxy.
//!
//! [`fragment`] turns a Service, its EndpointSlices and this node into chains, sets and map elements. Fragments of
//! different Services never share a chain; elements of the common maps can collide (two Services with one external
//! address), which [`crate::table`] settles. Packets meet the pieces in this order:
//!
//! ```text
//! map service-ips / service-nodeports  ->  external/ID  ->  cluster/ID or local/ID  ->  dnat
//! map no-endpoint-services / -nodeports  ->  reject or drop
//! map firewall-ips  ->  firewall/ID  ->  drop unless the source may
//! ```
//!
//! A Service without session affinity is one rule with an anonymous map of its endpoints, however many there are. With
//! session affinity each endpoint has a chain and a set of the clients that stick to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use steersman_types::api::core::v1::Service;
use steersman_types::api::discovery::v1::EndpointSlice;

use crate::config::{NodeView, Settings};
use crate::endpoints::{self, Endpoints};
use crate::family::Family;
use crate::service::{self, Protocol, ServicePort};

/// The table's maps and sets that Services put elements into. Their names and types are upstream's, so that its kube-proxy
/// can take the table over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    ServiceIps,
    ServiceNodeports,
    NoEndpointServices,
    NoEndpointNodeports,
    FirewallIps,
    /// A set: every cluster IP in use, to refuse its other ports.
    ClusterIps,
    /// A set: (endpoint, endpoint, protocol, port) of this node, to notice a pod that reaches itself through a Service.
    Hairpin,
}

impl Map {
    pub const ALL: [Self; 7] = [
        Self::ServiceIps,
        Self::ServiceNodeports,
        Self::NoEndpointServices,
        Self::NoEndpointNodeports,
        Self::FirewallIps,
        Self::ClusterIps,
        Self::Hairpin,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::ServiceNodeports => "service-nodeports",
            Self::NoEndpointServices => "no-endpoint-services",
            Self::NoEndpointNodeports => "no-endpoint-nodeports",
            Self::FirewallIps => "firewall-ips",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin-connections",
        }
    }

    /// Whether elements have a value (a verdict).
    #[must_use]
    pub fn is_verdict_map(self) -> bool {
        !matches!(self, Self::ClusterIps | Self::Hairpin)
    }

    /// What stands between the braces where it is made.
    #[must_use]
    pub fn definition(self, family: Family) -> String {
        let address = family.address_type();
        match self {
            Self::ServiceIps | Self::NoEndpointServices | Self::FirewallIps => {
                format!("type {address} . inet_proto . inet_service : verdict;")
            }
            Self::ServiceNodeports | Self::NoEndpointNodeports => {
                "type inet_proto . inet_service : verdict;".to_owned()
            }
            Self::ClusterIps => format!("type {address};"),
            Self::Hairpin => format!("type {address} . {address} . inet_proto . inet_service;"),
        }
    }
}

/// Everything in the table that exists because of one Service. Equal Services give equal fragments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chain name to its rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Set name to its definition.
    pub sets: BTreeMap<String, String>,
    /// Element to its verdict (empty in plain sets).
    pub elements: BTreeMap<(Map, String), String>,
    /// Where a UDP Service is reached and who serves it, for forgetting stale connections.
    pub udp: BTreeMap<Front, BTreeSet<SocketAddr>>,
    /// What load balancers want to know of this node.
    pub health_check: Option<HealthCheck>,
}

/// What clients send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    Address(SocketAddr),
    NodePort(u16),
}

/// The health check port of a Service whose external traffic stays on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    /// Ready endpoints on this node, by address.
    pub local: BTreeSet<IpAddr>,
}

/// A Service's part of the table.
#[must_use]
pub fn fragment(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    family: Family,
    node: &NodeView,
    settings: &Settings,
) -> Fragment {
    let mut fragment = Fragment::default();
    for port in service::ports(service, family) {
        let endpoints = endpoints::select(&port, slices, family, node);
        Writer {
            port: &port,
            endpoints: &endpoints,
            family,
            node,
            settings,
            out: &mut fragment,
        }
        .write();
    }
    fragment
}

struct Writer<'a> {
    port: &'a ServicePort,
    endpoints: &'a Endpoints,
    family: Family,
    node: &'a NodeView,
    settings: &'a Settings,
    out: &'a mut Fragment,
}

impl Writer<'_> {
    fn write(&mut self) {
        let port = self.port;
        let cluster = self.balance("cluster", &self.endpoints.cluster);
        let needs_local = port.internal_local || (port.external_local && port.has_external());
        let local = if needs_local {
            self.balance("local", &self.endpoints.local)
        } else {
            None
        };

        self.out
            .elements
            .insert((Map::ClusterIps, port.cluster_ip.to_string()), String::new());
        let used = self.endpoints.cluster.iter().chain(if needs_local {
            self.endpoints.local.as_slice()
        } else {
            &[]
        });
        for target in used.filter(|a| self.endpoints.here.contains(&a.ip())) {
            let (ip, protocol) = (target.ip(), port.protocol.nft());
            let key = format!("{ip} . {ip} . {protocol} . {}", target.port());
            self.out.elements.insert((Map::Hairpin, key), String::new());
        }

        let internal = if port.internal_local { &local } else { &cluster };
        match internal {
            Some(chain) => self.element(Map::ServiceIps, port.cluster_ip, &format!("goto {chain}")),
            None => self.element(Map::NoEndpointServices, port.cluster_ip, self.refusal()),
        }
        if port.has_external() {
            self.external(cluster.as_deref(), local.as_deref());
        }
        if port.protocol == Protocol::Udp {
            self.remember_fronts();
        }
        if port.health_check_port != 0 {
            let check = self.out.health_check.get_or_insert_with(|| HealthCheck {
                port: port.health_check_port,
                local: BTreeSet::new(),
            });
            check.local.extend(&self.endpoints.ready_here);
        }
    }

    fn remember_fronts(&mut self) {
        let port = self.port;
        let addresses = [port.cluster_ip].into_iter().chain(port.external_ips.iter().copied());
        let addresses = addresses.chain(port.balancer_ips.iter().copied());
        let fronts = addresses.map(|ip| Front::Address(SocketAddr::new(ip, port.port)));
        let node_port = (port.node_port != 0).then_some(Front::NodePort(port.node_port));
        for front in fronts.chain(node_port) {
            self.out.udp.insert(front, self.endpoints.serving.clone());
        }
    }

    /// No endpoint anywhere is an answer; none on this node is silence, so that a load balancer tries elsewhere.
    fn refusal(&self) -> &'static str {
        if self.endpoints.anywhere {
            "drop"
        } else {
            "goto reject-chain"
        }
    }

    /// `ADDRESS . PROTOCOL . PORT : VERDICT`
    fn element(&mut self, map: Map, address: IpAddr, verdict: &str) {
        let key = format!("{address} . {} . {}", self.port.protocol.nft(), self.port.port);
        self.out.elements.insert((map, key), verdict.to_owned());
    }

    /// The chain that spreads connections over `targets`; `None` if there are none.
    fn balance(&mut self, kind: &str, targets: &[SocketAddr]) -> Option<String> {
        if targets.is_empty() {
            return None;
        }
        let port = self.port;
        let (ip, protocol) = (self.family.ip(), port.protocol.nft());
        let name = format!("{kind}/{}", port.id);
        let mut rules = Vec::new();
        if let Some(timeout) = port.affinity {
            let chains: Vec<String> = targets.iter().map(|t| self.sticky_chain(t, timeout)).collect();
            for chain in &chains {
                rules.push(format!("{ip} saddr @{chain} goto {chain}"));
            }
            rules.push(if let [only] = chains.as_slice() {
                format!("goto {only}")
            } else {
                let choices = numbered(chains.iter().map(|c| format!("goto {c}")));
                format!("numgen random mod {} vmap {{ {choices} }}", chains.len())
            });
        } else {
            rules.push(if let [only] = targets {
                format!("meta l4proto {protocol} dnat to {only}")
            } else {
                let choices = numbered(targets.iter().map(|t| format!("{} . {}", t.ip(), t.port())));
                format!(
                    "meta l4proto {protocol} dnat {ip} to numgen random mod {} map {{ {choices} }}",
                    targets.len()
                )
            });
        }
        self.out.chains.insert(name.clone(), rules);
        Some(name)
    }

    /// The chain of one endpoint under session affinity, and the set (of the same name) of its clients.
    fn sticky_chain(&mut self, target: &SocketAddr, timeout: u32) -> String {
        // Colons and brackets are no part of an identifier.
        let address: String = target
            .to_string()
            .chars()
            .filter(|c| !"[]".contains(*c))
            .map(|c| if c == ':' { '.' } else { c })
            .collect();
        // With the timeout in its name, a set's definition never changes.
        let name = format!("endpoint/{}/{address}/{timeout}", self.port.id);
        let (ip, protocol) = (self.family.ip(), self.port.protocol.nft());
        let rules = vec![
            format!("update @{name} {{ {ip} saddr }}"),
            format!("meta l4proto {protocol} dnat to {target}"),
        ];
        self.out.chains.insert(name.clone(), rules);
        let kind = self.family.address_type();
        self.out.sets.insert(
            name.clone(),
            format!("type {kind}; flags dynamic,timeout; timeout {timeout}s;"),
        );
        name
    }

    /// NodePort, external and load balancer addresses.
    fn external(&mut self, cluster: Option<&str>, local: Option<&str>) {
        let port = self.port;
        let name = format!("external/{}", port.id);
        let mut rules = Vec::new();
        if port.external_local {
            // What comes from this node or from a pod may go anywhere, as if it had used the cluster IP.
            if let Some(cluster) = cluster {
                if let Some(source) = self.settings.local_condition(self.family) {
                    rules.push(format!("{source} goto {cluster}"));
                }
                rules.push(format!("fib saddr type local {}", self.settings.mark()));
                rules.push(format!("fib saddr type local goto {cluster}"));
            }
            rules.extend(local.map(|chain| format!("goto {chain}")));
        } else if let Some(cluster) = cluster {
            rules.push(self.settings.mark());
            rules.push(format!("goto {cluster}"));
        }
        let target = if port.external_local { local } else { cluster };
        let served = !rules.is_empty();
        if served {
            self.out.chains.insert(name.clone(), rules);
        }
        let verdict = format!("goto {name}");
        for address in port.external_ips.iter().chain(&port.balancer_ips) {
            if served {
                self.element(Map::ServiceIps, *address, &verdict);
            }
            if target.is_none() {
                self.element(Map::NoEndpointServices, *address, self.refusal());
            }
        }
        if port.node_port != 0 {
            let key = format!("{} . {}", port.protocol.nft(), port.node_port);
            if served {
                self.out.elements.insert((Map::ServiceNodeports, key.clone()), verdict);
            }
            if target.is_none() {
                self.out
                    .elements
                    .insert((Map::NoEndpointNodeports, key), self.refusal().to_owned());
            }
        }
        if !port.source_ranges.is_empty() && !port.balancer_ips.is_empty() {
            let firewall = format!("firewall/{}", port.id);
            let mut ranges: Vec<IpNet> = port.source_ranges.iter().map(IpNet::trunc).collect();
            // Where the balancer's address is one of the node's own, requests of the node itself come from that address.
            if ranges.iter().any(|r| self.node.addresses.iter().any(|a| r.contains(a))) {
                ranges.extend(port.balancer_ips.iter().copied().map(IpNet::from));
            }
            let rule = format!(
                "{} saddr != {{ {} }} drop",
                self.family.ip(),
                disjoint(&ranges).join(", ")
            );
            self.out.chains.insert(firewall.clone(), vec![rule]);
            for address in &port.balancer_ips {
                self.element(Map::FirewallIps, *address, &format!("goto {firewall}"));
            }
        }
    }
}

/// `0 : a, 1 : b`
fn numbered(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (i, item) in items.enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{i} : {item}", if i == 0 { "" } else { ", " });
    }
    text
}

/// nftables refuses overlapping ranges in one set. Single addresses are written without a prefix.
fn disjoint(ranges: &[IpNet]) -> Vec<String> {
    let text = |range: &IpNet| match range.prefix_len() == range.max_prefix_len() {
        true => range.addr().to_string(),
        false => range.to_string(),
    };
    IpNet::aggregate(&ranges.to_vec()).iter().map(text).collect()
}
