//! Devices asked for: classes, claims and templates of claims. Expressions in CEL are not looked into.

use super::rules::{IMMUTABLE, Rules, keep_metadata, required};
use crate::pod::scheduling;
use crate::pod::volumes::csi_driver;
use crate::pod::volumes::template_metadata;
use crate::view::{View, equal, equal_as, invalid, strings};
use crate::{internal, meta, nothing, resources};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const REQUESTS_MAX: usize = 32;
const SUBREQUESTS_MAX: usize = 8;
const LIST_MAX: usize = 32;
const TOLERATIONS_MAX: usize = 16;
const RESERVED_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const ADDRESSES_MAX: usize = 16;
/// Bytes of an expression, and of a driver's own parameters.
const EXPRESSION_MAX: usize = 10 * 1024;
/// Bytes of the part of an attribute's name after the slash.
const ID_MAX: usize = 32;
const REQUEST_NAME: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
const ONE_OF_TWO: &str = "exactly one of `exactly` or `firstAvailable` is required";

pub static CLASS: Rules = Rules {
    validate: |class| validate_class(class, None),
    validate_update: |new, old| validate_class(new, Some(old)),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: nothing::validate_update,
};

pub static CLAIM: Rules = Rules {
    validate: |claim| devices(claim.at("/spec/devices"), &Path::new("spec").child("devices")),
    validate_update: |new, old| {
        let mut errors = Vec::new();
        let (after, before) = (new.at("/spec"), old.at("/spec"));
        if !equal_as("resource.v1.ResourceClaimSpec", after, before) {
            let shown = BadValue::Raw(internal::compact("ResourceClaimSpec", after));
            errors.push(FieldError::invalid(&Path::new("spec"), shown, IMMUTABLE));
        }
        errors
    },
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: claim_status,
};

pub static TEMPLATE: Rules = Rules {
    validate: |template| {
        let path = Path::new("spec");
        let mut errors = template_metadata(template.at("/spec/metadata"), &path.child("metadata"));
        errors.extend(devices(
            template.at("/spec/spec/devices"),
            &path.child("spec").child("devices"),
        ));
        errors
    },
    validate_update: |new, old| {
        let mut errors = Vec::new();
        let (after, before) = (new.at("/spec"), old.at("/spec"));
        if !equal_as("resource.v1.ResourceClaimTemplateSpec", after, before) {
            let shown = BadValue::Raw(internal::compact("ResourceClaimTemplateSpec", after));
            errors.push(FieldError::invalid(&Path::new("spec"), shown, IMMUTABLE));
        }
        errors
    },
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: nothing::validate_update,
};

/// The fault of a list that is too long; then nobody looks at its items.
pub(super) fn too_many(list: &[Value], most: usize, path: &Path) -> Option<FieldError> {
    (list.len() > most).then(|| FieldError::too_many(path, list.len(), most))
}

/// Faults of each item, or the one of too many.
pub(super) fn each(
    list: &[Value],
    most: usize,
    path: &Path,
    check: impl Fn(&Value, &Path) -> FieldErrors,
) -> FieldErrors {
    match too_many(list, most, path) {
        Some(fault) => vec![fault],
        None => list
            .iter()
            .enumerate()
            .flat_map(|(i, v)| check(v, &path.index(i)))
            .collect(),
    }
}

/// The same for a list whose items differ in `key`; empty for a list of texts.
pub(super) fn each_once(
    list: &[Value],
    most: usize,
    key: &str,
    path: &Path,
    check: impl Fn(&Value, &Path) -> FieldErrors,
) -> FieldErrors {
    let mut errors = each(list, most, path, check);
    if list.len() > most {
        return errors;
    }
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let text = item.text(key);
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(&path.index(i), text));
        }
    }
    errors
}

fn validate_class(class: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let kept = |p: &str| old.is_some_and(|o| equal(o.at(p), class.at(p)));
    let mut errors = selectors(class.items("/spec/selectors"), &path.child("selectors"));
    let stored = kept("/spec/config");
    errors.extend(each(
        class.items("/spec/config"),
        LIST_MAX,
        &path.child("config"),
        |c, p| opaque(c, stored, p),
    ));
    if let Some(resource) = class.at("/spec/extendedResourceName").as_str()
        && !resources::is_extended(resource)
    {
        let place = path.child("extendedResourceName");
        let why = "must be a valid extended resource name";
        errors.push(FieldError::invalid(&place, resource, why));
    }
    errors
}

