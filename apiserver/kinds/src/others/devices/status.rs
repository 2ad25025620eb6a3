//! What a ResourceClaim's status may say: what was allocated, for whom it is reserved, how the devices are.

use super::parts::{label, opaque, pool_name, raw};
use super::{LIST_MAX, binding, each, each_once, names, references, request_reference, too_many};
use crate::others::rules::IMMUTABLE;
use crate::pod::scheduling;
use crate::pod::volumes::csi_driver;
use crate::view::{View, equal_as};
use crate::{internal, meta};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const RESERVED_MAX: usize = 256;

const CONDITIONS_MAX: usize = 8;

const ADDRESSES_MAX: usize = 16;

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

pub(super) fn claim_status(new: &Value, old: &Value) -> FieldErrors {
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
