//! EndpointSlices: up to a thousand endpoints behind a Service, of one address family.

use crate::endpoints::{validate_app_protocol, validate_ip};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, each_mut, equal_field, remove, same, same_texts, set, set_default};
use crate::{Column, Context, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    default,
    prepare_create: |slice, _| drop_topology(slice),
    prepare_update,
    validate: |slice| validate(slice, None),
    validate_update,
    warnings,
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.7], conditions: {ready: true}}]
ports: [{name: http, port: 80}]
",
};

fn default(slice: &mut Value) {
    for port in each_mut(slice, "/ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

/// The field of the beta API can be read, not written.
fn drop_topology(slice: &mut Value) {
    for endpoint in each_mut(slice, "/endpoints") {
        remove(endpoint, "deprecatedTopology");
    }
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    // What counts is what the client sent, even if nothing of it is kept.
    let moved = !equal_field(new, old, "endpoints");
    if moved {
        drop_topology(new);
    }
    // Here labels count for the generation besides everything that is no metadata. The generic path raises it for the
    // latter, from the same old value, so that both together raise it once.
    if (moved || !same_texts(new.at("/metadata/labels"), old.at("/metadata/labels")))
        && let Some(metadata) = new.get_mut("metadata")
    {
        set(metadata, "generation", old.int("/metadata/generation") + 1);
    }
}

fn validate(slice: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    let family = slice.text("/addressType");
    let path = Path::new("addressType");
    match family {
        "" => errors.push(FieldError::required(&path, "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        _ => errors.push(FieldError::not_supported(&path, family, &["FQDN", "IPv4", "IPv6"])),
    }
    errors.extend(ports(slice.items("/ports"), &Path::new("ports")));
    let found = endpoints(slice.items("/endpoints"), family, &Path::new("endpoints"));
    if !found.is_empty() && old.is_none_or(|o| !same(o.at("/endpoints"), slice.at("/endpoints"))) {
        errors.extend(found);
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate(new, Some(old));
    let family = new.text("/addressType");
    if family != old.text("/addressType") {
        errors.push(FieldError::invalid(
            &Path::new("addressType"),
            family,
            "field is immutable",
        ));
    }
    errors
}

fn ports(list: &[Value], path: &Path) -> FieldErrors {
    if list.len() > PORTS_MAX {
        return vec![FieldError::too_many(path, list.len(), PORTS_MAX)];
    }
    let mut errors = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (i, port) in list.iter().enumerate() {
        let path = path.index(i);
        let own = port.text("/name");
        let place = path.child("name");
        if !own.is_empty() {
            errors.extend(
                name::dns1123_label(own)
                    .into_iter()
                    .map(|m| FieldError::invalid(&place, own, m)),
            );
        }
        if !seen.insert(own) {
            errors.push(FieldError::duplicate(&place, own));
        }
        if !port.has("/protocol") {
            errors.push(FieldError::required(&path.child("protocol"), ""));
        } else if !matches!(port.text("/protocol"), "TCP" | "UDP" | "SCTP") {
            let known = ["SCTP", "TCP", "UDP"];
            errors.push(FieldError::not_supported(
                &path.child("protocol"),
                port.text("/protocol"),
                &known,
            ));
        }
        errors.extend(validate_app_protocol(port, &path));
    }
    errors
}

fn endpoints(list: &[Value], family: &str, path: &Path) -> FieldErrors {
    if list.len() > ENDPOINTS_MAX {
        return vec![FieldError::too_many(path, list.len(), ENDPOINTS_MAX)];
    }
    let mut errors = Vec::new();
    for (i, endpoint) in list.iter().enumerate() {
        let path = path.index(i);
        let place = path.child("addresses");
        let addresses = endpoint.items("/addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(&place, "must contain at least 1 address"));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(&place, addresses.len(), ADDRESSES_MAX));
        }
        for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            errors.extend(validate_address(address, family, &place, i));
        }
        if endpoint.has("/nodeName") {
            let (node, path) = (endpoint.text("/nodeName"), path.child("nodeName"));
            errors.extend(
                name::dns1123_subdomain(node)
                    .into_iter()
                    .map(|m| FieldError::invalid(&path, node, m)),
            );
        }
        let topology = endpoint.entries("/deprecatedTopology");
        let place = path.child("deprecatedTopology");
        if let Some(count) = topology.map(serde_json::Map::len).filter(|n| *n > TOPOLOGY_MAX) {
            errors.push(FieldError::too_many(&place, count, TOPOLOGY_MAX));
        }
        let labels = topology
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
        errors.extend(meta::validate_labels(labels, &place));
        if endpoint.has("/hostname") {
            let (host, path) = (endpoint.text("/hostname"), path.child("hostname"));
            errors.extend(
                name::dns1123_label(host)
                    .into_iter()
                    .map(|m| FieldError::invalid(&path, host, m)),
            );
        }
        errors.extend(hints(endpoint, "forZones", name::label_value, &path));
        errors.extend(hints(endpoint, "forNodes", name::dns1123_subdomain, &path));
    }
    errors
}

fn validate_address(address: &str, family: &str, path: &Path, i: usize) -> FieldErrors {
    let place = path.index(i);
    let (mut errors, right, why) = match family {
        "IPv4" => (
            name::ip_legacy(&place, address, &[]),
            !address.contains(':'),
            "must be an IPv4 address",
        ),
        "IPv6" => (
            name::ip(&place, address),
            address.contains(':'),
            "must be an IPv6 address",
        ),
        "FQDN" => return name::fully_qualified_domain(&place, address),
        _ => return Vec::new(),
    };
    if errors.is_empty() {
        if !right {
            errors.push(FieldError::invalid(path, address, why));
        }
        errors.extend(validate_ip(address, &place));
    }
    errors
}

fn hints(endpoint: &Value, key: &str, rule: fn(&str) -> Vec<String>, path: &Path) -> FieldErrors {
    let list = endpoint.items(&format!("/hints/{key}"));
    let path = path.child("hints").child(key);
    if list.len() > HINTS_MAX {
        return vec![FieldError::too_many(&path, list.len(), HINTS_MAX)];
    }
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (i, hint) in list.iter().enumerate() {
        let (own, path) = (hint.text("/name"), path.index(i).child("name"));
        if seen.contains(&own) {
            errors.push(FieldError::duplicate(&path, own));
        }
        seen.push(own);
        errors.extend(rule(own).into_iter().map(|m| FieldError::invalid(&path, own, m)));
    }
    errors
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() && new.text("/addressType") == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_string());
    }
    let manager = new
        .entries("/metadata/labels")
        .and_then(|l| l.get("endpointslice.kubernetes.io/managed-by"));
    let ours = [
        "endpointslice-controller.k8s.io",
        "endpointslicemirroring-controller.k8s.io",
    ];
    if new.text("/addressType") == "FQDN" || manager.and_then(Value::as_str).is_some_and(|m| ours.contains(&m)) {
        return warnings;
    }
    for (i, endpoint) in new.items("/endpoints").iter().enumerate() {
        for (j, address) in endpoint
            .items("/addresses")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            let path = Path::new("endpoints").index(i).child("addresses").index(j);
            warnings.extend(name::ip_warnings(&path, address));
        }
    }
    warnings
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "AddressType",
        "string",
        0,
        "What the addresses of this slice are: IPv4, IPv6 or FQDN.",
    ),
    column(
        "Ports",
        "string",
        0,
        "The ports of every endpoint, three of them and how many more.",
    ),
    column(
        "Endpoints",
        "string",
        0,
        "The addresses, three of them and how many more.",
    ),
    AGE,
];

