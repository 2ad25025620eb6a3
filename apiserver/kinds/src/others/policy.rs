//! Admission policies in CEL and their bindings. Expressions must be there; what they say is not looked into yet.

use super::rules::{Rules, free_metadata, keep_metadata, label_selector, required};
use super::webhook::{FAILURE, MATCH, REINVOCATION, match_conditions, one_of, static_name, validate_rule};
use crate::view::{View, equal, invalid, strings};
use crate::{internal, meta, nothing};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const AUDIT_MAX: usize = 20;
/// Bytes of an expression for an audit annotation.
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const PATCHES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
const MUTATED: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub static VALIDATING: Rules = Rules {
    validate: |policy| validating(policy, None),
    validate_update: |new, old| validating(new, Some(old)),
    warnings: |policy, _| static_name(policy),
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: validating_status,
};

pub static MUTATING: Rules = Rules {
    validate: |policy| mutating(policy, None),
    validate_update: |new, old| mutating(new, Some(old)),
    warnings: |policy, _| static_name(policy),
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static VALIDATING_BINDING: Rules = Rules {
    validate: |binding| {
        let mut errors = validate_binding(binding);
        let place = Path::new("spec").child("validationActions");
        errors.extend(actions(binding.items("/spec/validationActions"), &place));
        errors
    },
    validate_update: |new, _| (VALIDATING_BINDING.validate)(new),
    warnings: |binding, _| static_name(binding),
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static MUTATING_BINDING: Rules = Rules {
    validate: |binding| {
        let mut errors = validate_binding(binding);
        let place = Path::new("spec").child("matchResources");
        errors.extend(mutated(binding.at("/spec/matchResources"), &place));
        errors
    },
    validate_update: |new, _| (MUTATING_BINDING.validate)(new),
    warnings: |binding, _| static_name(binding),
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

/// What both kinds of policies have in front of what they do.
fn common(policy: &Value, old: Option<&Value>, path: &Path, mutates: bool) -> FieldErrors {
    let spec = policy.at("/spec");
    let mut errors = Vec::new();
    let place = path.child("failurePolicy");
    if !spec.has("/failurePolicy") {
        errors.push(FieldError::required(&place, ""));
    }
    errors.extend(one_of(spec.at("/failurePolicy"), &place, FAILURE));
    if spec.has("/paramKind") {
        errors.extend(param_kind(spec.at("/paramKind"), &path.child("paramKind")));
    }
    let place = path.child("matchConstraints");
    let constraints = spec.at("/matchConstraints");
    if constraints.is_null() {
        errors.push(FieldError::required(&place, ""));
    } else {
        errors.extend(match_resources(constraints, &place));
        if constraints.items("/resourceRules").is_empty() {
            errors.push(FieldError::required(&place.child("resourceRules"), ""));
        }
        if mutates {
            errors.extend(mutated(constraints, &place));
        }
    }
    let same = |p: &str| old.is_some_and(|o| equal(o.at(p), policy.at(p)));
    if !(same("/spec/paramKind") && same("/spec/matchConditions")) {
        let conditions = spec.items("/matchConditions");
        errors.extend(match_conditions(conditions, &path.child("matchConditions")));
    }
    for (i, variable) in spec.items("/variables").iter().enumerate() {
        let path = path.child("variables").index(i);
        let own = variable.text("/name");
        if own.trim().is_empty() {
            errors.push(FieldError::required(&path.child("name"), "name is not specified"));
        } else if !is_identifier(own) {
            let why = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(&path.child("name"), own, why));
        }
        if variable.text("/expression").trim().is_empty() {
            let why = "expression is not specified";
            errors.push(FieldError::required(&path.child("expression"), why));
        }
    }
    errors
}

fn is_identifier(text: &str) -> bool {
    let letters = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    letters && !text.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty() && !RESERVED.contains(&text)
}

fn mutated(resources: &Value, path: &Path) -> FieldErrors {
    let rules = resources.items("/resourceRules").iter();
    let operations = rules.flat_map(|r| strings(r.items("/operations")));
    let place = path.child("resourceRules").child("operations");
    operations
        .filter(|o| !MUTATED.contains(o))
        .map(|o| FieldError::not_supported(&place, o, MUTATED))
        .collect()
}

fn validating(policy: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = policy.at("/spec");
    let mut errors = common(policy, old, &path, false);
    let (validations, audits) = (spec.items("/validations"), spec.items("/auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        for key in ["validations", "auditAnnotations"] {
            errors.push(FieldError::required(&path.child(key), why));
        }
        return errors;
    }
    for (i, validation) in validations.iter().enumerate() {
        errors.extend(validate_validation(validation, &path.child("validations").index(i)));
    }
    let path = path.child("auditAnnotations");
    if audits.len() > AUDIT_MAX {
        let shown = BadValue::Raw(internal::compact("AuditAnnotation", spec.at("/auditAnnotations")));
        let why = format!("must not have more than {AUDIT_MAX} auditAnnotations");
        errors.push(FieldError::invalid(&path, shown, why));
    }
    let mut keys = BTreeSet::new();
    for (i, audit) in audits.iter().enumerate() {
        let path = path.index(i);
        let (own, key) = (policy.text("/metadata/name"), audit.text("/key"));
        let place = path.child("key");
        if own.is_empty() {
            errors.push(FieldError::invalid(&place, key, "requires metadata.name be non-empty"));
        } else {
            let full = format!("{own}/{key}");
            errors.extend(invalid(&place, &full, name::qualified_name(&full)));
        }
        let expression = audit.text("/valueExpression").trim();
        let at = path.child("valueExpression");
        if expression.is_empty() {
            errors.push(FieldError::required(&at, "valueExpression is not specified"));
        } else if expression.len() > AUDIT_EXPRESSION_MAX {
            let why = format!("must not exceed {AUDIT_EXPRESSION_MAX} bytes in length");
            errors.push(FieldError::required(&at, why));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(&place, key));
        }
    }
    errors
}

fn validate_validation(validation: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if validation.text("/expression").trim().is_empty() {
        let why = "expression is not specified";
        errors.push(FieldError::required(&path.child("expression"), why));
    }
    for key in ["messageExpression", "message"] {
        let text = validation.get(key).and_then(Value::as_str).unwrap_or_default();
        let place = path.child(key);
        if !text.is_empty() && text.trim().is_empty() {
            errors.push(FieldError::invalid(&place, text, "must be non-empty if specified"));
        } else if key == "message" && text.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(&place, text, "must not contain line breaks"));
        }
    }
    errors.extend(one_of(validation.at("/reason"), &path.child("reason"), REASONS));
    errors
}

