//! ResourceSlices: the devices that a driver offers, on one node, some or all.

use super::devices::{attribute_name, binding, each, each_once, pool_name, taint};
use super::rules::{IMMUTABLE, Rules, free_metadata};
use crate::pod::scheduling;
use crate::pod::volumes::csi_driver;
use crate::resources::{is_native, quantity};
use crate::view::{View, equal, invalid, strings};
use crate::{internal, meta, nothing};
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const DEVICES_MAX: usize = 128;
/// With taints, counters or lists.
const COSTLY_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMED_MAX: usize = 2;
const TAINTS_MAX: usize = 16;
const ATTRIBUTES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const OPTIONS_MAX: usize = 10;
/// Bytes of an attribute's value.
const VALUE_MAX: usize = 64;
/// Bytes of a key as paths show it.
const KEY_SHOWN: usize = 63 + 1 + 32;
const LISTS: &[&str] = &["/bools", "/ints", "/strings", "/versions"];

pub static RULES: Rules = Rules {
    validate: |slice| validate(slice, None),
    validate_update: |new, old| validate(new, Some(old)),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

fn node_name(text: &str, path: &Path) -> FieldErrors {
    invalid(path, text, name::dns1123_subdomain(text))
}

fn validate(slice: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = slice.at("/spec");
    let mut errors = csi_driver(spec.text("/driver"), &path.child("driver"));
    let pool = path.child("pool");
    errors.extend(pool_name(spec.text("/pool/name"), &pool.child("name")));
    let (count, generation) = (spec.int("/pool/resourceSliceCount"), spec.int("/pool/generation"));
    if count <= 0 {
        let place = pool.child("resourceSliceCount");
        errors.push(FieldError::invalid(&place, count, "must be greater than zero"));
    }
    if generation < 0 {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&pool.child("generation"), generation, why));
    }
    if let Some(old) = old {
        for (pointer, place) in [
            ("/spec/pool/name", pool.child("name")),
            ("/spec/driver", path.child("driver")),
            ("/spec/nodeName", path.child("nodeName")),
        ] {
            let (after, before) = (slice.at(pointer), old.at(pointer));
            if after != before {
                errors.push(FieldError::invalid(&place, after, IMMUTABLE));
            }
        }
    }
    errors.extend(where_to(spec, &path));
    if spec.has("/sharedCounters") && spec.has("/devices") {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(&path, "", why));
    }
    let devices = spec.items("/devices");
    let costly = |d: &Value| {
        let lists = d.entries("/attributes").into_iter().flatten();
        let mut lists = lists.flat_map(|(_, a)| LISTS.iter().map(move |l| a.has(l)));
        !d.items("/taints").is_empty() || !d.items("/consumesCounters").is_empty() || lists.any(|l| l)
    };
    let most = if devices.iter().any(costly) {
        COSTLY_DEVICES_MAX
    } else {
        DEVICES_MAX
    };
    let own = spec.flag("/perDeviceNodeSelection");
    errors.extend(each_once(
        devices,
        most,
        "/name",
        &path.child("devices"),
        |device, p| {
            let named = |d: &&Value| d.text("/name") == device.text("/name");
            let before = old.and_then(|o| o.items("/spec/devices").iter().find(named));
            validate_device(device, before, own, p)
        },
    ));
    let place = path.child("sharedCounters");
    let sets = spec.items("/sharedCounters");
    errors.extend(each_once(sets, COUNTER_SETS_MAX, "/name", &place, |set, p| {
        let mut errors = super::rules::required(set.text("/name"), &p.child("name"), name::dns1123_label);
        errors.extend(counters(set, &p.child("counters")));
        errors
    }));
    errors
}

