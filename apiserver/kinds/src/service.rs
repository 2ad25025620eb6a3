//! Services: a stable address in front of pods.
//!
//! Addresses, node ports and families are allocated by the server between preparation and validation; a Service that
//! reaches [`KIND`]'s validation has them.

use crate::endpoints::{validate_app_protocol, validate_ip, validate_protocol};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, each_mut, invalid, put_back, remove, same, set, set_default, set_if_empty, strings};
use crate::{Column, Context, Kind, Status, Table, meta, nothing, selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json, quote};
use steersman_schema::name;

const AFFINITY_DEFAULT: i64 = 10_800;
const AFFINITY_MAX: i64 = 86_400;
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const FIXED: &str = "may not change once set";
const LB_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    default,
    prepare_create: |service, _| set(service, "status", json!({ "loadBalancer": {} })),
    prepare_update,
    validate: |service| validate(service, None),
    validate_update,
    warnings: |service, _| warnings(service),
    validate_name: meta::name_label,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: validate_status,
    }),
    updates: &[],
    generation: false,
    create_on_update: true,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[
        ("spec.clusterIP", |s| s.text("/spec/clusterIP").into()),
        ("spec.type", |s| s.text("/spec/type").into()),
    ],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
",
};

fn kind(service: &Value) -> &str {
    service.text("/spec/type")
}

/// Whether the Service has no address on purpose.
pub fn is_headless(service: &Value) -> bool {
    matches!(service.items("/spec/clusterIPs"), [one] if one == "None")
}

/// Reached from outside: node ports, load balancers, or external addresses.
pub fn is_external(service: &Value) -> bool {
    matches!(kind(service), "LoadBalancer" | "NodePort")
        || (kind(service) == "ClusterIP" && !service.items("/spec/externalIPs").is_empty())
}

/// Whether load balancers ask each node if it has endpoints.
pub fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.text("/spec/externalTrafficPolicy") == "Local"
}