/// Names of the requests of a claim, with those of their subrequests.
type Names<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn names(claim: &Value) -> Names<'_> {
    claim
        .items("/requests")
        .iter()
        .map(|r| {
            let subs = r.items("/firstAvailable").iter().map(|s| s.text("/name")).collect();
            (r.text("/name"), subs)
        })
        .collect()
}

fn request_reference(text: &str, names: &Names<'_>, path: &Path) -> FieldErrors {
    let segments: Vec<&str> = text.split('/').collect();
    if segments.len() > 2 {
        return vec![FieldError::invalid(path, text, REQUEST_NAME)];
    }
    let mut errors: FieldErrors = segments
        .iter()
        .flat_map(|s| invalid(path, s, name::dns1123_label(s)))
        .collect();
    let known = match segments[..] {
        [request] => names.contains_key(request),
        [request, sub] => names.get(request).is_some_and(|subs| subs.contains(sub)),
        _ => false,
    };
    if !known {
        errors.push(FieldError::invalid(path, text, REQUEST_NAME));
    }
    errors
}

fn references(list: &[Value], names: &Names<'_>, path: &Path) -> FieldErrors {
    each_once(list, REQUESTS_MAX, "", path, |r, p| {
        request_reference(r.as_str().unwrap_or_default(), names, p)
    })
}

fn devices(claim: &Value, path: &Path) -> FieldErrors {
    let known = names(claim);
    let place = path.child("requests");
    let mut errors = each_once(claim.items("/requests"), REQUESTS_MAX, "/name", &place, request);
    errors.extend(each(claim.items("/constraints"), LIST_MAX, &path.child("constraints"), |c, p| {
        let mut errors = references(c.items("/requests"), &known, &p.child("requests"));
        match (c.at("/matchAttribute").as_str(), c.at("/distinctAttribute").as_str()) {
            (Some(text), _) => errors.extend(full_name(text, &p.child("matchAttribute"))),
            (None, Some(text)) => errors.extend(full_name(text, &p.child("distinctAttribute"))),
            (None, None) => {
                let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(FieldError::required(p, why));
            }
        }
        errors
    }));
    errors.extend(each(claim.items("/config"), LIST_MAX, &path.child("config"), |c, p| {
        let mut errors = references(c.items("/requests"), &known, &p.child("requests"));
        errors.extend(opaque(c, false, p));
        errors
    }));
    errors
}

fn request(request: &Value, path: &Path) -> FieldErrors {
    let own = request.text("/name");
    let mut errors = label(own, &path.child("name"));
    let (several, exact) = (request.items("/firstAvailable"), request.at("/exactly"));
    match (several.is_empty(), exact.is_null()) {
        (true, true) => errors.push(FieldError::required(path, ONE_OF_TWO)),
        (false, false) => {
            let why = format!("{ONE_OF_TWO}, but multiple fields are set");
            errors.push(FieldError::invalid(path, Value::Null, why));
        }
        (false, true) => {
            let place = path.child("firstAvailable");
            errors.extend(each_once(several, SUBREQUESTS_MAX, "/name", &place, |sub, p| {
                let mut errors = label(sub.text("/name"), &p.child("name"));
                errors.extend(exactly(sub, p));
                errors
            }));
        }
        (true, false) => errors.extend(exactly(exact, &path.child("exactly"))),
    }
    errors
}

fn label(text: &str, path: &Path) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    invalid(path, text, name::dns1123_label(text))
}

fn exactly(request: &Value, path: &Path) -> FieldErrors {
    let class = request.text("/deviceClassName");
    let mut errors = required(class, &path.child("deviceClassName"), name::dns1123_subdomain);
    errors.extend(selectors(request.items("/selectors"), &path.child("selectors")));
    let (mode, count) = (request.text("/allocationMode"), request.int("/count"));
    let place = path.child("count");
    match mode {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&place, count, why));
        }
        "ExactCount" if count <= 0 => errors.push(FieldError::invalid(&place, count, "must be greater than zero")),
        "All" | "ExactCount" => {}
        other => {
            let place = path.child("allocationMode");
            errors.push(FieldError::not_supported(&place, other, &["All", "ExactCount"]));
        }
    }
    let place = path.child("tolerations");
    errors.extend(each(request.items("/tolerations"), TOLERATIONS_MAX, &place, toleration));
    errors
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

