//! FlowSchemas and PriorityLevelConfigurations: who waits for whom when the API server is busy.

use super::rules::{Rules, keep_metadata};
use crate::view::{View, invalid, same, strings};
use crate::{internal, meta, nothing};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash from which a hand of queues is dealt.
const HASH_BITS: f64 = 60.0;
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/preserve-zero-concurrency-shares";

pub static SCHEMA: Rules = Rules {
    validate: validate_schema,
    validate_update: |new, _| validate_schema(new),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: |new, _| conditions(new),
};

pub static LEVEL: Rules = Rules {
    validate: validate_level,
    validate_update: |new, _| validate_level(new),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: |new, _| conditions(new),
};

fn conditions(object: &Value) -> FieldErrors {
    let path = Path::new("status").child("conditions");
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, condition) in object.items("/status/conditions").iter().enumerate() {
        let (kind, place) = (condition.text("/type"), path.index(i).child("type"));
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&place, kind));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(&place, ""));
        }
    }
    errors
}

fn validate_schema(schema: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let (spec, own) = (schema.at("/spec"), schema.text("/metadata/name"));
    let mut errors = Vec::new();
    let precedence = spec.int("/matchingPrecedence");
    let place = path.child("matchingPrecedence");
    let mut bad = |why: String| errors.push(FieldError::invalid(&place, precedence, why));
    if precedence <= 0 {
        bad("must be a positive value".into());
    }
    if precedence > PRECEDENCE_MAX {
        bad(format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && own != "exempt" {
        bad("only the schema named 'exempt' may have matchingPrecedence 1".into());
    }
    let method = spec.at("/distinguisherMethod");
    let known = ["ByNamespace", "ByUser"];
    if !method.is_null() && !known.contains(&method.text("/type")) {
        let place = path.child("distinguisherMethod").child("type");
        let shown = BadValue::Raw(internal::compact("FlowDistinguisherMethod", method));
        errors.push(FieldError::not_supported(&place, shown, &known));
    }
    let level = spec.text("/priorityLevelConfiguration/name");
    let place = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(FieldError::required(&place, "must reference a priority level"));
    } else {
        errors.extend(invalid(&place, level, name::dns1123_subdomain(level)));
    }
    for (i, rule) in spec.items("/rules").iter().enumerate() {
        errors.extend(validate_rule(rule, &path.child("rules").index(i)));
    }
    if let Some(fixed) = fixed_schema(own)
        && !same(spec, &fixed)
    {
        let shown = BadValue::Raw(internal::compact("FlowSchemaSpec", spec));
        let why = format!("spec of '{own}' must equal the fixed value");
        errors.push(FieldError::invalid(&path, shown, why));
    }
    errors.extend(conditions(schema));
    errors
}

/// The spec of a schema that may not be changed.
fn fixed_schema(own: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let all =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let urls = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let rule = |subjects: Value| json!([{"subjects": subjects, "resourceRules": all, "nonResourceRules": urls}]);
    Some(match own {
        "exempt" => json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": rule(json!([group("system:masters")])),
        }),
        "catch-all" => json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rule(json!([group("system:unauthenticated"), group("system:authenticated")])),
        }),
        _ => return None,
    })
}

