//! The whole pod spec, as pods and templates share it.

use super::containers::{self, Rules, Surroundings, all};
use super::{Options, amounts, scheduling, security, volumes};
use crate::priorityclass::preemption_policy;
use crate::resources::{self, quantity};
use crate::view::{View, invalid, strings};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const SEARCHES_MAX: usize = 32;
const SEARCH_LETTERS_MAX: usize = 2048;
const NAMESERVERS_MAX: usize = 3;
/// Resources that a pod may ask for as a whole.
const POD_LEVEL: &[&str] = &["cpu", "hugepages-", "memory"];

/// Faults of a spec. `metadata` is the pod's; null for templates.
pub fn validate(spec: &Value, metadata: &Value, path: &Path, options: Options) -> FieldErrors {
    let mut errors = Vec::new();
    if !spec.has("/terminationGracePeriodSeconds") {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let (good, found) = volumes::validate(
        spec.items("/volumes"),
        metadata.text("/name"),
        &path.child("volumes"),
        options,
    );
    errors.extend(found);
    let mirror = metadata
        .entries("/annotations")
        .is_some_and(|a| a.contains_key(super::MIRROR));
    errors.extend(volumes::resource_claims(
        spec.items("/resourceClaims"),
        mirror,
        &path.child("resourceClaims"),
    ));
    let around = Surroundings {
        spec,
        volumes: good,
        claims: volumes::claim_names(spec),
        options,
    };
    errors.extend(containers::regular(&around, &path.child("containers")));
    errors.extend(containers::init(&around, &path.child("initContainers")));
    errors.extend(containers::ephemeral(&around, &path.child("ephemeralContainers")));
    errors.extend(pod_resources(spec, &around.claims, path, options));
    errors.extend(host_network_ports(spec, path, options));
    errors.extend(one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path));
    errors.extend(one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        path,
    ));
    errors.extend(scheduling::node_labels(
        spec.at("/nodeSelector"),
        &path.child("nodeSelector"),
    ));
    errors.extend(security::pod(spec, &path.child("securityContext"), options));
    errors.extend(pull_secrets(
        spec.items("/imagePullSecrets"),
        &path.child("imagePullSecrets"),
    ));
    errors.extend(scheduling::affinity(
        spec.at("/affinity"),
        options,
        &path.child("affinity"),
    ));
    errors.extend(dns(spec, &path.child("dnsConfig")));
    for (i, gate) in spec.items("/readinessGates").iter().enumerate() {
        let (kind, place) = (
            gate.text("/conditionType"),
            path.child("readinessGates").index(i).child("conditionType"),
        );
        errors.extend(invalid(&place, kind, name::qualified_name(kind)));
    }
    errors.extend(scheduling::gates(
        spec.items("/schedulingGates"),
        &path.child("schedulingGates"),
    ));
    let place = path.child("topologySpreadConstraints");
    errors.extend(scheduling::spread(
        spec.items("/topologySpreadConstraints"),
        options,
        &place,
    ));
    errors.extend(security::host_process(spec, path));
    errors.extend(host_users(spec, path, options));
    errors.extend(hostname_override(spec, path));
    errors.extend(named(spec, path));
    errors.extend(scheduling::tolerations(
        spec.items("/tolerations"),
        &path.child("tolerations"),
    ));
    errors.extend(host_aliases(spec.items("/hostAliases"), &path.child("hostAliases")));
    for key in ["priorityClassName", "runtimeClassName"] {
        let own = spec.get(key).and_then(Value::as_str);
        if let Some(own) = own.filter(|t| key == "runtimeClassName" || !t.is_empty()) {
            errors.extend(invalid(&path.child(key), own, name::dns1123_subdomain(own)));
        }
    }
    if spec.has("/preemptionPolicy") {
        errors.extend(preemption_policy(
            spec.text("/preemptionPolicy"),
            &path.child("preemptionPolicy"),
        ));
    }
    if spec.has("/overhead") {
        let none = BTreeSet::new();
        let rules = Rules {
            name: resources::validate_container_name,
            claims: &none,
            options,
        };
        let as_limits = json!({ "limits": spec.at("/overhead") });
        errors.extend(containers::requirements(&as_limits, &rules, &path.child("overhead")));
    }
    if spec.has("/os") {
        errors.extend(security::operating_system(spec, path));
    }
    errors.extend(file_volumes(spec, path));
    errors
}

