//! Containers of a pod: regular, init (sidecars among them) and ephemeral.

use super::volumes::{self, Volumes};
use super::{Options, env, probes, security};
use crate::resources::{self, quantity};
use crate::view::{View, invalid};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const SIDECAR_ONLY: &str = "may not be set for init containers without restartPolicy=Always";

/// What all containers of a pod are checked against.
pub struct Surroundings<'a> {
    pub spec: &'a Value,
    pub volumes: Volumes<'a>,
    pub claims: BTreeSet<&'a str>,
    pub options: Options,
}

impl Surroundings<'_> {
    fn host_users(&self) -> bool {
        self.spec.at("/hostUsers").as_bool().unwrap_or(true)
    }
}

/// All containers with their paths, in upstream's order: init, regular, ephemeral.
pub fn all<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let mut list = Vec::new();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let place = path.child(key);
        let found = spec.get(key).and_then(Value::as_array).into_iter().flatten();
        list.extend(found.enumerate().map(|(i, c)| (c, place.index(i))));
    }
    list
}

/// Whether an init container keeps running beside the regular ones.
pub fn is_sidecar(container: &Value) -> bool {
    container.text("/restartPolicy") == "Always"
}

/// Faults of `containers`.
pub fn regular(around: &Surroundings<'_>, path: &Path) -> FieldErrors {
    let list = around.spec.items("/containers");
    if list.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        errors.extend(common(container, around, &at));
        let own = container.text("/name");
        if !names.insert(own) {
            errors.push(FieldError::duplicate(&at.child("name"), own));
        }
        errors.extend(probes::all(container, around.spec, &at));
        errors.extend(restart_policy(container, false, &at));
    }
    errors.extend(host_port_conflicts(list, path));
    errors
}

/// Faults of `initContainers`.
pub fn init(around: &Surroundings<'_>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut names: BTreeSet<&str> = around
        .spec
        .items("/containers")
        .iter()
        .map(|c| c.text("/name"))
        .collect();
    for (i, container) in around.spec.items("/initContainers").iter().enumerate() {
        let at = path.index(i);
        errors.extend(common(container, around, &at));
        if container.has("/restartPolicy") || !container.items("/restartPolicyRules").is_empty() {
            errors.extend(restart_policy(container, true, &at));
        }
        let own = container.text("/name");
        if names.contains(own) {
            errors.push(FieldError::duplicate(&at.child("name"), own));
        } else if !own.is_empty() {
            names.insert(own);
        }
        // Upstream numbers these from zero for each init container.
        errors.extend(host_port_conflicts(std::slice::from_ref(container), path));
        if is_sidecar(container) {
            errors.extend(probes::all(container, around.spec, &at));
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.get(key).is_some_and(|v| !v.is_null()) {
                errors.push(FieldError::forbidden(&at.child(key), SIDECAR_ONLY));
            }
        }
        if !around.options.lenient {
            for (j, policy) in container.items("/resizePolicy").iter().enumerate() {
                if policy.text("/restartPolicy") == "RestartContainer" {
                    let place = at.child("resizePolicy").index(j).child("restartPolicy");
                    let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.push(FieldError::invalid(&place, "RestartContainer", why));
                }
            }
        }
    }
    errors
}

/// Fields of containers that ephemeral ones may not have, in the order in which upstream names them.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Faults of `ephemeralContainers`.
pub fn ephemeral(around: &Surroundings<'_>, path: &Path) -> FieldErrors {
    let why = "cannot be set for an Ephemeral Container";
    let mut errors = Vec::new();
    let named = |key: &str| around.spec.items(key).iter().map(|c| c.text("/name"));
    let others: BTreeSet<&str> = named("/containers").chain(named("/initContainers")).collect();
    let mut names = others.clone();
    for (i, container) in around.spec.items("/ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        errors.extend(common(container, around, &at));
        errors.extend(image_spaces(container, &at));
        let own = container.text("/name");
        if !names.insert(own) {
            errors.push(FieldError::duplicate(&at.child("name"), own));
        }
        let target = container.text("/targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&at.child("targetContainerName"), target));
        }
        for key in NOT_EPHEMERAL {
            // Only `resources` is there without anybody having set it; an empty list or map in it counts as set.
            let unset = match container.get(*key) {
                Some(Value::Object(map)) => map.is_empty() && *key == "resources",
                Some(value) => value.is_null(),
                None => true,
            };
            if !unset {
                errors.push(FieldError::forbidden(&at.child(key), why));
            }
        }
        for (j, mount) in container.items("/volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if mount.get(key).and_then(Value::as_str).is_some_and(|t| !t.is_empty()) {
                    errors.push(FieldError::forbidden(
                        &at.child("volumeMounts").index(j).child(key),
                        why,
                    ));
                }
            }
        }
    }
    errors
}

