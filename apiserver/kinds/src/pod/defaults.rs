//! Defaults of pods and pod templates.

use super::amounts;
use super::volumes::has_source;
use crate::resources::round_up;
use crate::view::{View, child, each_mut, set, set_default, set_if_empty};
use regex::Regex;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// A pod: what a template gets, and what only a pod gets.
pub fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    template_spec(spec);
    for key in ["/containers", "/initContainers"] {
        for container in each_mut(spec, key) {
            requests_from_limits(container);
        }
    }
    // For pods alone, not for templates.
    if spec.flag("/hostNetwork") {
        for key in ["/containers", "/initContainers"] {
            for container in each_mut(spec, key) {
                for port in each_mut(container, "/ports") {
                    let own = port.int("/containerPort");
                    if port.int("/hostPort") == 0 && own != 0 {
                        set(port, "hostPort", own);
                    }
                }
            }
        }
    }
    if spec.int("/terminationGracePeriodSeconds") < 0 {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    if spec.has("/resources") {
        amounts::default_pod_level(spec);
    }
    set_default(spec, "enableServiceLinks", true);
    if let Some(status) = pod.get_mut("status") {
        pair(status, "podIP", "podIPs");
        pair(status, "hostIP", "hostIPs");
        round_amounts(status);
        for key in [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ] {
            each_mut(status, &format!("/{key}")).for_each(round_amounts);
        }
    }
}

/// What a status says of resources, rounded like what a spec says.
fn round_amounts(status: &mut Value) {
    round_up(status.get_mut("allocatedResources"));
    round_requirements(status);
}

/// `podIP` and the first of `podIPs` say the same; the older kubelet sends only the first form.
fn pair(status: &mut Value, single: &str, many: &str) {
    let one = status
        .get(single)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let first = status
        .items(&format!("/{many}"))
        .first()
        .map(|v| v.text("/ip").to_string())
        .unwrap_or_default();
    // Where they differ the older field counts.
    if many == "podIPs" && !one.is_empty() && first != one {
        set(status, many, json!([{ "ip": one }]));
    } else if one.is_empty() && !first.is_empty() && many == "podIPs" {
        set(status, single, first);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else {
        return;
    };
    let Some(limits) = resources.entries("/limits").cloned() else {
        return;
    };
    if let Some(requests) = child(resources, "requests") {
        for (key, amount) in limits {
            set_default(requests, &key, amount);
        }
    }
}

/// The spec inside a template.
pub fn template_spec(spec: &mut Value) {
    set_if_empty(spec, "dnsPolicy", "ClusterFirst");
    set_if_empty(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_if_empty(spec, "schedulerName", "default-scheduler");
    // The old name of the field lives on in both forms.
    let (new, old) = (
        spec.text("/serviceAccountName").to_string(),
        spec.text("/serviceAccount").to_string(),
    );
    if !new.is_empty() {
        set(spec, "serviceAccount", new);
    } else if !old.is_empty() {
        set(spec, "serviceAccountName", old);
    }
    each_mut(spec, "/volumes").for_each(volume);
    round_up(spec.get_mut("overhead"));
    round_requirements(spec);
    for key in ["/containers", "/initContainers", "/ephemeralContainers"] {
        each_mut(spec, key).for_each(container);
    }
}

/// Bytes of an image's name without tag.
const NAME_MAX: usize = 255;

/// `Always` for images with tag `latest` or without one, otherwise `IfNotPresent`; also for what is no image reference.
fn pull_policy(image: &str) -> &'static str {
    match tag(image) {
        Some("latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// The tag of an image reference, `latest` when it has neither tag nor digest; `None` for anything else.
fn tag(image: &str) -> Option<&str> {
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
        let host = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])";
        let part = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[[:xdigit:]]{32,}";
        let whole = format!(
            r"^(?:{host}(?::[0-9]+)?/)?({part}(?:/{part})*)(?::([0-9A-Za-z_][0-9A-Za-z_.-]{{0,127}}))?(@{digest})?$"
        );
        // The pattern is fixed: a test runs it.
        Regex::new(&whole).expect("pattern of image references")
    });
    // What precedes the first slash is a host only if it looks like one.
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let host = first == "localhost" || first.contains(['.', ':']) || first != first.to_lowercase();
    let remainder = if host { rest } else { image };
    let name = remainder.split(':').next().unwrap_or_default();
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if name != name.to_lowercase() || (image.len() == 64 && image.bytes().all(hex)) {
        return None;
    }
    let library = if image.contains('/') { 0 } else { "library/".len() };
    let found = REFERENCE.captures(image)?;
    if found.get(1).is_some_and(|n| n.len() + library > NAME_MAX) {
        return None;
    }
    match (found.get(2), found.get(3)) {
        (Some(tag), _) => Some(tag.as_str()),
        (None, None) => Some("latest"),
        (None, Some(_)) => None,
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(container.text("/image"));
    set_if_empty(container, "imagePullPolicy", policy);
    set_if_empty(container, "terminationMessagePath", "/dev/termination-log");
    set_if_empty(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    round_requirements(container);
    for port in each_mut(container, "/ports") {
        set_if_empty(port, "protocol", "TCP");
    }
    for var in each_mut(container, "/env") {
        if let Some(selector) = var.pointer_mut("/valueFrom/fieldRef") {
            set_if_empty(selector, "apiVersion", "v1");
        }
        if let Some(selector) = var.pointer_mut("/valueFrom/resourceFieldRef") {
            set_default(selector, "divisor", "0");
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key).filter(|p| p.is_object()) {
            for (field, number) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if probe.get(field).and_then(Value::as_i64).unwrap_or_default() == 0 {
                    set(probe, field, number);
                }
            }
            http_get(probe);
            if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
                set_default(grpc, "service", "");
            }
        }
    }
    for key in ["postStart", "preStop"] {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{key}")) {
            http_get(hook);
        }
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|g| g.is_object()) {
        set_if_empty(get, "path", "/");
        set_if_empty(get, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    if !has_source(volume) {
        set(volume, "emptyDir", json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(key).filter(|s| s.is_object()) {
            set_default(source, "defaultMode", 0o644);
            each_mut(source, "/items").for_each(downward_item);
        }
    }
    for source in each_mut(volume, "/projected/sources") {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            set_default(token, "expirationSeconds", 3600);
        }
        each_mut(source, "/downwardAPI/items").for_each(downward_item);
    }
    if let Some(host) = volume.get_mut("hostPath").filter(|h| h.is_object()) {
        set_default(host, "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(image.text("/reference"));
        set_if_empty(image, "pullPolicy", policy);
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        set_default(spec, "volumeMode", "Filesystem");
        round_requirements(spec);
    }
}

/// Rounds what `holder` asks for under `resources`.
pub fn round_requirements(holder: &mut Value) {
    if let Some(resources) = holder.get_mut("resources") {
        round_up(resources.get_mut("limits"));
        round_up(resources.get_mut("requests"));
    }
}

fn downward_item(item: &mut Value) {
    if let Some(selector) = item.get_mut("fieldRef").filter(|s| s.is_object()) {
        set_if_empty(selector, "apiVersion", "v1");
    }
    if let Some(selector) = item.get_mut("resourceFieldRef").filter(|s| s.is_object()) {
        set_default(selector, "divisor", "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_from_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1@sha256:abc", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_pod_gets_upstreams_defaults() {
        let mut value = json!({"spec": {"hostNetwork": true, "volumes": [{"name": "v"}], "containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}}}]}});
        pod(&mut value);
        let spec = &value["spec"];
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(
            spec["containers"][0]["ports"][0],
            json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
        );
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["enableServiceLinks"], true);
    }
}
