//! NetworkPolicies: which traffic a pod admits and sends.

use super::rules::{Rules, free_metadata, label_selector};
use crate::view::{View, strings};
use crate::{meta, nothing};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const TYPES: &[&str] = &["Ingress", "Egress"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
/// Direction, and where its peers are.
const DIRECTIONS: &[(&str, &str)] = &[("ingress", "from"), ("egress", "to")];

pub static RULES: Rules = Rules {
    validate: |policy| validate(policy, false, &[]),
    validate_update: |new, old| {
        let selector = old.at("/spec/podSelector");
        let lenient = !label_selector(selector, false, &Path::default()).is_empty();
        validate(
            new,
            lenient,
            &blocks(old).map(|(_, text)| text.to_string()).collect::<Vec<_>>(),
        )
    },
    warnings: |policy, _| {
        blocks(policy)
            .flat_map(|(path, text)| name::cidr_warnings(&path, text))
            .collect()
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

/// Every address block of a policy.
fn blocks(policy: &Value) -> impl Iterator<Item = (Path, &str)> {
    let mut found = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in policy.items(&format!("/spec/{direction}")).iter().enumerate() {
            for (j, peer) in rule.items(&format!("/{peers}")).iter().enumerate() {
                let path = Path::new("spec")
                    .child(direction)
                    .index(i)
                    .child(peers)
                    .index(j)
                    .child("ipBlock");
                if peer.has("/ipBlock") {
                    found.push((path.child("cidr"), peer.text("/ipBlock/cidr")));
                    let except = strings(peer.items("/ipBlock/except")).enumerate();
                    found.extend(except.map(|(k, text)| (path.child("except").index(k), text)));
                }
            }
        }
    }
    found.into_iter()
}

fn validate(policy: &Value, lenient: bool, known: &[String]) -> FieldErrors {
    let path = Path::new("spec");
    let spec = policy.at("/spec");
    let mut errors = label_selector(spec.at("/podSelector"), lenient, &path.child("podSelector"));
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in spec.items(&format!("/{direction}")).iter().enumerate() {
            let path = path.child(direction).index(i);
            for (i, port) in rule.items("/ports").iter().enumerate() {
                errors.extend(validate_port(port, &path.child("ports").index(i)));
            }
            for (i, peer) in rule.items(&format!("/{peers}")).iter().enumerate() {
                errors.extend(validate_peer(peer, lenient, known, &path.child(peers).index(i)));
            }
        }
    }
    let types = spec.items("/policyTypes");
    let place = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&place, types, why));
        return errors;
    }
    for (i, other) in strings(types).enumerate().filter(|(_, t)| !TYPES.contains(t)) {
        errors.push(FieldError::not_supported(&place.index(i), other, TYPES));
    }
    errors
}

fn validate_port(port: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(other) = port.at("/protocol").as_str().filter(|p| !PROTOCOLS.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("protocol"), other, PROTOCOLS));
    }
    let (place, end_place) = (path.child("port"), path.child("endPort"));
    let end = port.at("/endPort").as_i64();
    let mut bad = |path: &Path, number: i64, faults: Vec<String>| {
        errors.extend(faults.into_iter().map(|m| FieldError::invalid(path, number, m)));
    };
    match (port.at("/port"), end) {
        (Value::Number(number), end) => {
            let number = number.as_i64().unwrap_or_default();
            bad(&place, number, name::port_number(number));
            if let Some(end) = end {
                if end < number {
                    bad(
                        &end_place,
                        number,
                        vec!["must be greater than or equal to `port`".into()],
                    );
                }
                bad(&end_place, end, name::port_number(end));
            }
        }
        (Value::String(text), end) => {
            if let Some(end) = end {
                bad(
                    &end_place,
                    end,
                    vec!["may not be specified when `port` is non-numeric".into()],
                );
            }
            errors.extend(crate::view::invalid(&place, text, name::port_name(text)));
        }
        (_, Some(end)) => bad(
            &end_place,
            end,
            vec!["may not be specified when `port` is not specified".into()],
        ),
        _ => {}
    }
    errors
}

fn validate_peer(peer: &Value, lenient: bool, known: &[String], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["podSelector", "namespaceSelector"] {
        errors.extend(label_selector(
            peer.get(key).unwrap_or(&Value::Null),
            lenient,
            &path.child(key),
        ));
    }
    let block = peer.has("/ipBlock");
    if block {
        errors.extend(ip_block(peer.at("/ipBlock"), known, &path.child("ipBlock")));
    }
    let selectors = peer.has("/podSelector") || peer.has("/namespaceSelector");
    if !block && !selectors {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if block && selectors {
        errors.push(FieldError::forbidden(
            path,
            "may not specify both ipBlock and another peer",
        ));
    }
    errors
}

fn ip_block(block: &Value, known: &[String], path: &Path) -> FieldErrors {
    let (text, place) = (block.text("/cidr"), path.child("cidr"));
    if text.is_empty() {
        return vec![FieldError::required(&place, "")];
    }
    let mut errors = name::cidr_legacy(&place, text, known);
    let Some((network, length)) = name::parse_cidr_sloppy(text) else {
        return errors;
    };
    for (i, except) in strings(block.items("/except")).enumerate() {
        let place = path.child("except").index(i);
        errors.extend(name::cidr_legacy(&place, except, known));
        let Some((inner, inner_length)) = name::parse_cidr_sloppy(except) else {
            continue;
        };
        let inside = inner.is_ipv4() == network.is_ipv4()
            && name::masked(name::masked(inner, inner_length), length) == name::masked(network, length);
        if !inside || length >= inner_length {
            errors.push(FieldError::invalid(&place, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn exceptions_lie_inside_their_block() {
        let block = json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16", "10.0.0.0/8"]});
        let policy = json!({"spec": {"ingress": [{"from": [{"ipBlock": block}, {}], "ports": [{"endPort": 3}]}]}});
        let texts: Vec<String> = validate(&policy, false, &[]).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 3: may not be specified when `port` is not specified",
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1]: Required value: must specify a peer",
            ]
        );
    }
}