fn toleration(toleration: &Value, path: &Path) -> FieldErrors {
    let (key, value) = (toleration.text("/key"), toleration.text("/value"));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(invalid(&path.child("key"), key, name::qualified_name(key)));
    }
    let place = path.child("operator");
    match toleration.text("/operator") {
        "Exists" if !value.is_empty() => {
            let why = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(&path.child("value"), value, why));
        }
        "Exists" => {}
        "Equal" => errors.extend(invalid(&path.child("value"), value, name::label_value(value))),
        "" => errors.push(FieldError::required(&place, "")),
        other => errors.push(FieldError::not_supported(&place, other, &["Equal", "Exists"])),
    }
    let effect = toleration.text("/effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(&path.child("effect"), effect, EFFECTS));
    }
    errors
}

/// Faults of a taint on a device.
pub(super) fn taint(taint: &Value, path: &Path) -> FieldErrors {
    let (key, value) = (taint.text("/key"), taint.text("/value"));
    let mut errors = invalid(&path.child("key"), key, name::qualified_name(key));
    if !value.is_empty() {
        errors.extend(invalid(&path.child("value"), value, name::label_value(value)));
    }
    let place = path.child("effect");
    match taint.text("/effect") {
        "" => errors.push(FieldError::required(&place, "")),
        effect if !EFFECTS.contains(&effect) => {
            errors.push(FieldError::not_supported(&place, effect, EFFECTS));
        }
        _ => {}
    }
    errors
}

fn selectors(list: &[Value], path: &Path) -> FieldErrors {
    each(list, LIST_MAX, path, |selector, p| {
        if !selector.has("/cel") {
            return vec![FieldError::required(&p.child("cel"), "")];
        }
        let long = selector.text("/cel/expression").len() > EXPRESSION_MAX;
        let place = p.child("cel").child("expression");
        let fault = || FieldError::too_long(&place, EXPRESSION_MAX);
        long.then(fault).into_iter().collect()
    })
}

fn opaque(config: &Value, stored: bool, path: &Path) -> FieldErrors {
    let path = path.child("opaque");
    let own = config.at("/opaque");
    if own.is_null() {
        return vec![FieldError::required(&path, "")];
    }
    let mut errors = csi_driver(own.text("/driver"), &path.child("driver"));
    errors.extend(raw(own.at("/parameters"), stored, &path.child("parameters")));
    errors
}

/// Faults of a driver's own data.
fn raw(data: &Value, stored: bool, path: &Path) -> FieldErrors {
    match data {
        Value::Null => vec![FieldError::required(path, "")],
        data if !stored && data.to_string().len() > EXPRESSION_MAX => {
            vec![FieldError::too_long(path, EXPRESSION_MAX)]
        }
        Value::Object(_) => Vec::new(),
        _ => vec![FieldError::invalid(
            path,
            "<value omitted>",
            "must be a valid JSON object",
        )],
    }
}

/// Faults of an attribute's name, with or without a domain.
pub(super) fn attribute_name(text: &str, path: &Path) -> FieldErrors {
    let identifier = |id: &str| {
        let mut errors = Vec::new();
        if id.len() > ID_MAX {
            errors.push(FieldError::too_long(path, ID_MAX));
        }
        errors.extend(invalid(path, id, name::c_identifier(id)));
        errors
    };
    let mut errors = Vec::new();
    match text.split('/').collect::<Vec<_>>()[..] {
        [id] => errors.extend(identifier(id)),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                errors.extend(csi_driver(domain, path));
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                errors.extend(identifier(id));
            }
        }
        _ => {}
    }
    errors
}

fn full_name(text: &str, path: &Path) -> FieldErrors {
    let mut errors = attribute_name(text, path);
    if !text.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, BadValue::typed(text), why));
    }
    errors
}