/// The fault of an image with blanks around it (pods only; templates may have them).
pub fn image_spaces(container: &Value, path: &Path) -> Option<FieldError> {
    let image = container.text("/image");
    let why = "must not have leading or trailing whitespace";
    (image.trim() != image).then(|| FieldError::invalid(&path.child("image"), image, why))
}

fn common(container: &Value, around: &Surroundings<'_>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    match container.text("/name") {
        "" => errors.push(FieldError::required(&path.child("name"), "")),
        own => errors.extend(invalid(&path.child("name"), own, name::dns1123_label(own))),
    }
    if container.text("/image").is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let place = path.child("terminationMessagePolicy");
    match container.text("/terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => errors.push(FieldError::required(&place, "")),
        other => errors.push(FieldError::not_supported(
            &place,
            other,
            &["File", "FallbackToLogsOnError"],
        )),
    }
    errors.extend(ports(container.items("/ports"), &path.child("ports")));
    errors.extend(env::validate(container.items("/env"), &path.child("env")));
    errors.extend(env::validate_from(container.items("/envFrom"), &path.child("envFrom")));
    errors.extend(volumes::mounts(container, &around.volumes, &path.child("volumeMounts")));
    errors.extend(volumes::devices(
        container,
        &around.volumes,
        &path.child("volumeDevices"),
    ));
    errors.extend(pull_policy(
        container.text("/imagePullPolicy"),
        &path.child("imagePullPolicy"),
    ));
    let rules = Rules {
        name: resources::validate_container_name,
        claims: &around.claims,
        options: around.options,
    };
    errors.extend(requirements(
        container.at("/resources"),
        &rules,
        &path.child("resources"),
    ));
    let pod_policy = around.spec.text("/restartPolicy");
    errors.extend(resize_policy(
        container.items("/resizePolicy"),
        pod_policy,
        &path.child("resizePolicy"),
    ));
    let place = path.child("securityContext");
    errors.extend(security::container(
        container.at("/securityContext"),
        around.host_users(),
        &place,
    ));
    errors
}

/// Faults of when to pull an image.
pub fn pull_policy(policy: &str, path: &Path) -> FieldErrors {
    match policy {
        "Always" | "IfNotPresent" | "Never" => Vec::new(),
        "" => vec![FieldError::required(path, "")],
        _ => vec![FieldError::not_supported(
            path,
            policy,
            &["Always", "IfNotPresent", "Never"],
        )],
    }
}

fn ports(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let path = path.index(i);
        let own = port.text("/name");
        if !own.is_empty() {
            let place = path.child("name");
            let faults = name::port_name(own);
            if !faults.is_empty() {
                errors.extend(invalid(&place, own, faults));
            } else if !names.insert(own) {
                errors.push(FieldError::duplicate(&place, own));
            }
        }
        let number = |key: &str, errors: &mut FieldErrors| {
            let number = port.get(key).and_then(Value::as_i64).unwrap_or_default();
            if number != 0 {
                let faults = name::port_number(number).into_iter();
                errors.extend(faults.map(|m| FieldError::invalid(&path.child(key), number, m)));
            }
            number
        };
        if number("containerPort", &mut errors) == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        }
        number("hostPort", &mut errors);
        errors.extend(crate::endpoints::validate_protocol(
            port.text("/protocol"),
            &path.child("protocol"),
        ));
    }
    errors
}

fn host_port_conflicts(containers: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.items("/ports").iter().enumerate() {
            let number = port.int("/hostPort");
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.text("/protocol"), port.text("/hostIP"));
            if !seen.insert(key.clone()) {
                errors.push(FieldError::duplicate(
                    &path.index(i).child("ports").index(j).child("hostPort"),
                    key,
                ));
            }
        }
    }
    errors
}

fn resize_policy(list: &[Value], pod_policy: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, policy) in list.iter().enumerate() {
        let (resource, restart) = (policy.text("/resourceName"), policy.text("/restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path.index(i), resource));
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.push(FieldError::required(path, "")),
            _ => errors.push(FieldError::not_supported(path, resource, &["cpu", "memory"])),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.push(FieldError::required(path, "")),
            _ => errors.push(FieldError::not_supported(
                path,
                restart,
                &["NotRequired", "RestartContainer"],
            )),
        }
        if pod_policy == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, why));
        }
    }
    errors
}

