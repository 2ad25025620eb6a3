//! What the proxy needs to know of a Service, per port.
//!
//! [`ports`] reads a Service leniently: the API server has validated it, and what is not understood is left out rather
//! than served wrongly. Callers: [`crate::rules`].

use std::net::IpAddr;

use ipnet::IpNet;
use steersman_types::api::core::v1::Service;

use crate::family::Family;

/// Services with this label belong to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// A transport protocol, as nftables writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Absent means TCP; anything unknown is nothing.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    #[must_use]
    pub fn nft(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service, for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `NAMESPACE/NAME/PROTOCOL/PORT`: unique, since none of the parts can hold a slash.
    pub id: String,
    /// The port's name, by which endpoints are matched; may be empty.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: IpAddr,
    /// External IPs that are no load balancer's.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses whose traffic arrives with the address still in place (`ipMode` VIP).
    pub balancer_ips: Vec<IpAddr>,
    /// 0: none.
    pub node_port: u16,
    /// Seconds a client sticks to its endpoint; `None` without session affinity.
    pub affinity: Option<u32>,
    /// Whether external traffic stays on the node it arrived at.
    pub external_local: bool,
    /// The same for traffic to the cluster IP.
    pub internal_local: bool,
    /// Who may use the load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Where load balancers ask whether this node has endpoints; 0: nowhere.
    pub health_check_port: u16,
}

impl ServicePort {
    /// Whether something besides the cluster IP leads here.
    #[must_use]
    pub fn has_external(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.balancer_ips.is_empty()
    }
}

/// A Service's ports of one family; empty if it is none of ours (headless, ExternalName, another proxy's).
#[must_use]
pub fn ports(service: &Service, family: Family) -> Vec<ServicePort> {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = service.spec.as_ref() else {
        return Vec::new();
    };
    if labels.is_some_and(|l| l.contains_key(OTHER_PROXY)) || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let Some(cluster_ip) = addresses
        .filter_map(|a| a.parse::<IpAddr>().ok())
        .find(|a| Family::of(a) == family)
    else {
        return Vec::new();
    };
    let ours = |addresses: &mut dyn Iterator<Item = &String>| -> Vec<IpAddr> {
        addresses
            .filter_map(|a| a.parse().ok())
            .filter(|a| Family::of(a) == family)
            .collect()
    };
    let external_ips = ours(&mut spec.external_ips.iter().flatten());
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
    let is_vip = |mode: Option<&str>| mode.is_none_or(|m| m == "VIP");
    let mut vips = ingress
        .iter()
        .filter(|i| is_vip(i.ip_mode.as_deref()))
        .filter_map(|i| i.ip.as_ref());
    let balancer_ips = if spec.type_.as_deref() == Some("LoadBalancer") {
        ours(&mut vips)
    } else {
        Vec::new()
    };
    let exposed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(10_800)
    });
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let source_ranges = spec.load_balancer_source_ranges.iter().flatten();
    let source_ranges: Vec<IpNet> = source_ranges.filter_map(|r| r.trim().parse().ok()).collect();
    let mut source_ranges: Vec<IpNet> = source_ranges
        .into_iter()
        .filter(|r| Family::of(&r.addr()) == family)
        .collect();
    if source_ranges.iter().any(|r| r.prefix_len() == 0) {
        source_ranges.clear();
    }
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");

    let number = |n: i32| u16::try_from(n).ok();
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            let number_of = number(port.port)?;
            Some(ServicePort {
                id: format!("{namespace}/{name}/{}/{number_of}", protocol.nft()),
                name: port.name.clone().unwrap_or_default(),
                protocol,
                port: number_of,
                cluster_ip,
                external_ips: external_ips.clone(),
                balancer_ips: balancer_ips.clone(),
                node_port: if exposed {
                    port.node_port.and_then(number).unwrap_or(0)
                } else {
                    0
                },
                affinity,
                external_local,
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                source_ranges: source_ranges.clone(),
                health_check_port: if balanced && external_local {
                    spec.health_check_node_port.and_then(number).unwrap_or(0)
                } else {
                    0
                },
            })
        })
        .collect()
}