/// Faults of a pool's name.
pub(super) fn pool_name(text: &str, path: &Path) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if text.len() > name::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, name::SUBDOMAIN_MAX));
    }
    for part in text.split('/') {
        errors.extend(invalid(path, part, name::dns1123_subdomain(part)));
    }
    errors
}

/// Faults of conditions that a device's binding waits for.
pub(super) fn binding(holder: &Value, path: &Path) -> FieldErrors {
    const MOST: usize = 4;
    let (good, bad) = (
        holder.items("/bindingConditions"),
        holder.items("/bindingFailureConditions"),
    );
    let (good_path, bad_path) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let check = |v: &Value, p: &Path| {
        let text = v.as_str().unwrap_or_default();
        invalid(p, text, name::qualified_name(text))
    };
    let mut errors = each(good, MOST, &good_path, check);
    errors.extend(each(bad, MOST, &bad_path, check));
    for (list, path) in [(good, &good_path), (bad, &bad_path)] {
        let mut seen = BTreeSet::new();
        for (i, text) in strings(list).enumerate() {
            if !seen.insert(text) {
                errors.push(FieldError::duplicate(&path.index(i), text));
            }
            if std::ptr::eq(list, bad) && strings(good).any(|g| g == text) {
                let why = "bindingFailureConditions must not overlap with bindingConditions";
                errors.push(FieldError::invalid(&path.index(i), text, why));
            }
        }
    }
    if good.is_empty() && !bad.is_empty() {
        let why = "bindingConditions are required to use bindingFailureConditions";
        errors.push(FieldError::invalid(&good_path, holder.at("/bindingConditions"), why));
    }
    if bad.is_empty() && !good.is_empty() {
        let why = "bindingFailureConditions are required to use bindingConditions";
        errors.push(FieldError::invalid(
            &bad_path,
            holder.at("/bindingFailureConditions"),
            why,
        ));
    }
    errors
}

fn uid(text: &str, path: &Path) -> Option<FieldError> {
    let shape = |i: usize, c: u8| match i {
        8 | 13 | 18 | 23 => c == b'-',
        _ => c.is_ascii_hexdigit(),
    };
    let good = text.len() == 36 && text.bytes().enumerate().all(|(i, c)| shape(i, c));
    if !good {
        let why = format!("error validating uid: invalid UUID length: {}", text.len());
        return Some(FieldError::invalid(path, text, why));
    }
    let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    (text != text.to_lowercase()).then(|| FieldError::invalid(path, text, why))
}

fn device_id(device: &Value) -> [&str; 4] {
    ["/driver", "/pool", "/device", "/shareID"].map(|p| device.text(p))
}

fn claim_status(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status");
    let (status, before) = (new.at("/status"), old.at("/status"));
    let known = names(new.at("/spec/devices"));
    let reserved = status.items("/reservedFor");
    let place = path.child("reservedFor");
    let mut errors = each_once(reserved, RESERVED_MAX, "/uid", &place, |user, p| {
        let empty = |key: &&&str| user.get(**key).and_then(Value::as_str).is_none_or(str::is_empty);
        let keys = ["resource", "name", "uid"];
        keys.iter()
            .filter(empty)
            .map(|k| FieldError::required(&p.child(k), ""))
            .collect()
    });
    let allocation = status.at("/allocation");
    let allocated: BTreeSet<[&str; 4]> = allocation.items("/devices/results").iter().map(device_id).collect();
    let at = path.child("devices");
    let mut seen = BTreeSet::new();
    for (i, device) in status.items("/devices").iter().enumerate() {
        errors.extend(device_status(device, &allocated, &at.index(i)));
        let id = device_id(device);
        if !seen.insert(id) {
            errors.push(FieldError::duplicate(&at.index(i), shown_id(id)));
        }
    }
    if !reserved.is_empty() && allocation.is_null() {
        let why = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(&place, why));
    } else if new.has("/metadata/deletionTimestamp")
        && reserved.iter().any(|r| !before.items("/reservedFor").contains(r))
    {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(FieldError::forbidden(&place, why));
    }
    let place = path.child("allocation");
    if allocation.is_null() {
        return errors;
    }
    if before.has("/allocation") {
        if !equal_as("resource.v1.AllocationResult", allocation, before.at("/allocation")) {
            let shown = BadValue::Raw(internal::compact("AllocationResult", allocation));
            errors.push(FieldError::invalid(&place, shown, IMMUTABLE));
        }
        return errors;
    }
    let at = place.child("devices");
    errors.extend(each(
        allocation.items("/devices/results"),
        LIST_MAX,
        &at.child("results"),
        |r, p| {
            let mut errors = request_reference(r.text("/request"), &known, &p.child("request"));
            errors.extend(csi_driver(r.text("/driver"), &p.child("driver")));
            errors.extend(pool_name(r.text("/pool"), &p.child("pool")));
            errors.extend(label(r.text("/device"), &p.child("device")));
            errors.extend(binding(r, p));
            errors.extend(r.at("/shareID").as_str().and_then(|id| uid(id, &p.child("shareID"))));
            errors
        },
    ));
    errors.extend(each(
        allocation.items("/devices/config"),
        2 * LIST_MAX,
        &at.child("config"),
        |c, p| {
            let mut errors = Vec::new();
            match c.text("/source") {
                "" => errors.push(FieldError::required(&p.child("source"), "")),
                "FromClass" | "FromClaim" => {}
                other => {
                    let known = ["FromClaim", "FromClass"];
                    errors.push(FieldError::not_supported(&p.child("source"), other, &known));
                }
            }
            errors.extend(references(c.items("/requests"), &known, &p.child("requests")));
            errors.extend(opaque(c, false, p));
            errors
        },
    ));
    if allocation.has("/nodeSelector") {
        let selector = allocation.at("/nodeSelector");
        errors.extend(scheduling::node_selector(selector, false, &place.child("nodeSelector")));
    }
    errors
}