fn row(slice: &Value, now: &Timestamp) -> Vec<Value> {
    let more = |list: Vec<String>| match list.len() {
        0 => "<unset>".to_string(),
        1..=3 => match list.join(",") {
            text if text.is_empty() => "<unset>".to_string(),
            text => text,
        },
        n => format!("{} + {} more...", list[..3].join(","), n - 3),
    };
    let ports = slice.items("/ports").iter().map(|p| match p.at("/port").as_i64() {
        Some(number) => number.to_string(),
        None if p.has("/name") => p.text("/name").to_string(),
        None => "*".to_string(),
    });
    let addresses = slice.items("/endpoints").iter().flat_map(|e| e.items("/addresses"));
    vec![
        slice.text("/metadata/name").into(),
        slice.text("/addressType").into(),
        more(ports.collect()).into(),
        more(addresses.map(|a| a.as_str().unwrap_or_default().to_string()).collect()).into(),
        table::age(slice, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_of_slices_have_upstreams_words() {
        let slice = json!({"addressType": "IPv4", "ports": [{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "x"}],
            "endpoints": [{"addresses": []}, {"addresses": ["127.0.0.1", "fe80:0::1"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}]});
        let texts: Vec<String> = validate(&slice, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"x\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "endpoints[1].addresses: Invalid value: \"fe80:0::1\": must be an IPv4 address",
                "endpoints[1].addresses[1]: Invalid value: \"fe80:0::1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                "endpoints[1].hints.forZones[1].name: Duplicate value: \"z\"",
            ]
        );
    }

    #[test]
    fn unchanged_endpoints_are_left_in_peace() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]});
        assert!(validate_update(&slice, &slice).is_empty());
        let other = json!({"addressType": "IPv6", "endpoints": [{"addresses": []}]});
        assert_eq!(
            validate_update(&other, &slice)[0].to_string(),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
    }
}