fn param_kind(kind: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (api, place) = (kind.text("/apiVersion"), path.child("apiVersion"));
    let mut bad = |value: &str, why: String| errors.push(FieldError::invalid(&place, value, why));
    match api.split('/').collect::<Vec<_>>()[..] {
        _ if api.is_empty() => errors.push(FieldError::required(&place, "")),
        ["", ""] => bad(api, "version must be specified".into()),
        [_] | [_, _] => {
            let (group, version) = api.split_once('/').unwrap_or(("", api));
            let found = name::dns1123_subdomain(group);
            if !group.is_empty() && !found.is_empty() {
                bad(group, found.join(","));
            }
            let found = name::dns1035_label(version);
            if version.is_empty() {
                bad(api, "version must be specified".into());
            } else if !found.is_empty() {
                bad(version, found.join(","));
            }
        }
        _ => bad(api, format!("unexpected GroupVersion string: {api}")),
    }
    let (own, place) = (kind.text("/kind"), path.child("kind"));
    let found = name::dns1035_label(&own.to_lowercase());
    if own.is_empty() {
        errors.push(FieldError::required(&place, ""));
    } else if !found.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", found.join(","));
        errors.push(FieldError::invalid(&place, own, why));
    }
    errors
}

fn match_resources(resources: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if resources.is_null() {
        return errors;
    }
    let place = path.child("matchPolicy");
    if !resources.has("/matchPolicy") {
        errors.push(FieldError::required(&place, ""));
    }
    errors.extend(one_of(resources.at("/matchPolicy"), &place, MATCH));
    for (key, pointer) in [
        ("namespaceSelector", "/namespaceSelector"),
        ("objectSelector", "/objectSelector"),
    ] {
        if !resources.has(pointer) {
            errors.push(FieldError::required(&path.child(key), ""));
        }
        errors.extend(label_selector(resources.at(pointer), false, &path.child(key)));
    }
    for (key, pointer) in [
        ("resourceRules", "/resourceRules"),
        ("excludeResourceRules", "/excludeResourceRules"),
    ] {
        for (i, rule) in resources.items(pointer).iter().enumerate() {
            let path = path.child(key).index(i);
            let mut names = BTreeSet::new();
            for (i, own) in strings(rule.items("/resourceNames")).enumerate() {
                let place = path.child("resourceNames").index(i);
                errors.extend(invalid(&place, own, name::path_segment(own)));
                if !names.insert(own) {
                    errors.push(FieldError::duplicate(&place, own));
                }
            }
            errors.extend(validate_rule(rule, &path));
        }
    }
    errors
}