fn shown_id([driver, pool, device, share]: [&str; 4]) -> String {
    match share {
        "" => format!("{driver}/{pool}/{device}"),
        share => format!("{driver}/{pool}/{device}/{share}"),
    }
}

fn device_status(device: &Value, allocated: &BTreeSet<[&str; 4]>, path: &Path) -> FieldErrors {
    let mut errors = csi_driver(device.text("/driver"), &path.child("driver"));
    errors.extend(pool_name(device.text("/pool"), &path.child("pool")));
    errors.extend(label(device.text("/device"), &path.child("device")));
    errors.extend(
        device
            .at("/shareID")
            .as_str()
            .and_then(|id| uid(id, &path.child("shareID"))),
    );
    let id = device_id(device);
    if !allocated.contains(&id) {
        let why = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, shown_id(id), why));
    }
    let conditions = device.items("/conditions");
    errors.extend(too_many(conditions, CONDITIONS_MAX, &path.child("conditions")));
    errors.extend(meta::validate_conditions(conditions, &path.child("conditions")));
    if device.has("/data") {
        errors.extend(raw(device.at("/data"), false, &path.child("data")));
    }
    let (network, path) = (device.at("/networkData"), path.child("networkData"));
    for (key, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.get(key).and_then(Value::as_str).is_some_and(|t| t.len() > most) {
            errors.push(FieldError::too_long(&path.child(key), most));
        }
    }
    errors.extend(each_once(
        network.items("/ips"),
        ADDRESSES_MAX,
        "",
        &path.child("ips"),
        |ip, p| interface_address(ip.as_str().unwrap_or_default(), p),
    ));
    errors
}

/// Faults of an address with the length of its network: host bits may be set.
fn interface_address(text: &str, path: &Path) -> FieldErrors {
    let Some((ip, length)) = name::parse_cidr_sloppy(text) else {
        let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return vec![FieldError::invalid(path, text, why)];
    };
    let canonical = format!("{ip}/{length}");
    if canonical == text {
        return Vec::new();
    }
    let why = format!("must be in canonical form (\"{canonical}\")");
    vec![FieldError::invalid(path, text, why)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_says_what_and_how_many() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "", "allocationMode": "All", "count": 1}}, {"name": "b"}],
            "config": [{"requests": ["a", "c"], "opaque": {"driver": "d", "parameters": {}}}]}}});
        let texts: Vec<String> = (CLAIM.validate)(&claim).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                &format!("spec.devices.config[0].requests[1]: Invalid value: \"c\": {REQUEST_NAME}"),
            ]
        );
    }
}