/// Which nodes have the devices: exactly one of four ways says so.
fn where_to(spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut set = Vec::new();
    match spec.at("/nodeName").as_str() {
        Some("") => {
            let why = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(&path.child("nodeName"), "", why));
        }
        Some(node) => {
            set.push("`nodeName`");
            errors.extend(node_name(node, &path.child("nodeName")));
        }
        None => {}
    }
    if spec.has("/nodeSelector") {
        set.push("`nodeSelector`");
        let (selector, place) = (spec.at("/nodeSelector"), path.child("nodeSelector"));
        errors.extend(scheduling::node_selector(selector, false, &place));
        if selector.items("/nodeSelectorTerms").len() != 1 {
            let shown = match selector.at("/nodeSelectorTerms") {
                Value::Null => BadValue::Json(Value::Null),
                terms => BadValue::Raw(internal::compact("NodeSelectorTerm", terms)),
            };
            let why = "must have exactly one node selector term";
            errors.push(FieldError::invalid(&place.child("nodeSelectorTerms"), shown, why));
        }
    }
    for (key, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match spec.get(key).and_then(Value::as_bool) {
            Some(true) => set.push(shown),
            Some(false) => {
                let why = "must be either unset or set to true";
                errors.push(FieldError::invalid(&path.child(key), false, why));
            }
            None => {}
        }
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.push(FieldError::required(path, why)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            let why = format!("{why}, but multiple fields are set");
            errors.push(FieldError::invalid(path, shown, why));
        }
    }
    errors
}

fn counters(holder: &Value, path: &Path) -> FieldErrors {
    let Some(map) = holder.entries("/counters").filter(|m| !m.is_empty()) else {
        return vec![FieldError::required(path, "")];
    };
    if map.len() > COUNTERS_MAX {
        return vec![FieldError::too_many(path, map.len(), COUNTERS_MAX)];
    }
    map.keys()
        .flat_map(|key| invalid(path, key, name::dns1123_label(key)))
        .collect()
}

fn key_path(path: &Path, key: &str) -> Path {
    if key.len() <= KEY_SHOWN {
        return path.key(key);
    }
    let rest = KEY_SHOWN - 3;
    let (head, tail) = (key.get(..rest.div_ceil(2)), key.get(key.len() - rest / 2..));
    path.key(&format!("{}...{}", head.unwrap_or_default(), tail.unwrap_or_default()))
}

fn validate_device(device: &Value, old: Option<&Value>, selects: bool, path: &Path) -> FieldErrors {
    let own = device.text("/name");
    let mut errors = invalid(&path.child("name"), own, name::dns1123_label(own));
    let attributes = device.entries("/attributes");
    let capacity = device.entries("/capacity");
    let count = attributes.map_or(0, serde_json::Map::len) + capacity.map_or(0, serde_json::Map::len);
    if count > ATTRIBUTES_MAX {
        let why = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.push(FieldError::invalid(path, count, why));
    }
    let values = |a: &Value| LISTS.iter().map(|l| a.items(l).len()).sum::<usize>().max(1);
    let count: usize = attributes.into_iter().flatten().map(|(_, a)| values(a)).sum();
    if count > VALUES_MAX {
        let why = format!("the total number of attribute values must not exceed {VALUES_MAX}");
        errors.push(FieldError::invalid(path, count, why));
    }
    let place = path.child("attributes");
    for (key, value) in attributes.into_iter().flatten() {
        errors.extend(attribute_name(key, &place));
        errors.extend(attribute(value, &key_path(&place, key)));
    }
    let place = path.child("capacity");
    for (key, value) in capacity.into_iter().flatten() {
        errors.extend(attribute_name(key, &place));
        let at = key_path(&place, key).child("requestPolicy");
        if !value.has("/requestPolicy") {
            continue;
        }
        if device.flag("/allowMultipleAllocations") {
            errors.extend(policy(value, &at));
        } else {
            errors.push(FieldError::forbidden(&at, "allowMultipleAllocations must be true"));
        }
    }
    if old.is_none_or(|o| !equal(o.at("/taints"), device.at("/taints"))) {
        errors.extend(each(device.items("/taints"), TAINTS_MAX, &path.child("taints"), taint));
    }
    let consumed = device.items("/consumesCounters");
    let place = path.child("consumesCounters");
    errors.extend(each_once(consumed, CONSUMED_MAX, "/counterSet", &place, |c, p| {
        let set = c.text("/counterSet");
        let mut errors = super::rules::required(set, &p.child("counterSet"), name::dns1123_label);
        errors.extend(counters(c, &p.child("counters")));
        errors
    }));
    errors.extend(device_nodes(device, selects, path));
    errors.extend(binding(device, path));
    let place = path.child("nodeAllocatableResourceMappings");
    for (resource, mapping) in device.entries("/nodeAllocatableResourceMappings").into_iter().flatten() {
        let at = place.key(resource);
        if !is_native(resource) {
            let why = "must be a node allocatable resource name";
            errors.push(FieldError::invalid(&at, resource, why));
        }
        let (times, key) = (
            mapping.at("/allocationMultiplier").as_str(),
            mapping.at("/capacityKey").as_str(),
        );
        if times.is_none() && key.is_none() {
            let why = "at least one of allocationMultiplier or capacityKey must be set";
            errors.push(FieldError::invalid(&at, "", why));
        }
        if let Some(times) = times.filter(|t| quantity(t).sign() <= 0) {
            let place = at.child("allocationMultiplier");
            errors.push(FieldError::invalid(&place, times, "must be positive"));
        }
        match key {
            Some("") => {
                let why = "capacityKey must not be an empty string";
                errors.push(FieldError::invalid(&at.child("capacityKey"), "", why));
            }
            Some(key) if !capacity.is_some_and(|c| c.contains_key(key)) => {
                errors.push(FieldError::not_found(&at.child("capacityKey"), key));
            }
            _ => {}
        }
    }
    errors
}

