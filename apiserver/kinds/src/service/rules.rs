//! What a Service may say: everything but its addresses, which have rules of their own ([`super::addresses`]).
//!
//! The order of the faults is upstream's, and so are the places where it finds one twice.

use super::addresses::{address_changes, cluster_ips, family_changes};
use super::{FIXED, HINTS, MODE, is_external, is_headless, kind, needs_health_check, text};
use crate::endpoints::{validate_app_protocol, validate_ip, validate_protocol};
use crate::meta;
use crate::view::{View, invalid, strings};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json, quote};
use steersman_schema::name;

const AFFINITY_MAX: i64 = 86_400;

const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

const LB_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) fn validate(service: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = service.at("/spec");
    let mut errors = annotations(service);
    let ports = spec.items("/ports");
    let at = path.child("ports");
    let headless = is_headless(service);
    let own = kind(service);
    if ports.is_empty() && !headless && own != "ExternalName" {
        errors.push(FieldError::required(&at, ""));
    }
    match own {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {own} services");
            errors.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", why));
        }
        "ExternalName" => errors.extend(external_name(spec, &path)),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        errors.extend(validate_port(port, ports.len() > 1, &mut names, &at.index(i)));
    }
    let labels = spec.entries("/selector").into_iter().flatten();
    let labels = labels.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
    errors.extend(meta::validate_labels(labels, &path.child("selector")));
    errors.extend(affinity(spec, &path));
    errors.extend(cluster_ips(service, old));
    let known: Vec<String> = old
        .map_or(&[][..], |o| o.items("/spec/externalIPs"))
        .iter()
        .map(text)
        .collect();
    for (i, ip) in strings(spec.items("/externalIPs")).enumerate() {
        let at = path.child("externalIPs").index(i);
        let found = name::ip_legacy(&at, ip, &known);
        errors.extend(if found.is_empty() { validate_ip(ip, &at) } else { found });
    }
    match own {
        "" => errors.push(FieldError::required(&path.child("type"), "")),
        _ if !TYPES.contains(&own) => errors.push(FieldError::not_supported(&path.child("type"), own, TYPES)),
        _ => {}
    }
    errors.extend(port_clashes(ports, own, &at));
    errors.extend(source_ranges(service, old, &path));
    let allocate = path.child("allocateLoadBalancerNodePorts");
    if spec.has("/allocateLoadBalancerNodePorts") && own != "LoadBalancer" {
        errors.push(FieldError::forbidden(&allocate, LB_ONLY));
    } else if own == "LoadBalancer" && !spec.has("/allocateLoadBalancerNodePorts") {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    errors.extend(balancer_class(service, &path));
    errors.extend(traffic(service, &path));
    errors
}

fn balancer_class(service: &Value, path: &Path) -> FieldErrors {
    let place = path.child("loadBalancerClass");
    match service.at("/spec/loadBalancerClass").as_str() {
        Some(class) if kind(service) == "LoadBalancer" => invalid(&place, class, name::qualified_name(class)),
        Some(_) => vec![FieldError::forbidden(&place, LB_ONLY)],
        None => Vec::new(),
    }
}

fn annotations(service: &Value) -> FieldErrors {
    let of = |key: &str| {
        service
            .entries("/metadata/annotations")
            .and_then(|a| a.get(key))
            .and_then(Value::as_str)
    };
    match (of(HINTS), of(MODE)) {
        (Some(hints), Some(mode)) if hints != mode => {
            let path = Path::new("metadata").child("annotations").key(MODE);
            let why = format!("must match annotations[{HINTS}] when both are specified");
            vec![FieldError::invalid(&path, mode, why)]
        }
        _ => Vec::new(),
    }
}

fn external_name(spec: &Value, path: &Path) -> FieldErrors {
    let why = "may not be set for ExternalName services";
    let mut errors = Vec::new();
    for key in ["clusterIPs", "ipFamilies"] {
        if !spec.items(&format!("/{key}")).is_empty() {
            errors.push(FieldError::forbidden(&path.child(key), why));
        }
    }
    if spec.has("/ipFamilyPolicy") {
        errors.push(FieldError::forbidden(&path.child("ipFamilyPolicy"), why));
    }
    let own = spec.text("/externalName");
    let place = path.child("externalName");
    match own.strip_suffix('.').unwrap_or(own) {
        "" => errors.push(FieldError::required(&place, "")),
        own => errors.extend(invalid(&place, own, name::dns1123_subdomain(own))),
    }
    errors
}