/// The fault of a required word that is none of `known`.
fn one_of(spec: &Value, key: &str, known: &[&str], path: &Path) -> Option<FieldError> {
    let place = path.child(key);
    match spec.get(key).and_then(Value::as_str).unwrap_or_default() {
        "" => Some(FieldError::required(&place, "")),
        text if known.contains(&text) => None,
        text => Some(FieldError::not_supported(&place, text, known)),
    }
}

fn named(spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["serviceAccountName", "nodeName"] {
        let own = spec.get(key).and_then(Value::as_str).unwrap_or_default();
        if !own.is_empty() {
            errors.extend(invalid(&path.child(key), own, name::dns1123_subdomain(own)));
        }
    }
    let most = i64::from(i32::MAX);
    let deadline = spec.at("/activeDeadlineSeconds").as_i64();
    if let Some(seconds) = deadline.filter(|s| !(1..=most).contains(s)) {
        let place = path.child("activeDeadlineSeconds");
        errors.push(FieldError::invalid(&place, seconds, name::inclusive_range(1, most)));
    }
    for key in ["hostname", "subdomain"] {
        let own = spec.get(key).and_then(Value::as_str).unwrap_or_default();
        if !own.is_empty() {
            errors.extend(invalid(&path.child(key), own, name::dns1123_label(own)));
        }
    }
    errors
}

fn pod_resources(spec: &Value, claims: &BTreeSet<&str>, path: &Path, options: Options) -> FieldErrors {
    let own = spec.at("/resources");
    let path = path.child("resources");
    if own.is_null() {
        return Vec::new();
    }
    if spec.text("/os/name") == "windows" {
        return vec![FieldError::forbidden(&path, "may not be set for a windows pod")];
    }
    let mut errors = Vec::new();
    if own.has("/claims") {
        let why = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), why));
    }
    let rules = Rules {
        name: pod_level_name,
        claims,
        options,
    };
    errors.extend(containers::requirements(own, &rules, &path));
    for (resource, sum) in amounts::of_containers(spec, "requests") {
        let Some(own) = own
            .entries("/requests")
            .and_then(|r| r.get(&resource))
            .and_then(Value::as_str)
        else {
            continue;
        };
        let own = quantity(own);
        if sum > own {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(
                &path.child("requests").key(&resource),
                own.to_string(),
                why,
            ));
        }
    }
    let limits = own.entries("/limits");
    let limit = |resource: &str| {
        limits
            .and_then(|l| l.get(resource))
            .and_then(Value::as_str)
            .map(quantity)
    };
    for (resource, sum) in amounts::of_containers(spec, "limits") {
        if !resources::is_hugepages(&resource) {
            continue;
        }
        if let Some(own) = limit(&resource).filter(|own| sum > *own) {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(FieldError::invalid(
                &path.child("limits").key(&resource),
                own.to_string(),
                why,
            ));
        }
    }
    for (i, container) in spec.items("/containers").iter().enumerate() {
        for (resource, amount) in container.entries("/resources/limits").into_iter().flatten() {
            let amount = quantity(amount.as_str().unwrap_or_default());
            if let Some(own) = limit(resource).filter(|own| amount > *own) {
                let place = path.child("containers").index(i).key(resource).child("limits");
                let why = format!("must be less than or equal to pod limits of {own}");
                errors.push(FieldError::invalid(&place, amount.to_string(), why));
            }
        }
    }
    errors
}

fn pod_level_name(resource: &str, path: &Path) -> FieldErrors {
    let errors = resources::validate_name(resource, path);
    if errors.is_empty() && !matches!(resource, "cpu" | "memory") && !resources::is_hugepages(resource) {
        return vec![FieldError::not_supported(path, resource, POD_LEVEL)];
    }
    errors
}

fn host_network_ports(spec: &Value, path: &Path, options: Options) -> FieldErrors {
    let mut errors = Vec::new();
    if !spec.flag("/hostNetwork") {
        return errors;
    }
    for (i, container) in spec.items("/containers").iter().enumerate() {
        for (j, port) in container.items("/ports").iter().enumerate() {
            let (host, own) = (port.int("/hostPort"), port.int("/containerPort"));
            if (options.pod || host != 0) && host != own {
                let place = path
                    .child("containers")
                    .index(i)
                    .child("ports")
                    .index(j)
                    .child("hostPort");
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&place, host, why));
            }
        }
    }
    errors
}