fn default(service: &mut Value) {
    let Some(spec) = child(service, "spec") else { return };
    set_if_empty(spec, "sessionAffinity", "None");
    match spec.text("/sessionAffinity") {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" if !spec.has("/sessionAffinityConfig/clientIP/timeoutSeconds") => {
            set(
                spec,
                "sessionAffinityConfig",
                json!({ "clientIP": { "timeoutSeconds": AFFINITY_DEFAULT } }),
            );
        }
        _ => {}
    }
    set_if_empty(spec, "type", "ClusterIP");
    // It routes nothing itself. Anything but the known policies is left for validation.
    let policy = spec.text("/internalTrafficPolicy");
    if spec.text("/type") == "ExternalName" && matches!(policy, "Cluster" | "Local") {
        remove(spec, "internalTrafficPolicy");
    }
    for port in each_mut(spec, "/ports") {
        set_if_empty(port, "protocol", "TCP");
        let target = port.at("/targetPort");
        if target.is_null() || target == 0 || target == "" {
            let own = port.int("/port");
            set(port, "targetPort", own);
        }
    }
    if is_external(service) {
        if let Some(spec) = child(service, "spec") {
            set_if_empty(spec, "externalTrafficPolicy", "Cluster");
        }
    }
    let own = kind(service).to_string();
    if let Some(spec) = child(service, "spec") {
        if matches!(own.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if own == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    if own == "LoadBalancer" {
        for ingress in each_mut(service, "/status/loadBalancer/ingress") {
            if !ingress.text("/ip").is_empty() {
                set_default(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// Fields that only one type has go when the type changes, unless the client changed them as well.
fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "status");
    let (was, now) = (kind(old).to_string(), kind(new).to_string());
    let ported = |k: &str| matches!(k, "NodePort" | "LoadBalancer");
    let alike = |new: &Value, p: &str| same(new.at(p), old.at(p));
    let (mut drop, mut drop_ports) = (Vec::new(), false);
    if was != "ExternalName" && now == "ExternalName" {
        if alike(new, "/spec/clusterIP") && alike(new, "/spec/clusterIPs") {
            drop.extend(["clusterIP", "clusterIPs"]);
        }
        drop.extend(
            ["ipFamilies", "ipFamilyPolicy"]
                .iter()
                .filter(|k| alike(new, &format!("/spec/{k}"))),
        );
    }
    let node_ports = |s: &Value| -> BTreeSet<i64> {
        s.items("/spec/ports")
            .iter()
            .map(|p| p.int("/nodePort"))
            .filter(|p| *p != 0)
            .collect()
    };
    if ported(&was) && !ported(&now) && node_ports(old).is_superset(&node_ports(new)) {
        drop_ports = true;
    }
    if needs_health_check(old) && !needs_health_check(new) && alike(new, "/spec/healthCheckNodePort") {
        drop.push("healthCheckNodePort");
    }
    if was == "LoadBalancer" && now != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if alike(new, &format!("/spec/{key}")) {
                drop.push(key);
            }
        }
    }
    if is_external(old) && !is_external(new) && alike(new, "/spec/externalTrafficPolicy") {
        drop.push("externalTrafficPolicy");
    }
    if let Some(spec) = new.get_mut("spec") {
        drop.iter().for_each(|key| remove(spec, key));
        if drop_ports {
            each_mut(spec, "/ports").for_each(|port| remove(port, "nodePort"));
        }
    }
    if now != "LoadBalancer" && new.has("/status/loadBalancer") {
        set(new, "status", {
            let mut status = new.at("/status").clone();
            set(&mut status, "loadBalancer", json!({}));
            status
        });
    }
}

/// `clusterIP` and `clusterIPs` say the same; clients that know only the first are helped (upstream:
/// `normalizeClusterIPs`).
pub fn pair_addresses(new: &mut Value, old: Option<&Value>) {
    let (one, many) = (
        new.text("/spec/clusterIP").to_owned(),
        new.at("/spec/clusterIPs").clone(),
    );
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let Some(spec) = new.get_mut("spec") else { return };
    let Some(old) = old else {
        if !one.is_empty() && none(&many) {
            set(spec, "clusterIPs", json!([one]));
        }
        return;
    };
    let (was_one, was_many) = (old.text("/spec/clusterIP"), old.at("/spec/clusterIPs"));
    let mut now_many = many;
    if !none(was_many) && none(&now_many) && was_one == one {
        now_many = was_many.clone();
        set(spec, "clusterIPs", now_many.clone());
    }
    let same_many = now_many == *was_many || (none(&now_many) && none(was_many));
    if was_one != one && same_many {
        if !was_one.is_empty() && one.is_empty() {
            remove(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([one]));
        }
    }
}

fn validate(service: &Value, old: Option<&Value>) -> FieldErrors {
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

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
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

/// Faults of addresses and families; the server runs this as well, before it allocates.
pub fn cluster_ips(service: &Value, old: Option<&Value>) -> FieldErrors {
    if kind(service) == "ExternalName" {
        return Vec::new();
    }
    let path = Path::new("spec");
    let spec = service.at("/spec");
    let (single, many) = (spec.text("/clusterIP"), spec.items("/clusterIPs"));
    let (at, families_at) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let mut errors = Vec::new();
    if single.is_empty() {
        if !many.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                many,
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if many.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if many[0] != single {
        errors.push(FieldError::invalid(&at, many, "first value must match `clusterIP`"));
    }
    let families: Vec<&str> = strings(spec.items("/ipFamilies")).collect();
    for (i, family) in families.iter().enumerate() {
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(
                &families_at.index(i),
                *family,
                &["IPv4", "IPv6"],
            ));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&families_at.index(i), *family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.at("/ipFamilyPolicy").as_str().filter(|p| !policies.contains(p)) {
        errors.push(FieldError::not_supported(
            &path.child("ipFamilyPolicy"),
            policy,
            &policies,
        ));
    }
    let known: Vec<String> = old
        .map_or(&[][..], |o| o.items("/spec/clusterIPs"))
        .iter()
        .map(text)
        .collect();
    let mut broken = false;
    for (i, ip) in strings(many).enumerate() {
        let found = if i == 0 && ip == "None" {
            let alone = many.len() == 1;
            let fault = || FieldError::invalid(&at, many, "'None' must be the first and only value");
            (!alone).then(fault).into_iter().collect()
        } else {
            name::ip_legacy(&at.index(i), ip, &known)
        };
        broken |= !found.is_empty();
        errors.extend(found);
    }
    if many.len() > 2 {
        errors.push(FieldError::invalid(&at, many, "may only hold up to 2 values"));
    }
    if broken {
        return errors;
    }
    let v6 = |ip: &str| ip.contains(':');
    if many.len() > 1 {
        let count = strings(many).filter(|ip| v6(ip)).count();
        if count == 0 || count == many.len() {
            errors.push(FieldError::invalid(
                &at,
                many,
                "may specify no more than one IP for each IP family",
            ));
        }
    }
    if !is_headless(service) {
        for (i, (ip, family)) in strings(many).zip(&families).enumerate() {
            if (*family == "IPv4" && v6(ip)) || (*family == "IPv6" && !v6(ip)) {
                let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.push(FieldError::invalid(&at.index(i), ip, why));
            }
        }
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

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
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

fn address_changes(new: &Value, old: &Value) -> FieldErrors {
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" || (is_headless(new) && is_headless(old)) {
        return Vec::new();
    }
    let at = Path::new("spec").child("clusterIPs");
    let (after, before) = (new.items("/spec/clusterIPs"), old.items("/spec/clusterIPs"));
    let mut errors = Vec::new();
    let primary_moved = !before.is_empty() && !after.is_empty() && after[0] != before[0];
    if after.len() == before.len() {
        let moved = after.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b);
        errors.extend(moved.map(|(i, _)| FieldError::invalid(&at.index(i), after, FIXED)));
    } else if before.len() > after.len() {
        if after.is_empty() {
            errors.push(FieldError::invalid(
                &at.index(0),
                after,
                "primary clusterIP can not be unset",
            ));
        }
        if primary_moved {
            errors.push(FieldError::invalid(&at.index(0), after, FIXED));
        }
        errors.extend(released(new, after.len(), "clusterIP"));
    } else if primary_moved {
        errors.push(FieldError::invalid(&at.index(0), after, FIXED));
    }
    errors
}

/// A second address or family goes only with the policy that says so.
fn released(new: &Value, left: usize, what: &str) -> Option<FieldError> {
    let policy = new.at("/spec/ipFamilyPolicy");
    let path = Path::new("spec").child("ipFamilyPolicy");
    let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    (left == 1 && policy != "SingleStack").then(|| FieldError::invalid(&path, policy, why))
}

fn family_changes(new: &Value, old: &Value) -> FieldErrors {
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" || is_headless(new) || is_headless(old) {
        return Vec::new();
    }
    // Upstream puts every fault of this list at its first element.
    let at = Path::new("spec").child("ipFamilies").index(0);
    let (after, before) = (new.items("/spec/ipFamilies"), old.items("/spec/ipFamilies"));
    let addresses = new.items("/spec/clusterIPs");
    let mut errors = Vec::new();
    let primary_moved = !before.is_empty() && !after.is_empty() && after[0] != before[0];
    if after.len() == before.len() {
        let moved = after.iter().zip(before).filter(|(a, b)| a != b);
        errors.extend(moved.map(|_| FieldError::invalid(&at, after, FIXED)));
    } else if before.len() > after.len() {
        if addresses.is_empty() {
            errors.push(FieldError::invalid(&at, after, "primary ipFamily can not be unset"));
        }
        if primary_moved {
            errors.push(FieldError::invalid(&at, addresses, FIXED));
        }
        errors.extend(released(new, after.len(), "ipFamily"));
    } else if primary_moved {
        errors.push(FieldError::invalid(&at, addresses, FIXED));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> FieldErrors {
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

fn warnings(service: &Value) -> Vec<String> {
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

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", 0, "How the Service is reached."),
    column("Cluster-IP", "string", 0, "Its address inside the cluster."),
    column("External-IP", "string", 0, "Its addresses outside the cluster."),
    column("Port(s)", "string", 0, "Its ports, with node ports and protocols."),
    AGE,
    column("Selector", "string", 1, "The labels of the pods behind it."),
];

fn row(service: &Value, now: &Timestamp) -> Vec<Value> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        default(&mut service);
        service
    }
    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_of_services_have_upstreams_words() {
        let port = json!([{"port": 80}]);
        for (spec, want) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]}),
                "spec.ports[0].name: Required value",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": port, "type": "X"}),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"ports": port, "clusterIP": "None", "clusterIPs": ["None"], "type": "NodePort"}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ports": port, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": port, "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ),
        ] {
            assert_eq!(texts(&validate(&service(spec), None)), [want]);
        }
    }

    #[test]
    fn the_address_stays() {
        let old = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
        let new = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}));
        assert_eq!(
            texts(&validate_update(&new, &old)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }

    #[test]
    fn fields_of_the_old_type_go_with_it() {
        let old = service(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
        );
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        prepare_update(&mut new, &old, &Context::default());
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
        assert!(validate(&new, Some(&old)).is_empty());
        new["spec"]["type"] = json!("ExternalName");
        prepare_update(&mut new, &old, &Context::default());
        assert!(new["spec"].get("clusterIP").is_none());
    }

    #[test]
    fn the_row_shows_ports_and_addresses() {
        let mut s = service(
            json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}], "clusterIPs": ["10.0.0.1"]}),
        );
        let cells = row(&s, &Timestamp::UNIX_EPOCH);
        assert_eq!((&cells[3], &cells[4]), (&json!("<pending>"), &json!("80:30080/TCP")));
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        assert_eq!(row(&s, &Timestamp::UNIX_EPOCH)[3], "1.2.3.4");
    }
}