fn device_nodes(device: &Value, selects: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if !selects {
        if device.has("/nodeName") || device.has("/nodeSelector") || device.has("/allNodes") {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(FieldError::invalid(path, Value::Null, why));
        }
        return errors;
    }
    let mut set = Vec::new();
    match device.at("/nodeName").as_str() {
        Some("") => errors.push(FieldError::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(node) => {
            set.push("`nodeName`");
            errors.extend(node_name(node, &path.child("nodeName")));
        }
        None => {}
    }
    if device.has("/nodeSelector") {
        set.push("`nodeSelector`");
        let selector = device.at("/nodeSelector");
        errors.extend(scheduling::node_selector(selector, false, &path.child("nodeSelector")));
    }
    match device.at("/allNodes").as_bool() {
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            let why = "must be either unset or set to true";
            errors.push(FieldError::invalid(&path.child("allNodes"), false, why));
        }
        None => {}
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => errors.push(FieldError::required(path, why)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, format!("{{{}}}", set.join(", ")), why)),
    }
    errors
}

fn version(text: &str, path: &Path) -> FieldErrors {
    static SEMVER: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let number = r"(0|[1-9]\d*)";
        let pre = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
        let build = "[0-9a-zA-Z-]+";
        let whole = format!(r"^{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$");
        Regex::new(&whole).ok()
    });
    let mut errors = Vec::new();
    if !SEMVER.as_ref().is_some_and(|r| r.is_match(text)) {
        let why = "must be a string compatible with semver.org spec 2.0.0";
        errors.push(FieldError::invalid(path, text, why));
    }
    errors.extend(short(text, path));
    errors
}

fn short(text: &str, path: &Path) -> FieldErrors {
    let long = text.len() > VALUE_MAX;
    long.then(|| FieldError::too_long(path, VALUE_MAX))
        .into_iter()
        .collect()
}

fn attribute(value: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut fields = 0;
    for key in [
        "bool", "int", "string", "version", "bools", "ints", "strings", "versions",
    ] {
        let Some(found) = value.get(key).filter(|v| !v.is_null()) else {
            continue;
        };
        fields += 1;
        let place = path.child(key);
        let check = if key.starts_with("version") { version } else { short };
        match found {
            Value::String(text) => errors.extend(check(text, &place)),
            Value::Array(list) if list.is_empty() => {
                errors.push(FieldError::invalid(&place, found, "must not be empty if specified"));
            }
            Value::Array(list) => {
                for (i, text) in strings(list).enumerate() {
                    errors.extend(check(text, &place.index(i)));
                }
            }
            _ => {}
        }
    }
    let why = "exactly one value must be specified";
    match fields {
        0 => errors.push(FieldError::invalid(path, "", why)),
        1 => {}
        _ => {
            let shown = BadValue::Raw(internal::compact("DeviceAttribute", value));
            errors.push(FieldError::invalid(path, shown, why));
        }
    }
    errors
}