fn validate_port<'a>(port: &'a Value, named: bool, names: &mut BTreeSet<&'a str>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let own = port.text("/name");
    let place = path.child("name");
    if own.is_empty() {
        errors.extend(named.then(|| FieldError::required(&place, "")));
    } else {
        errors.extend(invalid(&place, own, name::dns1123_label(own)));
        if !names.insert(own) {
            errors.push(FieldError::duplicate(&place, own));
        }
    }
    let number = port.int("/port");
    let place = path.child("port");
    errors.extend(
        name::port_number(number)
            .into_iter()
            .map(|m| FieldError::invalid(&place, number, m)),
    );
    errors.extend(validate_protocol(port.text("/protocol"), &path.child("protocol")));
    let place = path.child("targetPort");
    match port.at("/targetPort") {
        Value::String(target) => errors.extend(invalid(&place, target, name::port_name(target))),
        target => {
            let target = target.as_i64().unwrap_or_default();
            errors.extend(
                name::port_number(target)
                    .into_iter()
                    .map(|m| FieldError::invalid(&place, target, m)),
            );
        }
    }
    errors.extend(validate_app_protocol(port, path));
    errors
}

fn affinity(spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let own = spec.text("/sessionAffinity");
    let place = path.child("sessionAffinity");
    match own {
        "" => errors.push(FieldError::required(&place, "")),
        "None" | "ClientIP" => {}
        _ => errors.push(FieldError::not_supported(&place, own, &["ClientIP", "None"])),
    }
    let place = path.child("sessionAffinityConfig");
    if own == "ClientIP" {
        let why = "when session affinity type is ClientIP";
        let client = place.child("clientIP");
        if !spec.has("/sessionAffinityConfig") {
            errors.push(FieldError::required(&place, why));
        } else if !spec.has("/sessionAffinityConfig/clientIP") {
            errors.push(FieldError::required(&client, why));
        } else {
            match spec.at("/sessionAffinityConfig/clientIP/timeoutSeconds").as_i64() {
                None => errors.push(FieldError::required(&client.child("timeoutSeconds"), why)),
                Some(seconds) if !(1..=AFFINITY_MAX).contains(&seconds) => {
                    let why = format!("must be greater than 0 and less than {AFFINITY_MAX}");
                    errors.push(FieldError::invalid(&client.child("timeoutSeconds"), seconds, why));
                }
                Some(_) => {}
            }
        }
    } else if own == "None" && spec.has("/sessionAffinityConfig") {
        errors.push(FieldError::forbidden(
            &place,
            "must not be set when session affinity is None",
        ));
    }
    errors
}

fn port_clashes(ports: &[Value], kind: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if kind == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, p)| p.int("/nodePort") != 0) {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&path.index(i).child("nodePort"), why));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let number = port.int("/nodePort");
        if number != 0 && !seen.insert((port.text("/protocol"), number)) {
            errors.push(FieldError::duplicate(&path.index(i).child("nodePort"), number));
        }
    }
    seen.clear();
    for (i, port) in ports.iter().enumerate() {
        let (protocol, number) = (port.text("/protocol"), port.int("/port"));
        if !seen.insert((protocol, number)) {
            // Upstream prints its internal key here.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                quote(protocol)
            );
            errors.push(FieldError::duplicate(&path.index(i), BadValue::Raw(shown)));
        }
    }
    errors
}

fn source_ranges(service: &Value, old: Option<&Value>, path: &Path) -> FieldErrors {
    let ranges = service.items("/spec/loadBalancerSourceRanges");
    let balanced = kind(service) == "LoadBalancer";
    let mut errors = Vec::new();
    if !ranges.is_empty() {
        // Upstream spells this path with a capital.
        let at = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(&at, LB_ONLY));
        }
        let known = old.map_or(&[][..], |o| o.items("/spec/loadBalancerSourceRanges"));
        let known: Vec<String> = known.iter().map(|r| text(r).trim().to_string()).collect();
        for (i, range) in strings(ranges).enumerate() {
            errors.extend(name::cidr_legacy(&at.index(i), range.trim(), &known));
        }
        return errors;
    }
    let of = |s: &Value| {
        s.entries("/metadata/annotations")
            .and_then(|a| a.get(SOURCE_RANGES))
            .map(text)
    };
    if let Some(annotation) = of(service) {
        let at = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            errors.push(FieldError::forbidden(&at, LB_ONLY));
        }
        if old.and_then(of).as_ref() != Some(&annotation) && !annotation.trim().is_empty() {
            let list = annotation.trim().split(',');
            errors.extend(list.flat_map(|range| name::cidr_legacy(&at, range.trim(), &[])));
        }
    }
    errors
}