fn pull_secrets(list: &[Value], path: &Path) -> FieldErrors {
    let extra = |s: &Value| s.as_object().is_some_and(|o| o.keys().any(|k| k != "name"));
    let bad = list.iter().enumerate().filter(|(_, s)| extra(s));
    bad.map(|(i, s)| FieldError::invalid(&path.index(i), s, "only name may be set"))
        .collect()
}

fn dns(spec: &Value, path: &Path) -> FieldErrors {
    let config = spec.at("/dnsConfig");
    let servers = config.items("/nameservers");
    let place = path.child("nameservers");
    if spec.text("/dnsPolicy") == "None" {
        if config.is_null() {
            return vec![FieldError::required(
                path,
                "must provide `dnsConfig` when `dnsPolicy` is None",
            )];
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return vec![FieldError::required(&place, why)];
        }
    }
    let mut errors = Vec::new();
    if servers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&place, servers, why));
    }
    for (i, server) in strings(servers).enumerate() {
        errors.extend(name::ip_legacy(&place.index(i), server, &[]));
    }
    let searches = config.items("/searches");
    let place = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let why = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(&place, searches, why));
    }
    let letters: usize = strings(searches).map(str::len).sum::<usize>() + searches.len().saturating_sub(1);
    if letters > SEARCH_LETTERS_MAX {
        let why =
            format!("must not have more than {SEARCH_LETTERS_MAX} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(&place, searches, why));
    }
    for (i, search) in strings(searches).enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.extend(invalid(
            &place.index(i),
            search,
            name::dns1123_subdomain_with_underscore(search),
        ));
    }
    for (i, option) in config.items("/options").iter().enumerate() {
        if option.text("/name").is_empty() {
            errors.push(FieldError::required(
                &path.child("options").index(i),
                "must not be empty",
            ));
        }
    }
    errors
}

fn host_users(spec: &Value, path: &Path, options: Options) -> FieldErrors {
    let why = "when `hostUsers` is false";
    let mut errors = Vec::new();
    if spec.at("/hostUsers").as_bool() != Some(false) {
        return errors;
    }
    // Upstream spells two of these with a capital.
    for (key, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.get(key).and_then(Value::as_bool).unwrap_or_default() {
            errors.push(FieldError::forbidden(&path.child(shown), why));
        }
    }
    if !options.lenient {
        for (container, at) in all(spec, path) {
            if !container.items("/volumeDevices").is_empty() {
                errors.push(FieldError::forbidden(&at.child("volumeDevices"), why));
            }
        }
    }
    errors
}

fn hostname_override(spec: &Value, path: &Path) -> FieldErrors {
    let Some(own) = spec.at("/hostnameOverride").as_str() else {
        return Vec::new();
    };
    let place = path.child("hostnameOverride");
    let mut errors = Vec::new();
    if spec.flag("/setHostnameAsFQDN") {
        errors.push(FieldError::forbidden(
            &place,
            "may not be specified when setHostnameAsFQDN is true",
        ));
    }
    if spec.flag("/hostNetwork") {
        errors.push(FieldError::forbidden(
            &place,
            "may not be specified when hostNetwork is true",
        ));
    }
    if own.len() > 64 {
        errors.push(FieldError::too_long(&place, 64));
    }
    errors.extend(invalid(&place, own, name::dns1123_subdomain(own)));
    errors
}

fn host_aliases(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, alias) in list.iter().enumerate() {
        let path = path.index(i);
        errors.extend(name::ip_legacy(&path.child("ip"), alias.text("/ip"), &[]));
        for (j, host) in strings(alias.items("/hostnames")).enumerate() {
            errors.extend(invalid(
                &path.child("hostnames").index(j),
                host,
                name::dns1123_subdomain(host),
            ));
        }
    }
    errors
}

fn file_volumes(spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (container, at) in all(spec, path) {
        for (i, var) in container.items("/env").iter().enumerate() {
            if !var.has("/valueFrom/fileKeyRef") {
                continue;
            }
            let wanted = var.text("/valueFrom/fileKeyRef/volumeName");
            let place = at
                .child("env")
                .index(i)
                .child("valueFrom")
                .child("fileKeyRef")
                .child("volumeName");
            match spec.items("/volumes").iter().find(|v| v.text("/name") == wanted) {
                None => errors.push(FieldError::not_found(&place, wanted)),
                Some(v) if !v.has("/emptyDir") => {
                    let why = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(&place, wanted, why));
                }
                Some(_) => {}
            }
        }
    }
    errors
}