/// Upstream does not look at the rules of an init container that says no policy.
fn restart_policy(container: &Value, initial: bool, path: &Path) -> FieldErrors {
    let rules = container.items("/restartPolicyRules");
    let place = path.child("restartPolicy");
    let mut errors = Vec::new();
    match container.at("/restartPolicy").as_str() {
        None if rules.is_empty() => return errors,
        None => {
            errors.push(FieldError::required(
                &place,
                "must specify restartPolicy when restart rules are used",
            ));
            if initial {
                return errors;
            }
        }
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => errors.push(FieldError::not_supported(
            &place,
            other,
            &["Always", "Never", "OnFailure"],
        )),
    }
    let place = path.child("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&place, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let place = place.index(i);
        let action = rule.text("/action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            let known = ["Restart", "RestartAllContainers"];
            errors.push(FieldError::not_supported(&place.child("action"), action, &known));
        }
        let place = place.child("exitCodes");
        if !rule.has("/exitCodes") {
            errors.push(FieldError::required(&place, "must be specified"));
            continue;
        }
        let operator = rule.text("/exitCodes/operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::not_supported(
                &place.child("operator"),
                operator,
                &["In", "NotIn"],
            ));
        }
        let count = rule.items("/exitCodes/values").len();
        if count > EXIT_CODES_MAX {
            errors.push(FieldError::too_many(&place.child("values"), count, EXIT_CODES_MAX));
        }
    }
    errors
}

/// How requests and limits are checked at their place.
pub struct Rules<'a> {
    /// Faults of a resource's name.
    pub name: fn(&str, &Path) -> FieldErrors,
    pub claims: &'a BTreeSet<&'a str>,
    pub options: Options,
}

/// Faults of requests, limits and claims.
pub fn requirements(value: &Value, rules: &Rules<'_>, path: &Path) -> FieldErrors {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let mut errors = Vec::new();
    let (mut compute, mut huge) = (false, false);
    let limits = value.entries("/limits");
    let mut each = |resource: &str, text: &str, place: &Path, errors: &mut FieldErrors| {
        errors.extend((rules.name)(resource, place));
        errors.extend(resources::validate_quantity(resource, text, place));
        compute |= matches!(resource, "cpu" | "memory");
        huge |= resources::is_hugepages(resource);
    };
    let pages = |resource: &str, text: &str, place: &Path| {
        let amount = quantity(text);
        let bad = resources::is_hugepages(resource)
            && !rules.options.lenient
            && !resources::hugepages_divide(resource, &amount);
        let why = || format!("{amount} is not positive integer multiple of {resource}");
        bad.then(|| FieldError::invalid(place, amount.to_string(), why()))
    };
    for (resource, amount) in limits.into_iter().flatten() {
        let (text, place) = (amount.as_str().unwrap_or_default(), limit_path.key(resource));
        each(resource, text, &place, &mut errors);
        errors.extend(pages(resource, text, &place));
    }
    for (resource, amount) in value.entries("/requests").into_iter().flatten() {
        let (text, place) = (amount.as_str().unwrap_or_default(), request_path.key(resource));
        each(resource, text, &place, &mut errors);
        let request = quantity(text);
        let flexible = resources::is_overcommittable(resource);
        match limits
            .and_then(|l| l.get(resource))
            .and_then(Value::as_str)
            .map(quantity)
        {
            Some(limit) if request != limit && !flexible => {
                let why = format!("must be equal to {resource} limit of {limit}");
                errors.push(FieldError::invalid(&request_path, request.to_string(), why));
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {resource} limit of {limit}");
                errors.push(FieldError::invalid(&request_path, request.to_string(), why));
            }
            None if !flexible => {
                errors.push(FieldError::required(
                    &limit_path,
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
        errors.extend(pages(resource, text, &place));
    }
    if huge && !compute {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    errors.extend(claims(value.items("/claims"), rules.claims, &path.child("claims")));
    errors
}

fn claims(list: &[Value], known: &BTreeSet<&str>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in list.iter().enumerate() {
        let path = path.index(i);
        let (own, request) = (claim.text("/name"), claim.text("/request"));
        if own.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        if seen.contains(own) {
            errors.push(FieldError::duplicate(&path, own));
        } else {
            let mut key = own.to_string();
            if !request.is_empty() {
                errors.extend(invalid(&path.child("request"), request, name::dns1123_label(request)));
                key = format!("{own}/{request}");
            }
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&path, key.clone()));
            } else if request.is_empty() {
                let overlap = seen
                    .iter()
                    .filter(|k| k.split_once('/').is_some_and(|(name, _)| name == own));
                errors.extend(overlap.map(|_| FieldError::duplicate(&path, own)));
            }
            seen.insert(key);
        }
        if !known.contains(own) {
            let mut error = FieldError::not_found(&path, own);
            let names: Vec<&str> = known.iter().copied().collect();
            error.detail = match names.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".into(),
                names => format!(
                    "must be one of the names in pod.spec.resourceClaims: {}",
                    names.join(", ")
                ),
            };
            errors.push(error);
        }
    }
    errors
}
