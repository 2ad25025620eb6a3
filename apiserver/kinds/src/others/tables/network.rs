//! Tables of kinds around the network: ingresses, network policies, addresses.

use super::{is_default, own, text, text_or};
use crate::Column;
use crate::table::{AGE, NAME, age, column};
use crate::view::View;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

const ADDRESSES_WIDTH: usize = 16;

const HOSTS_MAX: usize = 3;

pub(super) const INGRESS: &[Column] = &[
    NAME,
    column(
        "Class",
        "string",
        0,
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    column(
        "Hosts",
        "string",
        0,
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    column(
        "Address",
        "string",
        0,
        "Address is a list containing ingress points for the load-balancer",
    ),
    column("Ports", "string", 0, "Ports of TLS configurations that open"),
    AGE,
];

pub(super) fn ingress(ingress: &Value, now: &Timestamp) -> Vec<Value> {
    let rules = ingress.items("/spec/rules");
    let hosts: Vec<&str> = rules
        .iter()
        .map(|r| r.text("/host"))
        .filter(|h| !h.is_empty())
        .take(HOSTS_MAX)
        .collect();
    // Upstream counts rules, not hosts, once three hosts are shown.
    let third = rules
        .iter()
        .enumerate()
        .filter(|(_, r)| !r.text("/host").is_empty())
        .nth(HOSTS_MAX - 1);
    let more = third.is_some_and(|(at, _)| rules.len() > at + 1);
    let hosts = match hosts.join(",") {
        none if none.is_empty() => "*".to_string(),
        shown if more => format!("{shown} + {} more...", rules.len() - HOSTS_MAX),
        shown => shown,
    };
    let points: BTreeSet<&str> = ingress
        .items("/status/loadBalancer/ingress")
        .iter()
        .map(|p| {
            if p.text("/ip").is_empty() {
                p.text("/hostname")
            } else {
                p.text("/ip")
            }
        })
        .filter(|p| !p.is_empty())
        .collect();
    let mut address = points.into_iter().collect::<Vec<_>>().join(",");
    if address.len() > ADDRESSES_WIDTH {
        address = format!("{}...", address.get(..ADDRESSES_WIDTH - 3).unwrap_or_default());
    }
    let ports = if ingress.items("/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        own(ingress),
        text_or(ingress, "/spec/ingressClassName", "<none>"),
        hosts.into(),
        address.into(),
        ports.into(),
        age(ingress, now),
    ]
}

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    column(
        "Controller",
        "string",
        0,
        "Controller that is responsible for handling this class",
    ),
    column(
        "Parameters",
        "string",
        0,
        "A reference to a resource with additional parameters",
    ),
    AGE,
];

pub(super) fn ingress_class(class: &Value, now: &Timestamp) -> Vec<Value> {
    let suffix = if is_default(class, "ingressclass.kubernetes.io/is-default-class") {
        " (default)"
    } else {
        ""
    };
    let parameters = match class.at("/spec/parameters") {
        Value::Null => "<none>".to_string(),
        p => match p.at("/apiGroup").as_str() {
            Some(group) => format!("{}.{group}/{}", p.text("/kind"), p.text("/name")),
            None => format!("{}/{}", p.text("/kind"), p.text("/name")),
        },
    };
    vec![
        format!("{}{suffix}", class.text("/metadata/name")).into(),
        text(class, "/spec/controller"),
        parameters.into(),
        age(class, now),
    ]
}

pub(super) const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", "string", 0, "The pods to which the policy applies."),
    AGE,
];

pub(super) const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "string", 0, "Ranges of addresses for Services."),
    AGE,
];

pub(super) const IP_ADDRESS: &[Column] = &[NAME, column("ParentRef", "string", 0, "What has the address.")];

/// Upstream gives a third cell, the age, that no column names.
pub(super) fn ip_address(address: &Value, now: &Timestamp) -> Vec<Value> {
    let parent = match address.at("/spec/parentRef") {
        Value::Null => "<none>".to_string(),
        p => {
            let (group, resource) = (p.text("/group"), p.text("/resource"));
            let dot = if group.is_empty() { "" } else { "." };
            let kind = format!("{resource}{dot}{group}").to_lowercase();
            let place = match p.text("/namespace") {
                "" => String::new(),
                namespace => format!("/{namespace}"),
            };
            format!("{kind}{place}/{}", p.text("/name"))
        }
    };
    vec![own(address), parent.into(), age(address, now)]
}
