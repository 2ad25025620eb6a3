//! ServiceCIDRs, the ranges that Services take addresses from, and IPAddresses, the ones taken.

use super::rules::{IMMUTABLE, Rules, keep_metadata, required};
use crate::view::{View, equal, invalid, strings};
use crate::{internal, meta, nothing};
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

pub static ADDRESS: Rules = Rules {
    validate: validate_address,
    validate_update: |new, old| {
        let mut errors = validate_address(new);
        let (after, before) = (new.at("/spec/parentRef"), old.at("/spec/parentRef"));
        if !equal(after, before) {
            let shown = match after {
                Value::Null => BadValue::Json(Value::Null),
                parent => BadValue::Raw(internal::compact("ParentReference", parent)),
            };
            let place = Path::new("spec").child("parentRef");
            errors.push(FieldError::invalid(&place, shown, IMMUTABLE));
        }
        errors
    },
    warnings: nothing::warnings,
    validate_name: |text, _| name::ip(&Path::default(), text).into_iter().map(|e| e.detail).collect(),
    prepare_status: keep_metadata,
    validate_status: nothing::validate_update,
};

pub static SERVICE_CIDR: Rules = Rules {
    validate: |range| validate_ranges(range.at("/spec")),
    validate_update: changed_ranges,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: nothing::validate_update,
};

fn validate_address(address: &Value) -> FieldErrors {
    let path = Path::new("spec").child("parentRef");
    let parent = address.at("/spec/parentRef");
    if parent.is_null() {
        return vec![FieldError::required(&path, "")];
    }
    let mut errors = Vec::new();
    let group = parent.text("/group");
    if !group.is_empty() {
        errors.extend(invalid(&path.child("group"), group, name::dns1123_subdomain(group)));
    }
    for key in ["resource", "name"] {
        let text = parent.get(key).and_then(Value::as_str).unwrap_or_default();
        errors.extend(required(text, &path.child(key), name::path_segment));
    }
    let namespace = parent.text("/namespace");
    errors.extend(invalid(
        &path.child("namespace"),
        namespace,
        name::path_segment(namespace),
    ));
    errors
}

fn validate_ranges(spec: &Value) -> FieldErrors {
    let path = Path::new("spec").child("cidrs");
    let ranges = spec.items("/cidrs");
    if ranges.is_empty() {
        return vec![FieldError::required(&path, "at least one CIDR required")];
    }
    if ranges.len() > 2 {
        let shown = BadValue::Raw(format!("{{\"CIDRs\":{}}}", spec.at("/cidrs")));
        return vec![FieldError::invalid(&path, shown, "may only hold up to 2 values")];
    }
    let mut errors = Vec::new();
    for (i, range) in strings(ranges).enumerate() {
        errors.extend(name::cidr(&path.index(i), range));
    }
    let families: Vec<bool> = strings(ranges)
        .filter_map(|r| name::parse_cidr_sloppy(r).map(|(ip, _)| ip.is_ipv4()))
        .collect();
    if matches!(families[..], [a, b] if a == b) {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&path, ranges, why));
    }
    errors
}

fn changed_ranges(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("spec").child("cidrs");
    let (after, before) = (new.items("/spec/cidrs"), old.items("/spec/cidrs"));
    let pairs = after.iter().zip(before).enumerate();
    let mut errors: FieldErrors = pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(i, (a, _))| FieldError::invalid(&path.index(i), a, IMMUTABLE))
        .collect();
    match (before.len(), after.len()) {
        (a, b) if a == b => errors,
        (1, 2) => {
            errors.extend(validate_ranges(new.at("/spec")));
            errors
        }
        _ => vec![FieldError::invalid(&path, new.at("/spec/cidrs"), IMMUTABLE)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_family_may_be_added_and_nothing_changed() {
        let of = |list: Value| json!({"spec": {"cidrs": list}});
        let one = of(json!(["10.0.0.0/24"]));
        assert!(changed_ranges(&of(json!(["10.0.0.0/24", "fd00::/64"])), &one).is_empty());
        let texts: Vec<String> = changed_ranges(&of(json!(["10.1.0.0/24"])), &one)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
    }
}
