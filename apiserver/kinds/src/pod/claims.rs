//! What a pod's status says of devices and other resources that its containers were given.

use crate::view::{View, invalid};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const MESSAGE_MAX: usize = 1024;
const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];

/// Faults of the claim made for extended resources, and of its mappings to containers.
pub(super) fn extended(status: &Value, spec: &Value, path: &Path) -> FieldErrors {
    let claim = status.at("/extendedResourceClaimStatus");
    if claim.is_null() {
        return Vec::new();
    }
    let path = path.child("extendedResourceClaimStatus");
    let mut errors = Vec::new();
    let mappings = claim.items("/requestMappings");
    let place = path.child("requestMappings");
    if mappings.is_empty() {
        errors.push(FieldError::required(&place, "at least one request mapping is required"));
    }
    let mut seen = BTreeSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let at = place.index(i);
        let [container, resource, request] =
            ["/containerName", "/resourceName", "/requestName"].map(|p| mapping.text(p));
        let mut all = spec.items("/containers").iter().chain(spec.items("/initContainers"));
        match all.find(|c| c.text("/name") == container) {
            None => {
                let why = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.push(FieldError::invalid(&at.child("containerName"), container, why));
            }
            Some(found)
                if !found
                    .entries("/resources/requests")
                    .is_some_and(|r| r.contains_key(resource)) =>
            {
                let why = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.push(FieldError::invalid(&at.child("resourceName"), resource, why));
            }
            Some(_) => {}
        }
        errors.extend(invalid(
            &path.child("requestName"),
            request,
            name::dns1123_label(request),
        ));
        if !seen.insert((container, resource, request)) {
            for (key, value) in [
                ("containerName", container),
                ("resourceName", resource),
                ("requestName", request),
            ] {
                errors.push(FieldError::duplicate(&at.child(key), value));
            }
        }
    }
    let (own, place) = (claim.text("/resourceClaimName"), path.child("resourceClaimName"));
    if own.is_empty() {
        errors.push(FieldError::required(&place, ""));
    } else {
        errors.extend(invalid(&place, own, name::dns1123_subdomain(own)));
    }
    errors
}

/// Faults of the health of resources that containers have. Ephemeral containers have none.
pub(super) fn health(status: &Value, spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, list) in [
        ("containerStatuses", "/containers"),
        ("initContainerStatuses", "/initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        for (i, container) in status.items(&format!("/{key}")).iter().enumerate() {
            let path = path.child(key).index(i).child("allocatedResourcesStatus");
            let resources = container.items("/allocatedResourcesStatus");
            if list.is_empty() {
                if !resources.is_empty() {
                    let why = "must not be specified in container status";
                    errors.push(FieldError::forbidden(&path, why));
                }
                continue;
            }
            let named = |c: &&Value| c.text("/name") == container.text("/name");
            let wanted = spec.items(list).iter().find(named);
            for (j, resource) in resources.iter().enumerate() {
                errors.extend(one(resource, wanted, &path.index(j)));
            }
        }
    }
    errors
}

fn one(resource: &Value, container: Option<&Value>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let own = resource.text("/name");
    if let Some(container) = container {
        let (found, why) = if own.starts_with("claim:") {
            let full = |claim: &Value| match claim.text("/request") {
                "" => format!("claim:{}", claim.text("/name")),
                request => format!("claim:{}/{request}", claim.text("/name")),
            };
            let why = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
            (container.items("/resources/claims").iter().any(|c| full(c) == own), why)
        } else {
            let requests = container.entries("/resources/requests");
            let why = "must match one of the container's resource requests";
            (requests.is_some_and(|r| r.contains_key(own)), why)
        };
        if !found {
            errors.push(FieldError::invalid(&path.child("name"), own, why));
        }
    }
    let mut ids = BTreeSet::new();
    for (k, unit) in resource.items("/resources").iter().enumerate() {
        let path = path.child("resources").index(k);
        let state = unit.text("/health");
        if !HEALTH.contains(&state) {
            errors.push(FieldError::not_supported(&path.child("health"), state, HEALTH));
        }
        match unit.at("/message").as_str() {
            Some("") => {
                let why = "must be non-empty if specified";
                errors.push(FieldError::required(&path.child("message"), why));
            }
            Some(text) if text.len() > MESSAGE_MAX => {
                errors.push(FieldError::too_long(&path.child("message"), MESSAGE_MAX));
            }
            _ => {}
        }
        let id = unit.text("/resourceID");
        if !ids.insert(id) {
            errors.push(FieldError::duplicate(&path.child("resourceID"), id));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn health_is_of_resources_that_were_asked_for() {
        let spec = json!({"containers": [{"name": "c", "resources": {"claims": [{"name": "g"}]}}]});
        let health_of =
            |name: &str| json!({"containerStatuses": [{"name": "c", "allocatedResourcesStatus": [{"name": name}]}]});
        assert!(health(&health_of("claim:g"), &spec, &Path::new("status")).is_empty());
        assert_eq!(health(&health_of("cpu"), &spec, &Path::new("status")).len(), 1);
    }
}
