//! Addresses and families of a Service: what may be asked for, and what may change once it is given.
//!
//! [`pair_addresses`] and [`cluster_ips`] are also called by the server, which allocates between preparation and validation.

use super::{FIXED, is_headless, kind, text};
use crate::view::{View, remove, set, strings};
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// `clusterIP` and `clusterIPs` say the same; clients that know only the first are helped (upstream:
/// `normalizeClusterIPs`).
pub fn pair_addresses(new: &mut Value, old: Option<&Value>) {
    let (one, many) = (
        new.text("/spec/clusterIP").to_owned(),
        new.at("/spec/clusterIPs").clone(),
    );
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let Some(spec) = new.get_mut("spec") else { return };
    let Some(old) = old else {
        if !one.is_empty() && none(&many) {
            set(spec, "clusterIPs", json!([one]));
        }
        return;
    };
    let (was_one, was_many) = (old.text("/spec/clusterIP"), old.at("/spec/clusterIPs"));
    let mut now_many = many;
    if !none(was_many) && none(&now_many) && was_one == one {
        now_many = was_many.clone();
        set(spec, "clusterIPs", now_many.clone());
    }
    let same_many = now_many == *was_many || (none(&now_many) && none(was_many));
    if was_one != one && same_many {
        if !was_one.is_empty() && one.is_empty() {
            remove(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([one]));
        }
    }
}

/// Faults of addresses and families; the server runs this as well, before it allocates.
pub fn cluster_ips(service: &Value, old: Option<&Value>) -> FieldErrors {
    if kind(service) == "ExternalName" {
        return Vec::new();
    }
    let path = Path::new("spec");
    let spec = service.at("/spec");
    let (single, many) = (spec.text("/clusterIP"), spec.items("/clusterIPs"));
    let (at, families_at) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let mut errors = Vec::new();
    if single.is_empty() {
        if !many.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                many,
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if many.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if many[0] != single {
        errors.push(FieldError::invalid(&at, many, "first value must match `clusterIP`"));
    }
    let families: Vec<&str> = strings(spec.items("/ipFamilies")).collect();
    for (i, family) in families.iter().enumerate() {
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(
                &families_at.index(i),
                *family,
                &["IPv4", "IPv6"],
            ));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&families_at.index(i), *family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.at("/ipFamilyPolicy").as_str().filter(|p| !policies.contains(p)) {
        errors.push(FieldError::not_supported(
            &path.child("ipFamilyPolicy"),
            policy,
            &policies,
        ));
    }
    let known: Vec<String> = old
        .map_or(&[][..], |o| o.items("/spec/clusterIPs"))
        .iter()
        .map(text)
        .collect();
    let mut broken = false;
    for (i, ip) in strings(many).enumerate() {
        let found = if i == 0 && ip == "None" {
            let alone = many.len() == 1;
            let fault = || FieldError::invalid(&at, many, "'None' must be the first and only value");
            (!alone).then(fault).into_iter().collect()
        } else {
            name::ip_legacy(&at.index(i), ip, &known)
        };
        broken |= !found.is_empty();
        errors.extend(found);
    }
    if many.len() > 2 {
        errors.push(FieldError::invalid(&at, many, "may only hold up to 2 values"));
    }
    if broken {
        return errors;
    }
    let v6 = |ip: &str| ip.contains(':');
    if many.len() > 1 {
        let count = strings(many).filter(|ip| v6(ip)).count();
        if count == 0 || count == many.len() {
            errors.push(FieldError::invalid(
                &at,
                many,
                "may specify no more than one IP for each IP family",
            ));
        }
    }
    if !is_headless(service) {
        for (i, (ip, family)) in strings(many).zip(&families).enumerate() {
            if (*family == "IPv4" && v6(ip)) || (*family == "IPv6" && !v6(ip)) {
                let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.push(FieldError::invalid(&at.index(i), ip, why));
            }
        }
    }
    errors
}

pub(super) fn address_changes(new: &Value, old: &Value) -> FieldErrors {
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" || (is_headless(new) && is_headless(old)) {
        return Vec::new();
    }
    let at = Path::new("spec").child("clusterIPs");
    let (after, before) = (new.items("/spec/clusterIPs"), old.items("/spec/clusterIPs"));
    let mut errors = Vec::new();
    let primary_moved = !before.is_empty() && !after.is_empty() && after[0] != before[0];
    if after.len() == before.len() {
        let moved = after.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b);
        errors.extend(moved.map(|(i, _)| FieldError::invalid(&at.index(i), after, FIXED)));
    } else if before.len() > after.len() {
        if after.is_empty() {
            errors.push(FieldError::invalid(
                &at.index(0),
                after,
                "primary clusterIP can not be unset",
            ));
        }
        if primary_moved {
            errors.push(FieldError::invalid(&at.index(0), after, FIXED));
        }
        errors.extend(released(new, after.len(), "clusterIP"));
    } else if primary_moved {
        errors.push(FieldError::invalid(&at.index(0), after, FIXED));
    }
    errors
}

/// A second address or family goes only with the policy that says so.
fn released(new: &Value, left: usize, what: &str) -> Option<FieldError> {
    let policy = new.at("/spec/ipFamilyPolicy");
    let path = Path::new("spec").child("ipFamilyPolicy");
    let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    (left == 1 && policy != "SingleStack").then(|| FieldError::invalid(&path, policy, why))
}

pub(super) fn family_changes(new: &Value, old: &Value) -> FieldErrors {
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" || is_headless(new) || is_headless(old) {
        return Vec::new();
    }
    // Upstream puts every fault of this list at its first element.
    let at = Path::new("spec").child("ipFamilies").index(0);
    let (after, before) = (new.items("/spec/ipFamilies"), old.items("/spec/ipFamilies"));
    let addresses = new.items("/spec/clusterIPs");
    let mut errors = Vec::new();
    let primary_moved = !before.is_empty() && !after.is_empty() && after[0] != before[0];
    if after.len() == before.len() {
        let moved = after.iter().zip(before).filter(|(a, b)| a != b);
        errors.extend(moved.map(|_| FieldError::invalid(&at, after, FIXED)));
    } else if before.len() > after.len() {
        if addresses.is_empty() {
            errors.push(FieldError::invalid(&at, after, "primary ipFamily can not be unset"));
        }
        if primary_moved {
            errors.push(FieldError::invalid(&at, addresses, FIXED));
        }
        errors.extend(released(new, after.len(), "ipFamily"));
    } else if primary_moved {
        errors.push(FieldError::invalid(&at, addresses, FIXED));
    }
    errors
}
