//! Webhook configurations: which requests are sent where before they are carried out.

use super::rules::{Rules, free_metadata, label_selector};
use crate::view::{View, equal, invalid, strings};
use crate::{meta, nothing};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

pub(super) const FAILURE: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;
/// Names that only configurations from files may have.
const STATIC: &str = ".static.k8s.io";

pub static VALIDATING: Rules = Rules {
    validate: |hooks| validate(hooks, &Options::default(), false),
    validate_update: |new, old| validate(new, &Options::of(new, old), false),
    warnings: |hooks, _| static_name(hooks),
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static MUTATING: Rules = Rules {
    validate: |hooks| validate(hooks, &Options::default(), true),
    validate_update: |new, old| validate(new, &Options::of(new, old), true),
    warnings: |hooks, _| static_name(hooks),
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub(super) fn static_name(object: &Value) -> Vec<String> {
    let reserved = object.text("/metadata/name").ends_with(STATIC);
    let text = format!(
        "metadata.name: names ending with \"{STATIC}\" are reserved for static manifest-based configurations and cannot be managed via the API"
    );
    reserved.then_some(text).into_iter().collect()
}

/// Rules that an old object broke already are not applied to its successor.
#[derive(Default)]
struct Options {
    same_conditions: bool,
    side_effects: bool,
    unknown_reviews: bool,
    repeated_names: bool,
    odd_labels: bool,
}

impl Options {
    fn of(new: &Value, old: &Value) -> Self {
        let (after, before) = (new.items("/webhooks"), old.items("/webhooks"));
        let same_conditions = after.len() == before.len()
            && after
                .iter()
                .zip(before)
                .all(|(a, b)| equal(a.at("/matchConditions"), b.at("/matchConditions")));
        let mut names = BTreeSet::new();
        let odd = |hook: &Value, pointer: &str| !label_selector(hook.at(pointer), false, &Path::default()).is_empty();
        Self {
            same_conditions,
            side_effects: before
                .iter()
                .any(|h| !NO_SIDE_EFFECTS.contains(&h.text("/sideEffects"))),
            unknown_reviews: before.iter().any(|h| {
                let versions = h.items("/admissionReviewVersions");
                !versions.is_empty() && !strings(versions).any(|v| REVIEWS.contains(&v))
            }),
            repeated_names: before.iter().any(|h| !names.insert(h.text("/name"))),
            odd_labels: before
                .iter()
                .any(|h| odd(h, "/namespaceSelector") || odd(h, "/objectSelector")),
        }
    }
}

fn validate(hooks: &Value, options: &Options, mutating: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (i, hook) in hooks.items("/webhooks").iter().enumerate() {
        let path = Path::new("webhooks").index(i);
        errors.extend(validate_hook(hook, options, mutating, &path));
        let versions = hook.items("/admissionReviewVersions");
        errors.extend(reviews(versions, options, &path.child("admissionReviewVersions")));
        let own = hook.text("/name");
        if !options.repeated_names && !own.is_empty() && !names.insert(own) {
            errors.push(FieldError::duplicate(&path.child("name"), own));
        }
    }
    errors
}

fn reviews(versions: &[Value], options: &Options, path: &Path) -> FieldErrors {
    if versions.is_empty() {
        return vec![FieldError::required(path, "must specify one of v1, v1beta1")];
    }
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, version) in strings(versions).enumerate() {
        if !seen.insert(version) {
            errors.push(FieldError::invalid(&path.index(i), version, "duplicate version"));
            continue;
        }
        errors.extend(invalid(&path.index(i), version, name::dns1035_label(version)));
    }
    if !options.unknown_reviews && !REVIEWS.iter().any(|v| seen.contains(v)) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(path, versions, why));
    }
    errors
}

/// The fault of a text that is there and not in `known`.
pub(super) fn one_of(value: &Value, path: &Path, known: &[&str]) -> Option<FieldError> {
    let other = value.as_str().filter(|v| !known.contains(v))?;
    Some(FieldError::not_supported(path, other, known))
}