fn validate_rule(rule: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let subjects = rule.items("/subjects");
    if subjects.is_empty() {
        errors.push(FieldError::required(
            &path.child("subjects"),
            "subjects must contain at least one value",
        ));
    }
    for (i, subject) in subjects.iter().enumerate() {
        errors.extend(validate_subject(subject, &path.child("subjects").index(i)));
    }
    let (resources, urls) = (rule.items("/resourceRules"), rule.items("/nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, why));
    }
    for (i, rule) in resources.iter().enumerate() {
        errors.extend(resource_rule(rule, &path.child("resourceRules").index(i)));
    }
    for (i, rule) in urls.iter().enumerate() {
        errors.extend(url_rule(rule, &path.child("nonResourceRules").index(i)));
    }
    errors
}

/// Kinds of subjects: the kind, and where its name stands.
const SUBJECTS: &[(&str, &str)] = &[
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
    ("Group", "group"),
];

fn validate_subject(subject: &Value, path: &Path) -> FieldErrors {
    let kind = subject.text("/kind");
    let Some((_, field)) = SUBJECTS.iter().find(|(k, _)| *k == kind) else {
        let known = ["Group", "ServiceAccount", "User"];
        return vec![FieldError::not_supported(&path.child("kind"), kind, &known)];
    };
    let place = path.child(field);
    let mut errors = Vec::new();
    match subject.get(*field).filter(|v| !v.is_null()) {
        None => errors.push(FieldError::required(
            &place,
            format!("{field} is required when subject kind is '{kind}'"),
        )),
        Some(given) => {
            let own = given.text("/name");
            let is_account = kind == "ServiceAccount";
            if own.is_empty() {
                errors.push(FieldError::required(&place.child("name"), ""));
            } else if is_account && own != "*" {
                errors.extend(invalid(&place.child("name"), own, name::dns1123_subdomain(own)));
            }
            let namespace = given.text("/namespace");
            if is_account && namespace.is_empty() {
                let why = "must specify namespace for service account";
                errors.push(FieldError::required(&place.child("namespace"), why));
            } else if is_account {
                let found = name::dns1123_label(namespace);
                errors.extend(invalid(&place.child("namespace"), namespace, found));
            }
        }
    }
    // Upstream looks at the others in this order, whatever the kind.
    for (other_kind, other) in [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ] {
        if other_kind != kind && subject.get(other).is_some_and(|v| !v.is_null()) {
            let why = format!("{other} is forbidden when subject kind is not '{other_kind}'");
            errors.push(FieldError::forbidden(&path.child(other), why));
        }
    }
    errors
}

fn has_all(list: &[Value]) -> bool {
    strings(list).any(|s| s == "*")
}

fn verbs(rule: &Value, path: &Path) -> FieldErrors {
    let (verbs, place) = (rule.items("/verbs"), path.child("verbs"));
    if verbs.is_empty() {
        return vec![FieldError::required(&place, "verbs must contain at least one value")];
    }
    if has_all(verbs) {
        let why = "if '*' is present, must not specify other verbs";
        let more = verbs.len() > 1;
        return more
            .then(|| FieldError::invalid(&place, verbs, why))
            .into_iter()
            .collect();
    }
    let unknown = strings(verbs).any(|v| !VERBS.contains(&v));
    let fault = || FieldError::not_supported(&place, verbs, VERBS);
    unknown.then(fault).into_iter().collect()
}

fn url_rule(rule: &Value, path: &Path) -> FieldErrors {
    let mut errors = verbs(rule, path);
    let (urls, place) = (rule.items("/nonResourceURLs"), path.child("nonResourceURLs"));
    if urls.is_empty() {
        errors.push(FieldError::required(
            &place,
            "nonResourceURLs must contain at least one value",
        ));
    } else if has_all(urls) {
        if urls.len() > 1 {
            let why = "if '*' is present, must not specify other non-resource URLs";
            errors.push(FieldError::invalid(&place, urls, why));
        }
    } else {
        for (i, url) in strings(urls).enumerate() {
            errors.extend(url_fault(url).map(|why| FieldError::invalid(&place.index(i), url, why)));
        }
    }
    errors
}

fn url_fault(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn resource_rule(rule: &Value, path: &Path) -> FieldErrors {
    let mut errors = verbs(rule, path);
    for (key, one, others) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let list = rule.items(&format!("/{key}"));
        let place = path.child(key);
        if list.is_empty() {
            let why = format!("resource rules must supply at least one {one}");
            errors.push(FieldError::required(&place, why));
        } else if list.len() > 1 && has_all(list) {
            let why = format!("if '*' is present, must not specify other {others}");
            errors.push(FieldError::invalid(&place, list, why));
        }
    }
    let (namespaces, place) = (rule.items("/namespaces"), path.child("namespaces"));
    if namespaces.is_empty() && !rule.flag("/clusterScope") {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&place, why));
    } else if has_all(namespaces) {
        if namespaces.len() > 1 {
            let why = "if '*' is present, must not specify other namespaces";
            errors.push(FieldError::invalid(&place, namespaces, why));
        }
    } else {
        for (i, namespace) in strings(namespaces).enumerate() {
            let why = |m: String| format!("each member of this list must be '*' or a DNS-1123 label; {m}");
            let found = name::dns1123_label(namespace).into_iter();
            errors.extend(found.map(|m| FieldError::invalid(&place.index(i), namespace, why(m))));
        }
    }
    errors
}