fn traffic(service: &Value, path: &Path) -> FieldErrors {
    let spec = service.at("/spec");
    let mut errors = Vec::new();
    let (policy, place) = (spec.text("/externalTrafficPolicy"), path.child("externalTrafficPolicy"));
    match (is_external(service), policy) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (false, _) => {
            errors.push(FieldError::invalid(
                &place,
                policy,
                "may only be set for externally-accessible services",
            ));
        }
        (true, "") => errors.push(FieldError::required(&place, "")),
        (true, _) => errors.push(FieldError::not_supported(&place, policy, &["Cluster", "Local"])),
    }
    let (port, place) = (spec.int("/healthCheckNodePort"), path.child("healthCheckNodePort"));
    match (needs_health_check(service), port) {
        (false, 0) => {}
        (false, _) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(&place, port, why));
        }
        (true, 0) => errors.push(FieldError::required(&place, "")),
        (true, _) => {
            errors.extend(
                name::port_number(port)
                    .into_iter()
                    .map(|m| FieldError::invalid(&place, port, m)),
            );
        }
    }
    let place = path.child("internalTrafficPolicy");
    match spec.at("/internalTrafficPolicy").as_str() {
        None if matches!(kind(service), "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.push(FieldError::required(&place, ""));
        }
        None | Some("Cluster" | "Local") => {}
        Some(other) => errors.push(FieldError::not_supported(&place, other, &["Cluster", "Local"])),
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(other) = spec.at("/trafficDistribution").as_str().filter(|t| !known.contains(t)) {
        errors.push(FieldError::not_supported(
            &path.child("trafficDistribution"),
            BadValue::plain(other),
            &known,
        ));
    }
    errors
}

pub(super) fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = address_changes(new, old);
    errors.extend(family_changes(new, old));
    let path = Path::new("spec");
    let balanced = |s: &Value| kind(s) == "LoadBalancer";
    let class = new.at("/spec/loadBalancerClass");
    if balanced(new) && balanced(old) && class != old.at("/spec/loadBalancerClass") {
        let shown = BadValue::Raw(go_json(class));
        errors.push(FieldError::invalid(&path.child("loadBalancerClass"), shown, FIXED));
    }
    // Upstream looks at it here and again in what every Service must be.
    errors.extend(balancer_class(new, &path));
    let port = |s: &Value| s.int("/spec/healthCheckNodePort");
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        errors.push(FieldError::forbidden(
            &path.child("healthCheckNodePort"),
            "field is immutable",
        ));
    }
    errors.extend(validate(new, Some(old)));
    errors
}

pub(super) fn validate_status(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let list = new.items("/status/loadBalancer/ingress");
    if kind(new) != "LoadBalancer" && !list.is_empty() {
        return vec![FieldError::forbidden(
            &path,
            "may only be used when `spec.type` is 'LoadBalancer'",
        )];
    }
    let known: Vec<String> = old
        .items("/status/loadBalancer/ingress")
        .iter()
        .map(|i| i.text("/ip").to_string())
        .collect();
    let mut errors = Vec::new();
    for (i, ingress) in list.iter().enumerate() {
        let at = path.index(i);
        let ip = ingress.text("/ip");
        if !ip.is_empty() {
            errors.extend(name::ip_legacy(&at.child("ip"), ip, &known));
        }
        let place = at.child("ipMode");
        match ingress.at("/ipMode").as_str() {
            None if !ip.is_empty() => errors.push(FieldError::required(&place, "must be specified when `ip` is set")),
            Some(_) if ip.is_empty() => {
                errors.push(FieldError::forbidden(
                    &place,
                    "may not be specified when `ip` is not set",
                ));
            }
            None | Some("VIP" | "Proxy") => {}
            Some(other) => errors.push(FieldError::not_supported(&place, other, &["Proxy", "VIP"])),
        }
        let host = ingress.text("/hostname");
        if !host.is_empty() {
            let place = at.child("hostname");
            errors.extend(invalid(&place, host, name::dns1123_subdomain(host)));
            if name::parse_ip_sloppy(host).is_some() {
                errors.push(FieldError::invalid(
                    &place,
                    host,
                    "must be a DNS name, not an IP address",
                ));
            }
        }
    }
    errors
}
