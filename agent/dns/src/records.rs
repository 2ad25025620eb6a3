//! Which records a name has: the Kubernetes DNS specification, version 1.1. Pure.
//!
//! | name (below the cluster domain) | records |
//! |---|---|
//! | `dns-version` | TXT |
//! | `SERVICE.NAMESPACE.svc` | A/AAAA of the cluster IP, or of each ready endpoint if headless; CNAME if ExternalName |
//! | `HOST.SERVICE.NAMESPACE.svc` | A/AAAA of the endpoints with that host name (their dashed address if they have none) |
//! | `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc` | SRV, one per cluster IP or endpoint |
//! | `1-2-3-4.NAMESPACE.pod` | A/AAAA of just that address |
//! | `4.3.2.1.in-addr.arpa` | PTR of Services and of endpoints of headless Services |
//!
//! Callers: [`crate::answer`]. Names come in as lower-case labels; nothing here knows the wire format.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use steersman_types::api::core::v1::Service;
use steersman_types::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::source::{Source, service_of};

/// The specification that the records follow.
const VERSION: &str = "1.1.0";

/// All that a name has, whatever the question's type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub addresses: BTreeSet<IpAddr>,
    /// Port and target (relative to the cluster domain), with the target's addresses.
    pub servers: Vec<Server>,
    /// An absolute name.
    pub alias: Option<String>,
    pub text: Option<&'static str>,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    pub port: u16,
    /// Relative to the cluster domain.
    pub target: String,
    pub addresses: BTreeSet<IpAddr>,
}

/// The records of a name below the cluster domain; `None`: there is no such name. `labels` are in the order written.
#[must_use]
pub fn find(source: &dyn Source, labels: &[&str]) -> Option<Records> {
    match labels {
        [] | ["svc" | "pod"] | [_, "pod"] => Some(Records::default()),
        ["dns-version"] => Some(Records {
            text: Some(VERSION),
            ..Records::default()
        }),
        [address, _, "pod"] => {
            let address = undashed(address)?;
            Some(Records {
                addresses: [address].into(),
                ..Records::default()
            })
        }
        [namespace, "svc"] => source.has_namespace(namespace).then(Records::default),
        [name, namespace, "svc"] => whole(source, name, namespace),
        [protocol, name, namespace, "svc"] if protocol.starts_with('_') => {
            // Nothing is here, but something may be below.
            source.service(namespace, name).map(|_| Records::default())
        }
        [host, name, namespace, "svc"] => host_records(source, host, name, namespace),
        [port, protocol, name, namespace, "svc"] => servers(
            source,
            port.strip_prefix('_')?,
            protocol.strip_prefix('_')?,
            name,
            namespace,
        ),
        _ => None,
    }
}

