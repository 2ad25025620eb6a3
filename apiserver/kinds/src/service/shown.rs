//! What people are shown of a Service: its row in tables, and the warnings that a write of it is answered with.

use super::{HINTS, MODE, kind};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, strings};
use crate::{Column, selector};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::Path;
use steersman_schema::name;

pub(super) fn warnings(service: &Value) -> Vec<String> {
    let path = Path::new("spec");
    let spec = service.at("/spec");
    let mut warnings = Vec::new();
    if service
        .entries("/metadata/annotations")
        .is_some_and(|a| a.contains_key(HINTS))
    {
        warnings.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let single = spec.text("/clusterIP");
    if !matches!(single, "" | "None") {
        for (i, ip) in strings(spec.items("/clusterIPs")).enumerate() {
            warnings.extend(name::ip_warnings(&path.child("clusterIPs").index(i), ip));
        }
    }
    let own = kind(service);
    let headless = own == "ClusterIP" && single == "None";
    let (balancer, external) = (spec.text("/loadBalancerIP"), spec.items("/externalIPs"));
    if headless {
        if !balancer.is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".into());
        }
        if !external.is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".into());
        }
        if spec.text("/sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".into());
        }
    }
    for (i, ip) in strings(external).enumerate() {
        warnings.extend(name::ip_warnings(&path.child("externalIPs").index(i), ip));
    }
    if !external.is_empty() && !headless && own != "ExternalName" {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if !balancer.is_empty() {
        warnings.extend(name::ip_warnings(&path.child("loadBalancerIP"), balancer));
    }
    for (i, range) in strings(spec.items("/loadBalancerSourceRanges")).enumerate() {
        warnings.extend(name::cidr_warnings(
            &path.child("loadBalancerSourceRanges").index(i),
            range,
        ));
    }
    if own == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if own != "ExternalName" && !spec.text("/externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.text("/trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    warnings
}

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", 0, "How the Service is reached."),
    column("Cluster-IP", "string", 0, "Its address inside the cluster."),
    column("External-IP", "string", 0, "Its addresses outside the cluster."),
    column("Port(s)", "string", 0, "Its ports, with node ports and protocols."),
    AGE,
    column("Selector", "string", 1, "The labels of the pods behind it."),
];

pub(super) fn row(service: &Value, now: &Timestamp) -> Vec<Value> {
    let spec = service.at("/spec");
    let external: Vec<&str> = strings(spec.items("/externalIPs")).collect();
    let outside = match kind(service) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_string(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let list = service.items("/status/loadBalancer/ingress").iter();
            let addresses: BTreeSet<&str> = list
                .map(|i| match i.text("/ip") {
                    "" => i.text("/hostname"),
                    ip => ip,
                })
                .filter(|a| !a.is_empty())
                .collect();
            let all: Vec<&str> = addresses.into_iter().chain(external).collect();
            if all.is_empty() {
                "<pending>".to_string()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => spec.text("/externalName").to_string(),
        _ => "<unknown>".to_string(),
    };
    let ports = spec.items("/ports").iter().map(|p| {
        let (port, protocol) = (p.int("/port"), p.text("/protocol"));
        match p.int("/nodePort") {
            ..=0 => format!("{port}/{protocol}"),
            node => format!("{port}:{node}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    vec![
        service.text("/metadata/name").into(),
        kind(service).into(),
        or_none(strings(spec.items("/clusterIPs")).next().unwrap_or_default()),
        outside.into(),
        or_none(&ports.join(",")),
        table::age(service, now),
        or_none(&selector::format_map(spec.at("/selector"))),
    ]
}