fn validate_level(level: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let (spec, own) = (level.at("/spec"), level.text("/metadata/name"));
    let mut errors = Vec::new();
    if level
        .entries("/metadata/annotations")
        .is_some_and(|a| a.contains_key(PRESERVE_ZERO))
    {
        let place = Path::new("metadata").child("annotations");
        let why = format!("annotation '{PRESERVE_ZERO}' is forbidden");
        errors.push(FieldError::forbidden(&place, why));
    }
    let kind = spec.text("/type");
    if (own == "exempt") != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(&path.child("type"), kind, why));
    }
    match kind {
        "Exempt" => {
            if spec.has("/limited") {
                let why = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(&path.child("limited"), why));
            }
            if spec.has("/exempt") {
                errors.extend(shares(spec.at("/exempt"), &path.child("exempt")));
                errors.extend(lendable(spec.at("/exempt"), &path.child("exempt")));
            }
        }
        "Limited" => {
            if spec.has("/exempt") {
                let why = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(&path.child("exempt"), why));
            }
            let place = path.child("limited");
            if spec.has("/limited") {
                errors.extend(limited(spec.at("/limited"), &place));
            } else {
                errors.push(FieldError::required(&place, "must not be empty when type is Limited"));
            }
        }
        other => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &["Exempt", "Limited"],
        )),
    }
    let shown = || BadValue::Raw(internal::compact("PriorityLevelConfigurationSpec", spec));
    match own {
        "exempt" if kind != "Exempt" || spec.has("/limited") => {
            let why = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value";
            errors.push(FieldError::invalid(&path, shown(), why));
        }
        "catch-all" => {
            let fixed = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}});
            if !same(spec, &fixed) {
                let why = "spec of 'catch-all' must equal the fixed value";
                errors.push(FieldError::invalid(&path, shown(), why));
            }
        }
        _ => {}
    }
    errors.extend(conditions(level));
    errors
}

fn shares(of: &Value, path: &Path) -> Option<FieldError> {
    let number = of.int("/nominalConcurrencyShares");
    let place = path.child("nominalConcurrencyShares");
    (number < 0).then(|| FieldError::invalid(&place, number, "must be a non-negative integer"))
}

fn lendable(of: &Value, path: &Path) -> Option<FieldError> {
    let number = of.int("/lendablePercent");
    let place = path.child("lendablePercent");
    let why = "must be between 0 and 100, inclusive";
    (!(0..=100).contains(&number)).then(|| FieldError::invalid(&place, number, why))
}

fn limited(limited: &Value, path: &Path) -> FieldErrors {
    let mut errors: FieldErrors = shares(limited, path).into_iter().collect();
    let place = path.child("limitResponse");
    let queuing = limited.at("/limitResponse/queuing");
    match limited.text("/limitResponse/type") {
        "Reject" => {
            if !queuing.is_null() {
                let why = "must be nil if limited.limitResponse.type is not Limited";
                errors.push(FieldError::forbidden(&place.child("queuing"), why));
            }
        }
        "Queue" if queuing.is_null() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&place.child("queuing"), why));
        }
        "Queue" => errors.extend(queues(queuing, &place.child("queuing"))),
        other => errors.push(FieldError::not_supported(
            &place.child("type"),
            other,
            &["Queue", "Reject"],
        )),
    }
    errors.extend(lendable(limited, path));
    let borrowing = limited.int("/borrowingLimitPercent");
    if borrowing < 0 {
        let why = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(
            &path.child("borrowingLimitPercent"),
            borrowing,
            why,
        ));
    }
    errors
}

fn queues(queuing: &Value, path: &Path) -> FieldErrors {
    let [length, queues, hand] = ["/queueLengthLimit", "/queues", "/handSize"].map(|p| queuing.int(p));
    let mut errors = Vec::new();
    let mut bad = |key: &str, number: i64, why: String| {
        errors.push(FieldError::invalid(&path.child(key), number, why));
    };
    if length <= 0 {
        bad("queueLengthLimit", length, "must be positive".into());
    }
    if queues <= 0 {
        bad("queues", queues, "must be positive".into());
    } else if queues > QUEUES_MAX {
        bad("queues", queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand <= 0 {
        bad("handSize", hand, "must be positive".into());
    } else if hand > queues {
        bad(
            "handSize",
            hand,
            format!("should not be greater than queues ({queues})"),
        );
    } else if entropy(queues, hand) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        bad("handSize", hand, why);
    }
    errors
}

/// Bits that dealing `hand` of `deck` cards takes, as upstream estimates them.
fn entropy(deck: i64, hand: i64) -> f64 {
    // Both are at most 10^7 here, so that nothing is lost.
    ((deck as f64).log2() * hand as f64).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_is_dealt_from_sixty_bits() {
        assert!(entropy(64, 8) <= HASH_BITS);
        assert!(entropy(10_000_000, 3) > HASH_BITS);
    }

    #[test]
    fn the_catch_all_is_fixed() {
        let spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
        let mut level = json!({"metadata": {"name": "catch-all"}, "spec": spec});
        assert!(validate_level(&level).is_empty());
        level["spec"]["limited"]["nominalConcurrencyShares"] = json!(6);
        assert_eq!(validate_level(&level).len(), 1);
    }
}
