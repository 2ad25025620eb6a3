//! What the kinds that make pods from a template share.

use crate::pod::template;
use crate::view::{View, equal_field, non_negative, same};
use crate::{Context, selector};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_types::LabelSelector;

const MISMATCH: &str = "`selector` does not match template `labels`";

/// Faults of `spec.selector`; `what` names the kind in the fault of an empty one.
pub fn validate_selector(spec: &Value, lenient: bool, what: &str, path: &Path) -> FieldErrors {
    let place = path.child("selector");
    let value = spec.at("/selector");
    if value.is_null() {
        return vec![FieldError::required(&place, "")];
    }
    let typed = LabelSelector::deserialize(value).unwrap_or_default();
    let mut errors = selector::validate(&typed, lenient, &place);
    if selector::is_empty(&typed) {
        let why = format!("empty selector is invalid for {what}");
        errors.push(FieldError::invalid(&place, selector::shown(value), why));
    }
    errors
}

fn labels(template: &Value) -> BTreeMap<String, String> {
    let all = template.entries("/metadata/labels").into_iter().flatten();
    all.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string()))
        .collect()
}

/// Whether the selector is well-formed: only then does it say anything about labels.
fn usable(selector: &Value) -> Option<LabelSelector> {
    let typed = LabelSelector::deserialize(selector).ok()?;
    selector::validate(&typed, false, &Path::default())
        .is_empty()
        .then_some(typed)
}

/// The fault of a template whose labels the selector does not match.
pub fn validate_match(selector: &Value, template: &Value, path: &Path) -> Option<FieldError> {
    let place = path.child("metadata").child("labels");
    // No selector matches nothing, an empty one everything.
    let matches = !selector.is_null() && {
        let typed = usable(selector)?;
        selector::is_empty(&typed) || selector::matches(&typed, &labels(template))
    };
    (!matches).then(|| FieldError::invalid(&place, shown_labels(template), MISMATCH))
}

/// Labels as a message shows them: `null` when there are none.
pub fn shown_labels(template: &Value) -> BadValue {
    BadValue::from(template.at("/metadata/labels"))
}

/// The fault of a selector that upstream cannot turn into labels to look for; then it does not look at the template.
pub fn unusable(selector: &Value, why: &str, path: &Path) -> Option<FieldError> {
    let bad = !selector.is_null() && usable(selector).is_none();
    bad.then(|| FieldError::invalid(&path.child("selector"), selector::shown(selector), why))
}

/// Faults of `spec.template` of a kind that keeps pods running; `what` names the kind.
pub fn validate_template(spec: &Value, old: Option<&Value>, what: &str, path: &Path) -> FieldErrors {
    if let Some(error) = unusable(spec.at("/selector"), "invalid label selector", path) {
        return vec![error];
    }
    let at = path.child("template");
    let template = spec.at("/template");
    let mut errors: FieldErrors = validate_match(spec.at("/selector"), template, &at)
        .into_iter()
        .collect();
    errors.extend(template::validate(template, old.map(|o| o.at("/template")), &at));
    errors.extend(keeps_running(template, what, &at));
    errors
}

/// Faults of templates whose pods would end.
pub fn keeps_running(template: &Value, what: &str, at: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let policy = template.text("/spec/restartPolicy");
    if policy != "Always" {
        let place = at.child("spec").child("restartPolicy");
        errors.push(FieldError::not_supported(&place, policy, &["Always"]));
    }
    if template.has("/spec/activeDeadlineSeconds") {
        let place = at.child("spec").child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(
            &place,
            format!("activeDeadlineSeconds in {what} is not Supported"),
        ));
    }
    errors
}

/// Faults of numbers below zero among `keys` of `holder`.
pub fn non_negatives(holder: &Value, keys: &[&str], path: &Path) -> FieldErrors {
    let number = |key: &&str| holder.get(*key).and_then(Value::as_i64).unwrap_or_default();
    keys.iter()
        .flat_map(|key| non_negative(&path.child(key), number(key)))
        .collect()
}

/// Faults of counts that exceed another: `(key, limit, words)`.
pub fn at_most(status: &Value, rules: &[(&str, &str, &str)], path: &Path) -> FieldErrors {
    let number = |key: &str| status.get(key).and_then(Value::as_i64).unwrap_or_default();
    let broken = rules.iter().filter(|(key, limit, _)| number(key) > number(limit));
    broken
        .map(|(key, _, why)| FieldError::invalid(&path.child(key), number(key), *why))
        .collect()
}

/// The fault of a collision count that goes down.
pub fn collisions(new: &Value, old: &Value) -> Option<FieldError> {
    let (after, before) = (
        new.at("/status/collisionCount").as_i64(),
        old.at("/status/collisionCount").as_i64(),
    );
    let path = Path::new("status").child("collisionCount");
    let lower = before.is_some_and(|b| after.is_none_or(|a| a < b));
    lower.then(|| FieldError::invalid(&path, after.unwrap_or_default(), "cannot be decremented"))
}

/// The fault of a selector that changes.
pub fn fixed_selector(new: &Value, old: &Value) -> Option<FieldError> {
    let (after, before) = (new.at("/spec/selector"), old.at("/spec/selector"));
    let path = Path::new("spec").child("selector");
    (!same(after, before)).then(|| FieldError::invalid(&path, selector::shown(after), "field is immutable"))
}

/// Faults of a count or percentage.
pub fn int_or_percent(value: &Value, path: &Path) -> FieldErrors {
    match value {
        Value::String(text) => name::percent(text)
            .into_iter()
            .map(|m| FieldError::invalid(path, BadValue::typed(text), m))
            .collect(),
        number => non_negative(path, number.as_i64().unwrap_or_default()),
    }
}

/// A count or percentage as messages show it: its type in Go is no plain string.
pub fn shown_amount(value: &Value) -> BadValue {
    value.as_str().map_or_else(|| BadValue::from(value), BadValue::typed)
}

/// The number in a count or percentage; 0 for texts that are no percentage.
pub fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => match text.strip_suffix('%').unwrap_or(text).parse() {
            Ok(number) => number,
            Err(_) => 0,
        },
        number => number.as_i64().unwrap_or_default(),
    }
}

/// The fault of a percentage above a hundred.
pub fn up_to_all(value: &Value, path: &Path) -> Option<FieldError> {
    let over = value.as_str().is_some_and(|t| name::percent(t).is_empty()) && amount(value) > 100;
    over.then(|| FieldError::invalid(path, shown_amount(value), "must not be greater than 100%"))
}

/// Takes away what is behind closed gates in `spec.template`.
pub fn prepare_template(object: &mut Value, _: &Context) {
    template::drop_gated(object, "/spec/template");
}

/// Warnings about names that become host names, and about the template.
pub fn warnings(new: &Value, old: Option<&Value>, named: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let faults = name::dns1123_label(new.text("/metadata/name"));
    if named && old.is_none() && !faults.is_empty() {
        warnings.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", faults.join(" ")));
    }
    let path = Path::new("spec").child("template");
    // On update upstream asks whether the generation rose: whether the spec changed.
    if old.is_none_or(|o| !equal_field(o, new, "spec")) {
        warnings.extend(template::warnings(new, None, "/spec/template", &path));
    }
    warnings
}

/// The selector of a workload for its `scale` subresource.
pub fn scale_selector(object: &Value) -> String {
    selector::format(object.at("/spec/selector"))
}
