//! LimitRanges: smallest, largest and usual amounts of resources in a namespace. Admission applies them.

use crate::resources::{self, is_overcommittable, quantity, round_up};
use crate::view::{View, child, each_mut, set_default};
use crate::{Kind, meta, nothing};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_schema::quantity::{Format, Quantity};

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    default,
    // Without a name it gets one that nobody else has.
    prepare_create: |range, _| {
        if range.text("/metadata/name").is_empty() {
            let own = range.text("/metadata/uid").to_string();
            if let Some(metadata) = child(range, "metadata") {
                crate::view::set(metadata, "name", own);
            }
        }
    },
    prepare_update: nothing::prepare_update,
    validate,
    validate_update: |new, _| validate(new),
    warnings: nothing::warnings,
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
    table: None,
    example: "apiVersion: v1
kind: LimitRange
metadata: {name: usual, namespace: default}
spec: {limits: [{type: Container, max: {cpu: '2'}, default: {cpu: '1'}}]}
",
};

fn default(range: &mut Value) {
    for item in each_mut(range, "/spec/limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            round_up(item.get_mut(key));
        }
    }
    for item in each_mut(range, "/spec/limits").filter(|i| i.text("/type") == "Container") {
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let amounts = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            if amounts.is_empty() {
                continue;
            }
            if let Some(target) = child(item, to) {
                amounts
                    .into_iter()
                    .for_each(|(key, amount)| set_default(target, &key, amount));
            }
        }
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn validate(range: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, item) in range.items("/spec/limits").iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        let (kind, place) = (item.text("/type"), at.child("type"));
        let faults = name::qualified_name(kind);
        if faults.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
            let why = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(&place, BadValue::typed(kind), why));
        }
        let typed = |m| FieldError::invalid(&place, BadValue::typed(kind), m);
        errors.extend(faults.into_iter().map(typed));
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&place, kind));
        }
        errors.extend(validate_item(item, kind, &at));
    }
    errors
}

fn validate_item(item: &Value, kind: &str, at: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut amounts = |key: &str| -> Amounts {
        let mut found = Amounts::new();
        for (resource, amount) in item.get(key).and_then(Value::as_object).into_iter().flatten() {
            let place = at.child(key).key(resource);
            errors.extend(match kind {
                "Pod" | "Container" => resources::validate_container_name(resource, &place),
                _ => resources::validate_name(resource, &place),
            });
            found.insert(resource.clone(), quantity(amount.as_str().unwrap_or_default()));
        }
        found
    };
    let (max, min) = (amounts("max"), amounts("min"));
    let (mut usual, mut asked) = (Amounts::new(), Amounts::new());
    if kind != "Pod" {
        usual = amounts("default");
        asked = amounts("defaultRequest");
    }
    let ratios = amounts("maxLimitRequestRatio");
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if item
                .get(key)
                .and_then(Value::as_object)
                .is_some_and(|m| !Map::is_empty(m))
            {
                errors.push(FieldError::forbidden(
                    &at.child(key),
                    "may not be specified when `type` is 'Pod'",
                ));
            }
        }
    }
    if kind == "PersistentVolumeClaim" && !max.contains_key("storage") && !min.contains_key("storage") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&at.child("limits"), why));
    }
    let keys: BTreeSet<&String> = [&max, &min, &usual, &asked, &ratios]
        .into_iter()
        .flat_map(|m| m.keys())
        .collect();
    for key in keys {
        let (least, most) = (min.get(key), max.get(key));
        let (limit, request) = (usual.get(key), asked.get(key));
        let mut fault = |field: &str, shown: &Quantity, why: String| {
            errors.push(FieldError::invalid(&at.child(field).key(key), shown.to_string(), why));
        };
        if let (Some(a), Some(b)) = (least, most)
            && a > b
        {
            fault("min", a, format!("min value {a} is greater than max value {b}"));
        }
        if let (Some(a), Some(b)) = (least, request)
            && a > b
        {
            fault(
                "defaultRequest",
                b,
                format!("min value {a} is greater than default request value {b}"),
            );
        }
        if let (Some(a), Some(b)) = (request, most)
            && a > b
        {
            fault(
                "defaultRequest",
                a,
                format!("default request value {a} is greater than max value {b}"),
            );
        }
        if let (Some(a), Some(b)) = (request, limit)
            && a > b
        {
            fault(
                "defaultRequest",
                a,
                format!("default request value {a} is greater than default limit value {b}"),
            );
        }
        if let (Some(a), Some(b)) = (least, limit)
            && a > b
        {
            fault("default", a, format!("min value {a} is greater than default value {b}"));
        }
        if let (Some(a), Some(b)) = (limit, most)
            && a > b
        {
            fault("default", b, format!("default value {a} is greater than max value {b}"));
        }
        if let Some(ratio) = ratios.get(key) {
            if *ratio < Quantity::from_value(1, Format::DecimalSI) {
                fault("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
            }
            if let (Some(a), Some(b)) = (least, most) {
                let bound = b.milli_value() as f64 / a.milli_value() as f64;
                if ratio.milli_value() as f64 / 1000.0 > bound {
                    let why = format!("ratio {ratio} is greater than max/min = {bound:.6}");
                    fault("maxLimitRequestRatio", ratio, why);
                }
            }
        }
        if let (Some(a), Some(b)) = (limit, request)
            && a != b
            && !is_overcommittable(key)
        {
            fault(
                "defaultRequest",
                b,
                format!("default value {a} must equal to defaultRequest value {b} in {key}"),
            );
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_follow_from_each_other() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        default(&mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }

    #[test]
    fn amounts_must_be_in_order() {
        let range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}, {"type": "Pod", "default": {"cpu": "1"}}]}});
        let texts: Vec<String> = validate(&range).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
            ]
        );
    }
}
