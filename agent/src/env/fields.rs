//! Fields of the pod and resources of its containers as text: for variables and downward API volumes.

use steersman_types::Quantity;
use steersman_types::api::core::v1::{Container, Pod};

use super::Allocatable;
use crate::pod;
use crate::quantity::{milli, value};

/// A pod with what is known about its addresses now.
pub struct PodFields<'a> {
    pub pod: &'a Pod,
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    /// cpu in thousandths, everything else in units: what a container without a limit could use.
    pub allocatable: Allocatable,
}

/// The text of a field, for instance `metadata.labels['a']` or `status.podIP`.
///
/// # Errors
/// When there is no such field for pods.
pub fn pod_field(fields: &PodFields<'_>, path: &str) -> Result<String, String> {
    let pod = fields.pod;
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.annotations" => Ok(entry(meta.annotations.as_ref(), key)),
            "metadata.labels" => Ok(entry(meta.labels.as_ref(), key)),
            _ => Err(format!("fieldPath {path:?} does not support subscript")),
        };
    }
    Ok(match path {
        "metadata.annotations" => formatted(meta.annotations.as_ref()),
        "metadata.labels" => formatted(meta.labels.as_ref()),
        "metadata.name" => pod::name(pod).into(),
        "metadata.namespace" => pod::namespace(pod).into(),
        "metadata.uid" => pod::uid(pod).into(),
        "spec.nodeName" => pod::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.podIP" => fields.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => fields.pod_ips.join(","),
        "status.hostIP" => fields.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => fields.host_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn entry(map: Option<&std::collections::BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|m| m.get(key)).cloned().unwrap_or_default()
}

/// A map as lines `key="value"`, sorted by key, values escaped as in Go.
fn formatted(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quoted(v)))
        .collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit divided by `divisor`, rounded up; without a limit, the node's.
///
/// # Errors
/// When the resource is not one that containers have.
pub fn resource_field(
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
    allocatable: &Allocatable,
) -> Result<String, String> {
    let (list, name) = match resource.split_once('.') {
        Some(("limits", name)) => (container.resources.as_ref().and_then(|r| r.limits.as_ref()), name),
        Some(("requests", name)) => (container.resources.as_ref().and_then(|r| r.requests.as_ref()), name),
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    let cpu = name == "cpu";
    let known = cpu || matches!(name, "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known {
        return Err(format!("unsupported container resource : {resource}"));
    }
    let read = |q: &Quantity| if cpu { milli(q) } else { value(q) };
    let amount = list.and_then(|l| l.get(name)).map(read);
    let fallback = || {
        if resource.starts_with("limits.") {
            allocatable.get(name).copied().unwrap_or(0)
        } else {
            0
        }
    };
    let amount = amount.filter(|a| *a > 0).unwrap_or_else(fallback);
    let unit = if cpu { 1000 } else { 1 };
    let divisor = divisor.map(read).filter(|d| *d > 0).unwrap_or(unit);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn labels_and_annotations_are_escaped_lines_or_single_entries() {
        let mut pod = Pod::default();
        pod.metadata.labels = Some(BTreeMap::from([
            ("b".into(), "x\"y".into()),
            ("a".into(), "1\n2".into()),
        ]));
        let fields = PodFields {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
            allocatable: BTreeMap::new(),
        };
        assert_eq!(
            pod_field(&fields, "metadata.labels"),
            Ok("a=\"1\\n2\"\nb=\"x\\\"y\"".into())
        );
        assert_eq!(pod_field(&fields, "metadata.labels['b']"), Ok("x\"y".into()));
        assert_eq!(pod_field(&fields, "metadata.annotations"), Ok(String::new()));
        assert!(pod_field(&fields, "spec.hostname").is_err());
    }
}
