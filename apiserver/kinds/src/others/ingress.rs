//! Ingresses and their classes.

use super::rules::{IMMUTABLE, Rules, free_metadata, required};
use crate::view::{View, invalid, strings};
use crate::{meta, nothing};
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX: usize = 250;
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: &[&str] = &["/..", "/."];
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

pub static INGRESS: Rules = Rules {
    validate: |ingress| {
        let mut errors = validate(ingress, None);
        let class = annotation(ingress);
        if let (Some(class), Some(named)) = (class, ingress.at("/spec/ingressClassName").as_str())
            && class != named
        {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            let why = "must match `ingressClassName` when both are specified";
            errors.push(FieldError::invalid(&path, class, why));
        }
        errors
    },
    validate_update: |new, old| validate(new, Some(old)),
    warnings: |ingress, old| {
        let deprecated = old.is_none() && annotation(ingress).is_some() && !ingress.has("/spec/ingressClassName");
        let text =
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
        deprecated.then(|| text.to_string()).into_iter().collect()
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status,
};

pub static CLASS: Rules = Rules {
    validate: validate_class,
    validate_update: |new, old| {
        let (after, before) = (new.text("/spec/controller"), old.text("/spec/controller"));
        let place = Path::new("spec").child("controller");
        let mut errors = Vec::new();
        if after != before {
            errors.push(FieldError::invalid(&place, after, IMMUTABLE));
        }
        errors.extend(validate_class(new));
        errors
    },
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

fn annotation(ingress: &Value) -> Option<&str> {
    let all = ingress.entries("/metadata/annotations")?;
    all.get(CLASS_ANNOTATION)?.as_str()
}

fn validate(ingress: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = ingress.at("/spec");
    let rules = spec.items("/rules");
    let mut errors = Vec::new();
    if rules.is_empty() && !spec.has("/defaultBackend") {
        let why = "either `defaultBackend` or `rules` must be specified";
        let shown = if spec.has("/rules") { "[]" } else { "null" };
        errors.push(FieldError::invalid(&path, BadValue::Raw(shown.into()), why));
    }
    if spec.has("/defaultBackend") {
        errors.extend(backend(spec.at("/defaultBackend"), &path.child("defaultBackend")));
    }
    let odd_hosts = old.is_some_and(odd_wildcards);
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(rule, odd_hosts, &path.child("rules").index(i)));
    }
    let odd_secrets = old.is_some_and(|o| {
        let names = o.items("/spec/tls").iter().map(|t| t.text("/secretName"));
        names.into_iter().any(|n| !secret_name(n).is_empty())
    });
    for (i, tls) in spec.items("/tls").iter().enumerate() {
        let path = path.child("tls").index(i);
        for (i, host) in strings(tls.items("/hosts")).enumerate() {
            errors.extend(host_name(host, &path.child("hosts").index(i)));
        }
        if !odd_secrets {
            let own = tls.text("/secretName");
            errors.extend(invalid(&path.child("secretName"), own, secret_name(own)));
        }
    }
    if let Some(class) = spec.at("/ingressClassName").as_str() {
        let found = name::dns1123_subdomain(class);
        errors.extend(invalid(&path.child("ingressClassName"), class, found));
    }
    errors
}

fn secret_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    name::dns1123_subdomain(text)
}

fn host_name(host: &str, path: &Path) -> FieldErrors {
    let check = if host.contains('*') {
        name::wildcard_dns1123_subdomain
    } else {
        name::dns1123_subdomain
    };
    invalid(path, host, check(host))
}

/// Old releases let rules of wildcard hosts pass unseen; such objects may stay so.
fn odd_wildcards(old: &Value) -> bool {
    let mut rules = old
        .items("/spec/rules")
        .iter()
        .filter(|r| r.text("/host").contains('*'));
    rules.any(|r| !http(r, &Path::default()).is_empty())
}

fn validate_rule(rule: &Value, odd_hosts: bool, path: &Path) -> FieldErrors {
    let host = rule.text("/host");
    let mut errors = Vec::new();
    if !host.is_empty() {
        let place = path.child("host");
        if name::parse_ip_sloppy(host).is_some() {
            errors.push(FieldError::invalid(&place, host, NO_ADDRESS));
        }
        errors.extend(host_name(host, &place));
    }
    if !(host.contains('*') && odd_hosts) {
        errors.extend(http(rule, path));
    }
    errors
}

fn http(rule: &Value, path: &Path) -> FieldErrors {
    if !rule.has("/http") {
        return Vec::new();
    }
    let path = path.child("http").child("paths");
    let paths = rule.items("/http/paths");
    let mut errors = Vec::new();
    if paths.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (i, entry) in paths.iter().enumerate() {
        errors.extend(http_path(entry, &path.index(i)));
    }
    errors
}