/// Names (relative to the cluster domain) that an address has.
#[must_use]
pub fn names_at(source: &dyn Source, address: IpAddr) -> Vec<String> {
    let text = address.to_string();
    let services = source.services_at(&text);
    let mut names: Vec<String> = services
        .iter()
        .filter_map(|s| {
            Some(format!(
                "{}.{}.svc",
                s.metadata.name.as_deref()?,
                s.metadata.namespace.as_deref()?
            ))
        })
        .collect();
    for slice in source.slices_at(&text) {
        let Some((namespace, name)) = service_of(&slice) else {
            continue;
        };
        let Some(service) = source.service(namespace, name).filter(|s| is_headless(s)) else {
            continue;
        };
        for endpoint in ready(&service, &slice).filter(|e| e.addresses.contains(&text)) {
            names.push(format!("{}.{name}.{namespace}.svc", host_name(endpoint, address)));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn whole(source: &dyn Source, name: &str, namespace: &str) -> Option<Records> {
    let service = source.service(namespace, name)?;
    let spec = service.spec.as_ref();
    if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        let alias = spec.and_then(|s| s.external_name.clone()).filter(|n| !n.is_empty());
        return Some(Records {
            alias,
            ..Records::default()
        });
    }
    let addresses: BTreeSet<IpAddr> = if is_headless(&service) {
        let slices = source.slices(namespace, name);
        let found = slices.iter().flat_map(|slice| ready(&service, slice));
        found.filter_map(address).collect()
    } else {
        cluster_ips(&service)
    };
    // The specification wants a headless Service without endpoints not to exist.
    (!addresses.is_empty()).then(|| Records {
        addresses,
        ..Records::default()
    })
}

fn host_records(source: &dyn Source, host: &str, name: &str, namespace: &str) -> Option<Records> {
    let service = source.service(namespace, name)?;
    let slices = source.slices(namespace, name);
    let endpoints = slices.iter().flat_map(|slice| ready(&service, slice));
    let addresses: BTreeSet<IpAddr> = endpoints
        .filter_map(|e| address(e).filter(|a| host_name(e, *a).eq_ignore_ascii_case(host)))
        .collect();
    (!addresses.is_empty()).then(|| Records {
        addresses,
        ..Records::default()
    })
}

fn servers(source: &dyn Source, port: &str, protocol: &str, name: &str, namespace: &str) -> Option<Records> {
    let service = source.service(namespace, name)?;
    let base = format!("{name}.{namespace}.svc");
    let mut servers = Vec::new();
    if is_headless(&service) {
        for slice in source.slices(namespace, name) {
            let numbers: Vec<u16> = slice
                .ports
                .iter()
                .flatten()
                .filter(|p| p.name.as_deref() == Some(port) && same_protocol(p.protocol.as_deref(), protocol))
                .filter_map(|p| u16::try_from(p.port?).ok())
                .collect();
            for endpoint in ready(&service, &slice) {
                let Some(address) = address(endpoint) else { continue };
                let target = format!("{}.{base}", host_name(endpoint, address));
                servers.extend(numbers.iter().map(|n| Server {
                    port: *n,
                    target: target.clone(),
                    addresses: [address].into(),
                }));
            }
        }
    } else {
        let addresses = cluster_ips(&service);
        let ports = service
            .spec
            .as_ref()
            .and_then(|s| s.ports.as_ref())
            .into_iter()
            .flatten();
        let numbers = ports
            .filter(|p| p.name.as_deref() == Some(port) && same_protocol(p.protocol.as_deref(), protocol))
            .filter_map(|p| u16::try_from(p.port).ok());
        servers.extend(numbers.map(|n| Server {
            port: n,
            target: base.clone(),
            addresses: addresses.clone(),
        }));
    }
    servers.sort_unstable();
    servers.dedup();
    (!servers.is_empty()).then(|| Records {
        servers,
        ..Records::default()
    })
}

fn same_protocol(of_port: Option<&str>, asked: &str) -> bool {
    of_port.unwrap_or("TCP").eq_ignore_ascii_case(asked)
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn cluster_ips(service: &Service) -> BTreeSet<IpAddr> {
    let spec = service.spec.as_ref();
    let many = spec.and_then(|s| s.cluster_ips.as_ref()).into_iter().flatten();
    many.chain(spec.and_then(|s| s.cluster_ip.as_ref()))
        .filter_map(|a| a.parse().ok())
        .collect()
}

/// Endpoints that may be named: ready ones (saying nothing counts as ready), or all if the Service wants that.
fn ready<'a>(service: &Service, slice: &'a Arc<EndpointSlice>) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
    let all = service
        .spec
        .as_ref()
        .and_then(|s| s.publish_not_ready_addresses)
        .unwrap_or(false);
    let usable = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.filter(move |e| usable && (all || e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)))
}

/// Only an endpoint's first address counts; the others are the same thing again.
fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn host_name(endpoint: &Endpoint, address: IpAddr) -> String {
    let given = endpoint.hostname.clone().filter(|h| !h.is_empty());
    given.unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
}

/// `1-2-3-4` or `fd00--1`.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}