fn validate_hook(hook: &Value, options: &Options, mutating: bool, path: &Path) -> FieldErrors {
    let mut errors = name::fully_qualified_name(&path.child("name"), hook.text("/name"));
    for (i, rule) in hook.items("/rules").iter().enumerate() {
        errors.extend(validate_rule(rule, &path.child("rules").index(i)));
    }
    errors.extend(one_of(hook.at("/failurePolicy"), &path.child("failurePolicy"), FAILURE));
    errors.extend(one_of(hook.at("/matchPolicy"), &path.child("matchPolicy"), MATCH));
    let allowed = if options.side_effects {
        SIDE_EFFECTS
    } else {
        NO_SIDE_EFFECTS
    };
    let place = path.child("sideEffects");
    if !hook.has("/sideEffects") {
        let why = format!("must specify one of {}", allowed.join(", "));
        errors.push(FieldError::required(&place, why));
    }
    errors.extend(one_of(hook.at("/sideEffects"), &place, allowed));
    if let Some(seconds) = hook.at("/timeoutSeconds").as_i64().filter(|s| !(1..=30).contains(s)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, why));
    }
    for (key, pointer) in [
        ("namespaceSelector", "/namespaceSelector"),
        ("objectSelector", "/objectSelector"),
    ] {
        errors.extend(label_selector(hook.at(pointer), options.odd_labels, &path.child(key)));
    }
    if mutating {
        let place = path.child("reinvocationPolicy");
        errors.extend(one_of(hook.at("/reinvocationPolicy"), &place, REINVOCATION));
    }
    let place = path.child("clientConfig");
    match (hook.at("/clientConfig/url").as_str(), hook.at("/clientConfig/service")) {
        (Some(url), Value::Null) => errors.extend(address(url, &place.child("url"))),
        (None, service) if !service.is_null() => errors.extend(service_reference(service, &place.child("service"))),
        _ => {
            let why = "exactly one of url or service is required";
            errors.push(FieldError::required(&place, why));
        }
    }
    if !options.same_conditions {
        let conditions = hook.items("/matchConditions");
        errors.extend(match_conditions(conditions, &path.child("matchConditions")));
    }
    errors
}

/// Faults of conditions in CEL; the expressions themselves are not looked into.
pub(super) fn match_conditions(conditions: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    let mut names = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if condition.text("/expression").trim().is_empty() {
            errors.push(FieldError::required(&path.child("expression"), ""));
        }
        let (own, place) = (condition.text("/name"), path.child("name"));
        errors.extend(super::rules::required(own, &place, name::qualified_name));
        if !own.is_empty() && !names.insert(own) {
            errors.push(FieldError::duplicate(&place, own));
        }
    }
    errors
}

fn has_all(list: &[Value]) -> bool {
    strings(list).any(|s| s == "*")
}

/// Faults of a rule with operations.
pub(super) fn validate_rule(rule: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (operations, place) = (rule.items("/operations"), path.child("operations"));
    let alone = |list: &[Value], what: &str, place: &Path| {
        let why = format!("if '*' is present, must not specify other {what}");
        (list.len() > 1 && has_all(list)).then(|| FieldError::invalid(place, list, why))
    };
    if operations.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    errors.extend(alone(operations, "operations", &place));
    for (i, other) in strings(operations).enumerate().filter(|(_, o)| !OPERATIONS.contains(o)) {
        errors.push(FieldError::not_supported(&place.index(i), other, OPERATIONS));
    }
    let (groups, place) = (rule.items("/apiGroups"), path.child("apiGroups"));
    if groups.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    errors.extend(alone(groups, "API groups", &place));
    let (versions, place) = (rule.items("/apiVersions"), path.child("apiVersions"));
    if versions.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    errors.extend(alone(versions, "API versions", &place));
    for (i, _) in strings(versions).enumerate().filter(|(_, v)| v.is_empty()) {
        errors.push(FieldError::required(&place.index(i), ""));
    }
    errors.extend(resources(rule.items("/resources"), &path.child("resources")));
    errors.extend(one_of(rule.at("/scope"), &path.child("scope"), SCOPES));
    errors
}

