//! Endpoints: the older form of EndpointSlices, one object per Service. Deprecated, still served.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, each_mut, same, set_if_empty};
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use std::net::IpAddr;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    default,
    prepare_create: nothing::prepare_create,
    prepare_update: nothing::prepare_update,
    validate,
    validate_update: |new, old| {
        if same(new.at("/subsets"), old.at("/subsets")) {
            Vec::new()
        } else {
            validate(new)
        }
    },
    warnings: |endpoints, _| warnings(endpoints),
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: true,
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
    example: "apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: default}
subsets: [{addresses: [{ip: 10.0.0.7}], ports: [{port: 80}]}]
",
};

fn default(endpoints: &mut Value) {
    for subset in each_mut(endpoints, "/subsets") {
        for port in each_mut(subset, "/ports") {
            set_if_empty(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, subset) in endpoints.items("/subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        if subset.items("/addresses").is_empty() && subset.items("/notReadyAddresses").is_empty() {
            errors.push(FieldError::required(
                &path,
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (i, address) in subset.items(&format!("/{key}")).iter().enumerate() {
                errors.extend(validate_address(address, &path.child(key).index(i)));
            }
        }
        let ports = subset.items("/ports");
        for (i, port) in ports.iter().enumerate() {
            errors.extend(validate_port(port, ports.len() > 1, &path.child("ports").index(i)));
        }
    }
    errors
}

fn validate_address(address: &Value, path: &Path) -> FieldErrors {
    let ip = address.text("/ip");
    let mut errors = name::ip_legacy(&path.child("ip"), ip, &[]);
    let host = address.text("/hostname");
    if !host.is_empty() {
        let path = path.child("hostname");
        errors.extend(
            name::dns1123_label(host)
                .into_iter()
                .map(|m| FieldError::invalid(&path, host, m)),
        );
    }
    if address.has("/nodeName") {
        let (node, path) = (address.text("/nodeName"), path.child("nodeName"));
        errors.extend(
            name::dns1123_subdomain(node)
                .into_iter()
                .map(|m| FieldError::invalid(&path, node, m)),
        );
    }
    errors.extend(validate_ip(ip, &path.child("ip")));
    errors
}

/// Addresses that no endpoint can have: unspecified, loopback, link-local.
pub(crate) fn validate_ip(text: &str, path: &Path) -> FieldErrors {
    let Some(ip) = name::parse_ip_sloppy(text) else {
        return vec![FieldError::invalid(path, text, "must be a valid IP address")];
    };
    let (unicast, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors = Vec::new();
    if ip.is_unspecified() {
        errors.push(FieldError::invalid(
            path,
            text,
            format!("may not be unspecified ({text})"),
        ));
    }
    if ip.is_loopback() {
        errors.push(FieldError::invalid(
            path,
            text,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ));
    }
    if unicast {
        let why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.push(FieldError::invalid(path, text, why));
    }
    if multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(FieldError::invalid(path, text, why));
    }
    errors
}

fn validate_port(port: &Value, named: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let own = port.text("/name");
    let place = path.child("name");
    if own.is_empty() {
        errors.extend(named.then(|| FieldError::required(&place, "")));
    } else {
        errors.extend(
            name::dns1123_label(own)
                .into_iter()
                .map(|m| FieldError::invalid(&place, own, m)),
        );
    }
    let number = port.int("/port");
    let place = path.child("port");
    errors.extend(
        name::port_number(number)
            .into_iter()
            .map(|m| FieldError::invalid(&place, number, m)),
    );
    errors.extend(validate_protocol(port.text("/protocol"), &path.child("protocol")));
    errors.extend(validate_app_protocol(port, path));
    errors
}

/// TCP, UDP or SCTP; required.
pub(crate) fn validate_protocol(protocol: &str, path: &Path) -> FieldErrors {
    match protocol {
        "" => vec![FieldError::required(path, "")],
        "TCP" | "UDP" | "SCTP" => Vec::new(),
        _ => vec![FieldError::not_supported(path, protocol, &["SCTP", "TCP", "UDP"])],
    }
}

/// `appProtocol`, if set, is a qualified name.
pub(crate) fn validate_app_protocol(port: &Value, path: &Path) -> FieldErrors {
    if !port.has("/appProtocol") {
        return Vec::new();
    }
    let (text, path) = (port.text("/appProtocol"), path.child("appProtocol"));
    name::qualified_name(text)
        .into_iter()
        .map(|m| FieldError::invalid(&path, text, m))
        .collect()
}

fn warnings(endpoints: &Value) -> Vec<String> {
    let managed = endpoints
        .entries("/metadata/labels")
        .and_then(|l| l.get("endpoints.kubernetes.io/managed-by"));
    if managed.is_some_and(|m| m == "endpoint-controller") {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for (i, subset) in endpoints.items("/subsets").iter().enumerate() {
        for key in ["addresses", "notReadyAddresses"] {
            for (j, address) in subset.items(&format!("/{key}")).iter().enumerate() {
                let path = Path::new("subsets").index(i).child(key).index(j).child("ip");
                warnings.extend(name::ip_warnings(&path, address.text("/ip")));
            }
        }
    }
    warnings
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Endpoints",
        "string",
        0,
        "Addresses with their ports, three of them and how many more.",
    ),
    AGE,
];

fn row(endpoints: &Value, now: &Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in endpoints.items("/subsets") {
        let ips = || subset.items("/addresses").iter().map(|a| a.text("/ip"));
        let ports = subset.items("/ports");
        if ports.is_empty() {
            list.extend(ips().map(str::to_string));
        }
        for port in ports {
            let number = port.int("/port");
            list.extend(ips().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
    }
    let cell = match list.len() {
        0 => "<none>".to_string(),
        1..=3 => list.join(","),
        n => format!("{} + {} more...", list[..3].join(","), n - 3),
    };
    vec![
        endpoints.text("/metadata/name").into(),
        cell.into(),
        table::age(endpoints, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        let path = Path::new("ip");
        for ip in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "fe80::1",
            "ff02::1",
            "::",
        ] {
            assert_eq!(validate_ip(ip, &path).len(), 1, "{ip}");
        }
        assert!(validate_ip("10.0.0.1", &path).is_empty());
    }

    #[test]
    fn the_row_shows_three_and_counts_the_rest() {
        let e = json!({"subsets": [{"addresses": [{"ip": "a"}, {"ip": "b"}], "ports": [{"port": 1}, {"port": 2}]}]});
        assert_eq!(row(&e, &Timestamp::UNIX_EPOCH)[1], "a:1,b:1,a:2 + 1 more...");
    }

    #[test]
    fn a_subset_has_addresses_and_several_ports_have_names() {
        let e = json!({"subsets": [{"ports": [{"port": 0, "protocol": "TCP"}, {"port": 1, "protocol": "X"}]}]});
        let texts: Vec<String> = validate(&e).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[0].ports[1].name: Required value",
                "subsets[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ]
        );
    }
}
