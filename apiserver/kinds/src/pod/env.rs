//! Environment variables of containers, and the selectors they share with volumes of the downward API.

use super::volumes::no_backsteps;
use crate::resources::quantity;
use crate::view::{View, invalid};
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, quote};
use steersman_schema::name;

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const DIVISORS: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];
const MORE: &str = "may not have more than one field specified at a time";

/// Faults of `env`.
pub fn validate(vars: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        match var.text("/name") {
            "" => errors.push(FieldError::required(&path.child("name"), "")),
            own => errors.extend(invalid(&path.child("name"), own, name::relaxed_env_var(own))),
        }
        if var.has("/valueFrom") {
            errors.extend(value_from(var, &path.child("valueFrom")));
        }
    }
    errors
}

fn value_from(var: &Value, path: &Path) -> FieldErrors {
    let from = var.at("/valueFrom");
    let mut errors = Vec::new();
    let mut count = 0;
    let mut each = |key: &str, rule: &dyn Fn(&Value, &Path) -> FieldErrors| {
        if let Some(source) = from.get(key).filter(|v| !v.is_null()) {
            count += 1;
            errors.extend(rule(source, &path.child(key)));
        }
    };
    each("fieldRef", &|s, p| field_ref(s, FIELDS, p));
    each("resourceFieldRef", &|s, p| resource_ref(s, p, false));
    each("configMapKeyRef", &key_ref);
    each("secretKeyRef", &key_ref);
    each("fileKeyRef", &file_ref);
    if count == 0 {
        let why =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", why));
    } else if !var.text("/value").is_empty() {
        errors.push(FieldError::invalid(
            path,
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if count > 1 {
        errors.push(FieldError::invalid(path, "", MORE));
    }
    errors
}

/// `path['key']`.
fn subscripted(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix("']")?
        .split_once("['")
        .filter(|(path, _)| !path.is_empty())
}

/// Faults of a selector of one of the pod's own fields.
pub fn field_ref(selector: &Value, fields: &[&str], path: &Path) -> FieldErrors {
    let (version, field) = (selector.text("/apiVersion"), selector.text("/fieldPath"));
    if version.is_empty() {
        return vec![FieldError::required(&path.child("apiVersion"), "")];
    }
    let place = path.child("fieldPath");
    if field.is_empty() {
        return vec![FieldError::required(&place, "")];
    }
    let fault = |why: String| {
        vec![FieldError::invalid(
            &place,
            field,
            format!("error converting fieldPath: {why}"),
        )]
    };
    if version != "v1" {
        return fault(format!("unsupported pod version: {version}"));
    }
    if let Some((base, key)) = subscripted(field) {
        return match base {
            "metadata.annotations" => invalid(path, &key.to_lowercase(), name::qualified_name(&key.to_lowercase())),
            "metadata.labels" => invalid(path, key, name::qualified_name(key)),
            _ => fault(format!("field label does not support subscript: {field}")),
        };
    }
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
    ];
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    if fields.contains(&field) {
        Vec::new()
    } else if KNOWN.contains(&field) || FIELDS.contains(&field) {
        vec![FieldError::not_supported(&place, field, fields)]
    } else {
        fault(format!("field label not supported: {field}"))
    }
}

/// Faults of a selector of a container's resources. `volume` says that it must name the container.
pub fn resource_ref(selector: &Value, path: &Path, volume: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let resource = selector.text("/resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && selector.text("/containerName").is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        let shown = BadValue::Raw(quote(resource));
        errors.push(FieldError::not_supported(&path.child("resource"), shown, RESOURCES));
    }
    let divisor = quantity(selector.text("/divisor"));
    if selector.has("/divisor") && !divisor.is_zero() {
        let shown = divisor.to_string();
        let many = |what: &str| {
            let list = DIVISORS.join(", ");
            format!("only divisor's values {list} are supported with the {what} resource")
        };
        let (good, why) = match resource {
            "limits.cpu" | "requests.cpu" => (
                matches!(shown.as_str(), "1m" | "1"),
                "only divisor's values 1m and 1 are supported with the cpu resource".to_string(),
            ),
            "limits.memory" | "requests.memory" => (DIVISORS.contains(&shown.as_str()), many("memory")),
            "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
                (DIVISORS.contains(&shown.as_str()), many("local ephemeral storage"))
            }
            _ if huge => (DIVISORS.contains(&shown.as_str()), many("hugepages")),
            _ => (true, String::new()),
        };
        if !good {
            errors.push(FieldError::invalid(&path.child("divisor"), resource, why));
        }
    }
    errors
}

fn key_ref(selector: &Value, path: &Path) -> FieldErrors {
    let own = selector.text("/name");
    let mut errors = invalid(&path.child("name"), own, name::dns1123_subdomain(own));
    match selector.text("/key") {
        "" => errors.push(FieldError::required(&path.child("key"), "")),
        key => errors.extend(invalid(&path.child("key"), key, name::config_map_key(key))),
    }
    errors
}

fn file_ref(selector: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    match selector.text("/key") {
        "" => errors.push(FieldError::required(&path.child("key"), "")),
        key => errors.extend(invalid(&path.child("key"), key, name::relaxed_env_var(key))),
    }
    match selector.text("/volumeName") {
        "" => errors.push(FieldError::required(&path.child("volumeName"), "")),
        volume => errors.extend(invalid(&path.child("volumeName"), volume, name::dns1123_label(volume))),
    }
    match selector.text("/path") {
        "" => errors.push(FieldError::required(&path.child("path"), "")),
        target => errors.extend(no_backsteps(target, &path.child("path"))),
    }
    errors
}

/// Faults of `envFrom`.
pub fn validate_from(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, from) in list.iter().enumerate() {
        let at = path.index(i);
        let prefix = from.text("/prefix");
        if !prefix.is_empty() {
            errors.extend(invalid(&at.child("prefix"), prefix, name::relaxed_env_var(prefix)));
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            let Some(source) = from.get(key).filter(|v| !v.is_null()) else {
                continue;
            };
            count += 1;
            let place = at.child(key).child("name");
            match source.text("/name") {
                "" => errors.push(FieldError::required(&place, "")),
                own => errors.extend(invalid(&place, own, crate::meta::name_subdomain(own, true))),
            }
        }
        if count == 0 {
            errors.push(FieldError::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ));
        } else if count > 1 {
            errors.push(FieldError::invalid(path, "", MORE));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_have_upstreams_words() {
        let path = Path::new("env");
        let texts = |e: FieldErrors| e.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (var, want) in [
            (json!({}), "env[0].name: Required value"),
            (
                json!({"name": "a=b"}),
                "env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ),
            (
                json!({"name": "a", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ),
            (
                json!({"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}}),
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ),
            (
                json!({"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "x"}}}),
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"x\": error converting fieldPath: field label not supported: x",
            ),
        ] {
            assert_eq!(texts(validate(&[var], &path)), [want]);
        }
        let good = json!({"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['a/b']"}}});
        assert!(validate(&[good], &path).is_empty());
    }
}