fn http_path(entry: &Value, path: &Path) -> FieldErrors {
    let Some(kind) = entry.at("/pathType").as_str() else {
        return vec![FieldError::required(
            &path.child("pathType"),
            "pathType must be specified",
        )];
    };
    let mut errors = Vec::new();
    let (text, place) = (entry.text("/path"), path.child("path"));
    let mut bad = |why: String| errors.push(FieldError::invalid(&place, text, why));
    let relative = !text.starts_with('/');
    match kind {
        "Exact" | "Prefix" => {
            if relative {
                bad("must be an absolute path".into());
            }
            for found in BAD_SEQUENCES.iter().filter(|s| text.contains(**s)) {
                bad(format!("must not contain '{found}'"));
            }
            for found in BAD_ENDS.iter().filter(|s| text.ends_with(**s)) {
                bad(format!("cannot end with '{found}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && relative {
                bad("must be an absolute path".into());
            }
        }
        other => errors.push(FieldError::not_supported(&path.child("pathType"), other, PATH_TYPES)),
    }
    errors.extend(backend(entry.at("/backend"), &path.child("backend")));
    errors
}

fn backend(backend: &Value, path: &Path) -> FieldErrors {
    let (resource, service) = (backend.has("/resource"), backend.has("/service"));
    if resource && service {
        return vec![FieldError::invalid(
            path,
            "",
            "cannot set both resource and service backends",
        )];
    }
    if resource {
        return reference(backend.at("/resource"), &path.child("resource"));
    }
    if !service {
        return vec![FieldError::invalid(path, "", "resource or service backend is required")];
    }
    let place = path.child("service");
    let own = backend.text("/service/name");
    let mut errors = required(own, &place.child("name"), name::dns1123_label);
    let (port_name, number) = (backend.text("/service/port/name"), backend.int("/service/port/number"));
    let place = place.child("port");
    if !port_name.is_empty() && number != 0 {
        errors.push(FieldError::invalid(path, "", "cannot set both port name & port number"));
    } else if !port_name.is_empty() {
        errors.extend(invalid(&place.child("name"), port_name, name::port_name(port_name)));
    } else if number != 0 {
        let found = name::port_number(number).into_iter();
        errors.extend(found.map(|m| FieldError::invalid(&place.child("number"), number, m)));
    } else {
        errors.push(FieldError::required(path, "port name or number is required"));
    }
    errors
}

/// Faults of a reference to an object of another kind.
fn reference(reference: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(group) = reference.at("/apiGroup").as_str() {
        errors.extend(invalid(&path.child("apiGroup"), group, name::dns1123_subdomain(group)));
    }
    for key in ["kind", "name"] {
        let text = reference.get(key).and_then(Value::as_str).unwrap_or_default();
        errors.extend(required(text, &path.child(key), name::path_segment));
    }
    errors
}

fn validate_class(class: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let (controller, place) = (class.text("/spec/controller"), path.child("controller"));
    let mut errors = Vec::new();
    if controller.len() > CONTROLLER_MAX {
        errors.push(FieldError::too_long(&place, CONTROLLER_MAX));
    }
    errors.extend(name::domain_prefixed_path(&place, controller));
    let parameters = class.at("/spec/parameters");
    if parameters.is_null() {
        return errors;
    }
    let path = path.child("parameters");
    errors.extend(reference(parameters, &path));
    let (scope, namespace) = (parameters.at("/scope").as_str(), parameters.at("/namespace").as_str());
    let place = path.child("namespace");
    match (scope, namespace) {
        (None, _) => errors.push(FieldError::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => {
            errors.push(FieldError::required(&place, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(own)) => errors.extend(invalid(&place, own, name::dns1123_label(own))),
        (Some("Cluster"), Some(_)) => {
            errors.push(FieldError::forbidden(&place, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            errors.push(FieldError::not_supported(
                &path.child("scope"),
                BadValue::plain(other),
                &["Cluster", "Namespace"],
            ));
        }
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let pointer = "/status/loadBalancer/ingress";
    let known: Vec<String> = old.items(pointer).iter().map(|p| p.text("/ip").to_string()).collect();
    let mut errors = Vec::new();
    for (i, point) in new.items(pointer).iter().enumerate() {
        let path = path.index(i);
        let (ip, host) = (point.text("/ip"), point.text("/hostname"));
        if !ip.is_empty() {
            errors.extend(name::ip_legacy(&path.child("ip"), ip, &known));
        }
        if !host.is_empty() {
            let place = path.child("hostname");
            errors.extend(invalid(&place, host, name::dns1123_subdomain(host)));
            if name::parse_ip_sloppy(host).is_some() {
                errors.push(FieldError::invalid(&place, host, NO_ADDRESS));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_needs_a_type_and_somewhere_to_go() {
        let paths = json!([{"path": "x//y", "pathType": "Prefix", "backend": {}}, {"path": "/"}]);
        let ingress = json!({"spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": paths}}]}});
        let texts: Vec<String> = validate(&ingress, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must not contain '//'",
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
            ]
        );
    }
}
