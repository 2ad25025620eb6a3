//! What is allowed in a pod but probably not meant.

use super::containers::all;
use super::{APP_ARMOR, MIRROR, SECCOMP_CONTAINER, SECCOMP_POD};
use crate::resources::quantity;
use crate::view::{View, strings};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{Path, quote};
use steersman_schema::name;

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Why a label of nodes should not be used any more.
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

/// Warnings about a new pod.
pub fn pod(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let faults = name::dns1123_label(pod.text("/metadata/name"));
    if !faults.is_empty() {
        warnings.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]", faults.join(" ")));
    }
    warnings.extend(of(pod.at("/metadata"), pod.at("/spec"), &Path::default(), false));
    debug_assert!(!MIRROR.is_empty());
    warnings
}

/// Warnings about a template.
pub fn template(template: &Value, path: &Path) -> Vec<String> {
    of(template.at("/metadata"), template.at("/spec"), path, true)
}

fn of(metadata: &Value, spec: &Value, path: &Path, is_template: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let at = path.child("spec");
    placement(spec, &at, &mut warnings);
    let place = path.child("metadata").child("annotations");
    annotations(metadata.at("/annotations"), spec, &place, is_template, &mut warnings);
    volumes(spec.items("/volumes"), &at.child("volumes"), &mut warnings);
    repeated(
        spec.items("/hostAliases"),
        "ip",
        &at.child("hostAliases"),
        &mut warnings,
    );
    let secrets = spec.items("/imagePullSecrets");
    repeated(secrets, "name", &at.child("imagePullSecrets"), &mut warnings);
    for (i, _) in secrets.iter().enumerate().filter(|(_, s)| s.text("/name").is_empty()) {
        warnings.push(format!(
            "{}: invalid empty name \"\"",
            at.child("imagePullSecrets").index(i).child("name")
        ));
    }
    fractions(spec.at("/overhead"), &at.child("overhead"), &mut warnings);
    for (container, at) in all(spec, &at) {
        for which in ["limits", "requests"] {
            let place = at.child("resources").child(which);
            fractions(container.at(&format!("/resources/{which}")), &place, &mut warnings);
        }
        environment(container.items("/env"), &at.child("env"), &mut warnings);
    }
    ports(spec, &at, &mut warnings);
    if spec.int("/terminationGracePeriodSeconds") < 0 {
        let place = at.child("terminationGracePeriodSeconds");
        warnings.push(format!(
            "{place}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    null_selectors(spec, &at, &mut warnings);
    for (i, server) in strings(spec.items("/dnsConfig/nameservers")).enumerate() {
        warnings.extend(name::ip_warnings(
            &at.child("dnsConfig").child("nameservers").index(i),
            server,
        ));
    }
    for (i, alias) in spec.items("/hostAliases").iter().enumerate() {
        warnings.extend(name::ip_warnings(
            &at.child("hostAliases").index(i).child("ip"),
            alias.text("/ip"),
        ));
    }
    warnings
}

fn placement(spec: &Value, at: &Path, warnings: &mut Vec<String>) {
    for (key, _) in spec.entries("/nodeSelector").into_iter().flatten() {
        if let Some(why) = deprecated_node_label(key) {
            warnings.push(format!("{}: {why}", at.child("nodeSelector").key(key)));
        }
    }
    let affinity = at.child("affinity").child("nodeAffinity");
    let mut term = |term: &Value, values: bool, at: &Path| {
        for (i, expression) in term.items("/matchExpressions").iter().enumerate() {
            let at = at.child("matchExpressions").index(i);
            let key = expression.text("/key");
            if let Some(why) = deprecated_node_label(key) {
                warnings.push(format!("{}: {key} is {why}", at.child("key")));
            }
            for (j, value) in strings(expression.items("/values")).enumerate().filter(|_| values) {
                for fault in name::label_value(value) {
                    warnings.push(format!("{}: {value} is invalid, {fault}", at.child("values").index(j)));
                }
            }
        }
    };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let terms = spec.items(&format!("/affinity/nodeAffinity/{required}/nodeSelectorTerms"));
    for (i, t) in terms.iter().enumerate() {
        term(t, false, &affinity.child(required).child("nodeSelectorTerms").index(i));
    }
    for (i, t) in spec
        .items(&format!("/affinity/nodeAffinity/{preferred}"))
        .iter()
        .enumerate()
    {
        term(
            t.at("/preference"),
            true,
            &affinity.child(preferred).index(i).child("preference"),
        );
    }
    for (i, constraint) in spec.items("/topologySpreadConstraints").iter().enumerate() {
        let at = at.child("topologySpreadConstraints").index(i);
        let key = constraint.text("/topologyKey");
        if let Some(why) = deprecated_node_label(key) {
            warnings.push(format!("{}: {key} is {why}", at.child("topologyKey")));
        }
        if !constraint.has("/labelSelector") {
            warnings.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

fn annotations(map: &Value, spec: &Value, at: &Path, is_template: bool, warnings: &mut Vec<String>) {
    let sysctls = r#"non-functional in v1.11+; use the "sysctls" field instead"#;
    for (key, why) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
        ),
        ("security.alpha.kubernetes.io/sysctls", sysctls),
        ("security.alpha.kubernetes.io/unsafe-sysctls", sysctls),
    ] {
        if map.get(key).is_some() {
            warnings.push(format!("{}: {why}", at.key(key)));
        }
    }
    let seccomp = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
    if !spec.has("/securityContext/seccompProfile") && map.get(SECCOMP_POD).is_some() {
        warnings.push(format!("{}: {seccomp}", at.key(SECCOMP_POD)));
    }
    for (container, _) in all(spec, &Path::default()) {
        let own = container.text("/name");
        let key = format!("{SECCOMP_CONTAINER}{own}");
        if !container.has("/securityContext/seccompProfile") && map.get(&key).is_some() {
            warnings.push(format!("{}: {seccomp}", at.key(&key)));
        }
        let key = format!("{APP_ARMOR}{own}");
        let told = container.has("/securityContext/appArmorProfile") || spec.has("/securityContext/appArmorProfile");
        if is_template && !told && map.get(&key).is_some() {
            let why = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
            warnings.push(format!("{}: {why}", at.key(&key)));
        }
    }
}

fn volumes(list: &[Value], at: &Path, warnings: &mut Vec<String>) {
    const OLD: &[(&str, &str, &str)] = &[
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (
            "gitRepo",
            "gitRepo",
            "deprecated in v1.11, and disabled by default in v1.33+",
        ),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
        (
            "storageos",
            "storageOS",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        (
            "glusterfs",
            "glusterfs",
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (i, volume) in list.iter().enumerate() {
        for (key, shown, why) in OLD {
            if volume.get(*key).is_some_and(|v| !v.is_null()) {
                warnings.push(format!("{}: {why}", at.index(i).child(shown)));
            }
        }
        let place = at
            .index(i)
            .child("ephemeral")
            .child("volumeClaimTemplate")
            .child("spec")
            .child("resources");
        for key in ["requests", "limits"] {
            let amounts = volume
                .at("/ephemeral/volumeClaimTemplate/spec/resources")
                .at(&format!("/{key}"));
            fraction(amounts, "storage", &place.child(key), warnings);
        }
    }
    list.iter().for_each(|v| overlapping_files(v, warnings));
}

/// Files that one volume would write to the same place, or one below another.
fn overlapping_files(volume: &Value, warnings: &mut Vec<String>) {
    let own = quote(volume.text("/name"));
    let paths = |items: &[Value]| -> Vec<String> { items.iter().map(|i| i.text("/path").to_owned()).collect() };
    for (key, name, shown) in [
        ("/configMap", "/name", "ConfigMap"),
        ("/secret", "/secretName", "Secret"),
        ("/downwardAPI", "", "DownwardAPI"),
    ] {
        let source = volume.at(key);
        let shown = match name {
            "" => shown.to_owned(),
            _ => format!("{shown} {}", quote(source.text(name))),
        };
        let mut files = Files::default();
        for path in paths(source.items("/items")) {
            for clash in files.add(path, String::new()) {
                warnings.push(format!("volume {own} ({shown}): overlapping paths: {clash}"));
            }
        }
    }
    let mut files = Files::default();
    for source in volume.items("/projected/sources") {
        if source.as_object().is_some_and(serde_json::Map::is_empty) {
            warnings.push(format!("volume {own} (Projected) has no sources provided"));
            continue;
        }
        let named = |kind: &str, key: &str| format!("{kind} {}", quote(source.at(key).text("/name")));
        let (shown, found) = if !source.items("/configMap/items").is_empty() {
            (
                named("ConfigMap", "/configMap"),
                paths(source.items("/configMap/items")),
            )
        } else if !source.items("/secret/items").is_empty() {
            (named("Secret", "/secret"), paths(source.items("/secret/items")))
        } else if !source.items("/downwardAPI/items").is_empty() {
            ("DownwardAPI".to_owned(), paths(source.items("/downwardAPI/items")))
        } else if source.has("/serviceAccountToken") {
            let path = source.text("/serviceAccountToken/path").to_owned();
            ("ServiceAccountToken".to_owned(), vec![path])
        } else {
            continue;
        };
        for path in found {
            for clash in files.add(path, shown.clone()) {
                warnings.push(format!("volume {own} (Projected): overlapping paths: {clash}"));
            }
        }
    }
}

/// Files of one volume: path and where it comes from.
#[derive(Default)]
struct Files(Vec<(String, String)>);

impl Files {
    /// Adds a file; the clashes with those before it, as upstream words them.
    fn add(&mut self, path: String, source: String) -> Vec<String> {
        let shown = |path: &str, source: &str| match source {
            "" => quote(path),
            _ => format!("{} ({source})", quote(path)),
        };
        let path = path.trim_end_matches('/').to_owned();
        let below = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
        let clashes = self
            .0
            .iter()
            .filter(|(p, _)| !path.is_empty() && !p.is_empty() && (below(p, &path) || below(&path, p)))
            .map(|(p, s)| format!("{} with {}", shown(&path, &source), shown(p, s)))
            .collect();
        self.0.push((path, source));
        clashes
    }
}

fn repeated(list: &[Value], key: &str, at: &Path, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let own = item.get(key).and_then(Value::as_str).unwrap_or_default();
        if !seen.insert(own) {
            warnings.push(format!("{}: duplicate {key} {}", at.index(i).child(key), quote(own)));
        }
    }
}

fn fractions(amounts: &Value, at: &Path, warnings: &mut Vec<String>) {
    for key in ["memory", "ephemeral-storage"] {
        fraction(amounts, key, at, warnings);
    }
}

fn fraction(amounts: &Value, key: &str, at: &Path, warnings: &mut Vec<String>) {
    let Some(amount) = amounts.get(key).and_then(Value::as_str).map(quantity) else {
        return;
    };
    if !amount.is_integer() {
        let shown = quote(&amount.to_string());
        warnings.push(format!(
            "{}: fractional byte value {shown} is invalid, must be an integer",
            at.key(key)
        ));
    }
}

fn environment(vars: &[Value], at: &Path, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, var) in vars.iter().enumerate() {
        let own = var.text("/name");
        if seen.insert(own) {
            continue;
        }
        let reference = format!("$({own})");
        let value = var.text("/value");
        if var.has("/valueFrom") || value == reference || !value.contains(&reference) {
            let place = at.index(i);
            let shown = quote(own);
            warnings.push(format!(
                "{place}: hides previous definition of {shown}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(spec: &Value, at: &Path, warnings: &mut Vec<String>) {
    let mut numbers: BTreeMap<(i64, &str), Vec<(Path, &Value)>> = BTreeMap::new();
    for (container, at) in all(spec, at) {
        for (i, port) in container.items("/ports").iter().enumerate() {
            let at = at.child("ports").index(i);
            let (ip, host) = (port.text("/hostIP"), port.int("/hostPort"));
            if !ip.is_empty() && host == 0 {
                let shown = format!(
                    "{{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                    port.text("/name"),
                    port.int("/containerPort"),
                    port.text("/protocol")
                );
                warnings.push(format!("{at}: hostIP set without hostPort: {shown}"));
            }
            let others = numbers
                .entry((port.int("/containerPort"), port.text("/protocol")))
                .or_default();
            for (other_at, other) in others.iter() {
                let (other_ip, other_host) = (other.text("/hostIP"), other.int("/hostPort"));
                if ip == other_ip && host == other_host {
                    warnings.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if host == 0 || other_host == 0 {
                    warnings.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    warnings.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            others.push((at, port));
        }
    }
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    for (container, at) in all(spec, at) {
        for (i, port) in container.items("/ports").iter().enumerate() {
            let (own, at) = (port.text("/name"), at.child("ports").index(i));
            if own.is_empty() {
                continue;
            }
            match names.get(own) {
                Some(other) => warnings.push(format!("{at}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}", quote(own))),
                None => {
                    names.insert(own, at);
                }
            }
        }
    }
}

fn null_selectors(spec: &Value, at: &Path, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "/podAffinityTerm"),
        ] {
            for (i, term) in spec.items(&format!("/affinity/{kind}/{list}")).iter().enumerate() {
                if term.pointer(inner).is_some_and(|t| !t.has("/labelSelector")) {
                    let mut place = at.child("affinity").child(kind).child(list).index(i);
                    if !inner.is_empty() {
                        place = place.child("podAffinityTerm");
                    }
                    warnings.push(format!("{}: {NULL_SELECTOR}", place.child("labelSelector")));
                }
            }
        }
    }
}