fn mutating(policy: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = policy.at("/spec");
    let mut errors = common(policy, old, &path, true);
    let mutations = spec.items("/mutations");
    if mutations.is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(FieldError::required(&path.child("mutations"), why));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        errors.extend(validate_mutation(mutation, &path.child("mutations").index(i)));
    }
    let place = path.child("reinvocationPolicy");
    match spec.text("/reinvocationPolicy") {
        "" => errors.push(FieldError::required(&place, "")),
        policy if !REINVOCATION.contains(&policy) => {
            errors.push(FieldError::not_supported(&place, policy, REINVOCATION));
        }
        _ => {}
    }
    errors
}

/// What a patch type needs and what it excludes.
const PATCH_FIELDS: &[(&str, &str, &str)] = &[
    ("JSONPatch", "jsonPatch", "applyConfiguration"),
    ("ApplyConfiguration", "applyConfiguration", "jsonPatch"),
];

fn validate_mutation(mutation: &Value, path: &Path) -> FieldErrors {
    let kind = mutation.text("/patchType");
    let place = path.child("patchType");
    if kind.is_empty() {
        return vec![FieldError::required(&place, "")];
    }
    let Some((_, wanted, other)) = PATCH_FIELDS.iter().find(|(k, _, _)| *k == kind) else {
        return vec![FieldError::not_supported(&place, kind, PATCHES)];
    };
    let mut errors = Vec::new();
    match mutation.get(*wanted).filter(|v| !v.is_null()) {
        None => {
            let why = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(&path.child(wanted), why));
        }
        Some(patch) if patch.text("/expression").trim().is_empty() => {
            errors.push(FieldError::required(&path.child(wanted).child("expression"), ""));
        }
        Some(_) => {}
    }
    if mutation.get(*other).is_some_and(|v| !v.is_null()) {
        let why = format!("must not be specified when patchType is {kind}");
        errors.push(FieldError::invalid(&path.child(other), format!("{{{other}}}"), why));
    }
    errors
}

fn validate_binding(binding: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let spec = binding.at("/spec");
    let place = path.child("policyName");
    let mut errors = required(spec.text("/policyName"), &place, name::dns1123_subdomain);
    let (parameter, at) = (spec.at("/paramRef"), path.child("paramRef"));
    if !parameter.is_null() {
        let own = parameter.text("/name");
        let both = "name and selector are mutually exclusive";
        let selects = parameter.has("/selector");
        if !own.is_empty() {
            errors.extend(invalid(&at.child("name"), own, name::path_segment(own)));
            if selects {
                errors.push(FieldError::forbidden(&at.child("name"), both));
            }
        }
        errors.extend(label_selector(parameter.at("/selector"), false, &at.child("selector")));
        if selects && !own.is_empty() {
            errors.push(FieldError::forbidden(&at.child("selector"), both));
        }
        if own.is_empty() && !selects {
            errors.push(FieldError::required(&at, "one of name or selector must be specified"));
        }
        let place = at.child("parameterNotFoundAction");
        match parameter.text("/parameterNotFoundAction") {
            "" => errors.push(FieldError::required(&place, "")),
            "Allow" | "Deny" => {}
            other => errors.push(FieldError::not_supported(&place, other, &["Deny", "Allow"])),
        }
    }
    errors.extend(match_resources(
        spec.at("/matchResources"),
        &path.child("matchResources"),
    ));
    errors
}

fn actions(list: &[Value], path: &Path) -> FieldErrors {
    if list.is_empty() {
        return vec![FieldError::required(path, "at least one validation action is required")];
    }
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, action) in strings(list).enumerate() {
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(&path.index(i), action, ACTIONS));
        }
        if !seen.insert(action) {
            errors.push(FieldError::duplicate(&path.index(i), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, list, why));
    }
    errors
}

fn validating_status(new: &Value, _: &Value) -> FieldErrors {
    let path = Path::new("status");
    let mut errors = Vec::new();
    let place = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in new.items("/status/typeChecking/expressionWarnings").iter().enumerate() {
        for (key, pointer) in [("warning", "/warning"), ("fieldRef", "/fieldRef")] {
            let text = warning.text(pointer);
            let text = if key == "fieldRef" { text.trim() } else { text };
            if text.is_empty() {
                errors.push(FieldError::required(&place.index(i).child(key), ""));
            }
        }
    }
    let conditions = new.items("/status/conditions");
    errors.extend(meta::validate_conditions(conditions, &path.child("conditions")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_binding_does_not_both_deny_and_warn() {
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn", "Deny"]}});
        let texts: Vec<String> = (VALIDATING_BINDING.validate)(&binding)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "spec.validationActions[2]: Duplicate value: \"Deny\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ]
        );
    }
}
