//! Devices asked for: classes, claims and templates of claims. Expressions in CEL are not looked into.

mod parts;
mod status;

use super::rules::{IMMUTABLE, Rules, keep_metadata, required};
use crate::pod::volumes::template_metadata;
use crate::view::{View, equal, equal_as, invalid};
use crate::{internal, meta, nothing, resources};
pub(super) use parts::{attribute_name, binding, pool_name, taint};
use parts::{full_name, label, opaque, selectors, toleration};
use serde_json::Value;
use status::claim_status;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const REQUESTS_MAX: usize = 32;
const SUBREQUESTS_MAX: usize = 8;
const LIST_MAX: usize = 32;
const TOLERATIONS_MAX: usize = 16;
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