/// Faults of what a request may take of a capacity that is shared.
fn policy(capacity: &Value, path: &Path) -> FieldErrors {
    let policy = capacity.at("/requestPolicy");
    let most = quantity(capacity.text("/value"));
    let (values, range) = (policy.items("/validValues"), policy.at("/validRange"));
    if !values.is_empty() && !range.is_null() {
        let why =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return vec![FieldError::forbidden(path, why)];
    }
    let default = policy.at("/default").as_str().map(quantity);
    let missing = |what: &str| {
        let why = format!("required when {what} is defined");
        vec![FieldError::required(&path.child("default"), why)]
    };
    if !values.is_empty() {
        let Some(default) = default else {
            return missing("validValues");
        };
        return options(values, &default, &most, &path.child("validValues"));
    }
    if range.is_null() {
        return Vec::new();
    }
    let Some(default) = default else {
        return missing("validRange");
    };
    validate_range(range, &default, &most, &path.child("validRange"))
}

type Quantity = steersman_schema::quantity::Quantity;

fn options(values: &[Value], default: &Quantity, most: &Quantity, path: &Path) -> FieldErrors {
    let amounts: Vec<Quantity> = strings(values).map(quantity).collect();
    let mut errors = Vec::new();
    for (i, pair) in amounts.windows(2).enumerate() {
        if let [a, b] = pair
            && a > b
        {
            let why = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(&path.index(i + 1), b.to_string(), why));
        }
    }
    if amounts.len() > OPTIONS_MAX {
        errors.push(FieldError::too_many(path, amounts.len(), OPTIONS_MAX));
    } else {
        for (i, amount) in amounts.iter().enumerate().filter(|(_, a)| *a > most) {
            let why = format!("option is larger than capacity value: {most}");
            errors.push(FieldError::invalid(&path.index(i), amount.to_string(), why));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (i, amount) in amounts.iter().enumerate() {
            if !seen.insert(amount.value()) {
                errors.push(FieldError::duplicate(&path.index(i), amount.value().to_string()));
            }
        }
    }
    if amounts.len() > OPTIONS_MAX || !amounts.contains(default) {
        let why = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, default.to_string(), why));
    }
    errors
}

fn validate_range(range: &Value, default: &Quantity, most: &Quantity, path: &Path) -> FieldErrors {
    let amount = |p: &str| range.at(p).as_str().map(quantity);
    let Some(min) = amount("/min") else {
        let why = "required when validRange is defined";
        return vec![FieldError::required(&path.child("min"), why)];
    };
    let mut errors = Vec::new();
    let mut bad = |key: &str, value: &Quantity, why: String| {
        errors.push(FieldError::invalid(&path.child(key), value.to_string(), why));
    };
    if min > *most {
        bad("min", &min, format!("min is larger than capacity value: {most}"));
    }
    if *default < min {
        bad("min", default, format!("default is less than min: {min}"));
    }
    let max = amount("/max");
    if let Some(max) = &max {
        if min > *max {
            bad("max", &min, format!("min is larger than max: {max}"));
        }
        if max > most {
            bad("max", max, format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            bad("max", default, format!("default is more than max: {max}"));
        }
    }
    if let Some(step) = amount("/step") {
        let added = min.plus(&step);
        if added > *most {
            bad(
                "step",
                &step,
                format!("one step {added} is larger than capacity value: {most}"),
            );
        }
        for value in [Some(default), max.as_ref()].into_iter().flatten() {
            let rest = (value.value() - min.value()).checked_rem(step.value());
            if rest != Some(0) {
                let why = format!("value is not a multiple of a given step ({step}) from ({min})");
                bad("step", value, why);
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
    fn a_slice_is_of_one_place_and_its_attributes_have_one_value() {
        let attributes = json!({"model": {"string": "x", "int": 1}, "v": {"version": "1"}});
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "resourceSliceCount": 1},
            "nodeName": "n", "allNodes": true, "devices": [{"name": "a", "attributes": attributes}]}});
        let texts: Vec<String> = validate(&slice, None).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].starts_with("spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of"));
        assert!(texts[1].ends_with("exactly one value must be specified"));
        assert!(texts[2].ends_with("must be a string compatible with semver.org spec 2.0.0"));
    }
}