fn resources(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let (mut whole, mut any) = (BTreeSet::new(), BTreeSet::new());
    let (mut double, mut single, mut plain) = (false, false, false);
    for (i, text) in strings(list).enumerate() {
        let place = path.index(i);
        if text.is_empty() {
            errors.push(FieldError::required(&place, ""));
            continue;
        }
        double |= text == "*/*";
        single |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            // The last one decides, as upstream has it.
            plain = text != "*";
            continue;
        };
        if whole.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {text}");
            errors.push(FieldError::invalid(&place, text, why));
        }
        if any.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {text}");
            errors.push(FieldError::invalid(&place, text, why));
        }
        if sub == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            any.insert(sub);
        }
    }
    if list.len() > 1 && double {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, list, why));
    }
    if single && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, list, why));
    }
    errors
}

const FORM: &str = "; desired format: https://host[/path]";

/// Faults of a webhook's URL.
fn address(url: &str, path: &Path) -> FieldErrors {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_end = rest.find(':').filter(|at| {
        let scheme = &rest[..*at];
        let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(fine)
    });
    let (scheme, rest) = match scheme_end {
        Some(at) => (rest[..at].to_lowercase(), &rest[at + 1..]),
        None => (String::new(), rest),
    };
    let authority = rest
        .strip_prefix("//")
        .map_or("", |r| r.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut errors = Vec::new();
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, scheme, why));
    }
    if host.is_empty() {
        errors.push(FieldError::invalid(path, host, format!("host must be specified{FORM}")));
    }
    if authority.contains('@') {
        let why = "user information is not permitted in the URL";
        errors.push(FieldError::invalid(path, user, why));
    }
    if !fragment.is_empty() {
        errors.push(FieldError::invalid(
            path,
            fragment,
            "fragments are not permitted in the URL",
        ));
    }
    if !query.is_empty() {
        let why = "query parameters are not permitted in the URL";
        errors.push(FieldError::invalid(path, query, why));
    }
    errors
}

/// Faults of a reference to a Service; upstream hands name and namespace over in the wrong order.
fn service_reference(service: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (field, shown) in [("namespace", "name"), ("name", "namespace")] {
        if service.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            errors.push(FieldError::required(&path.child(shown), ""));
        }
    }
    let port = service.int("/port");
    let faults = name::port_number(port);
    if !faults.is_empty() {
        let why = format!("port is not valid: {}", faults.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, why));
    }
    let Some(text) = service.at("/path").as_str().filter(|p| !matches!(*p, "" | "/")) else {
        return errors;
    };
    let path = path.child("path");
    let mut bad = |why: String| errors.push(FieldError::invalid(&path, text, why));
    if text == "//" {
        bad("segment[0] may not be empty".into());
        return errors;
    }
    if !text.starts_with('/') {
        bad("must start with a '/'".into());
    }
    // Upstream drops the first byte whatever it is.
    let steps = text.get(1..).unwrap_or_default();
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (i, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            bad(format!("segment[{i}] may not be empty"));
            continue;
        }
        for fault in name::dns1123_subdomain(step) {
            bad(format!("segment[{i}]: {fault}"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_hook_says_where_and_when() {
        let hook = json!({"name": "a.b.c", "sideEffects": "Some", "timeoutSeconds": 31, "clientConfig": {},
            "admissionReviewVersions": ["v2"]});
        assert_eq!(
            texts(&validate(&json!({"webhooks": [hook]}), &Options::default(), false)),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ]
        );
    }

    #[test]
    fn addresses_are_bare_and_safe() {
        let path = Path::new("u");
        assert!(address("https://h:1/p", &path).is_empty());
        assert_eq!(
            texts(&address("http://a@h?q#f", &path)),
            [
                "u: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "u: Invalid value: \"a\": user information is not permitted in the URL",
                "u: Invalid value: \"f\": fragments are not permitted in the URL",
                "u: Invalid value: \"q\": query parameters are not permitted in the URL",
            ]
        );
    }
}
