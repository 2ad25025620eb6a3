//! Pods: what runs. The largest kind, one file per concern; templates of workloads share most of it.
//!
//! Callers besides the registry: every workload kind ([`template`]). What is not here: admission (service accounts,
//! priorities, quota), binding and eviction (the server's, with [`binding`]), and the life of a pod (the agent's).

mod amounts;
mod claims;
pub(crate) mod containers;
pub mod defaults;
mod env;
mod probes;
mod projected;
pub(crate) mod scheduling;
mod security;
mod spec;
mod status;
mod table;
pub mod template;
mod update;
pub(crate) mod volumes;
pub(crate) mod warnings;

pub use amounts::quality;
pub use scheduling::node_selector;
pub use volumes::{claim_template, csi_driver};
pub use warnings::deprecated_node_label;

use crate::view::{View, each_mut, remove, set};
use crate::{Context, Kind, Status, Table, meta};
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Marks the API server's copy of a pod that a kubelet runs from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// How strictly a spec is checked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A pod rather than a template.
    pub pod: bool,
    /// Rules younger than the stored object are not applied to it: upstream turns each such rule off when the old
    /// object breaks it; here they go together.
    pub lenient: bool,
    /// The old pod says how its volumes are labelled: then every way is known.
    pub labelled: bool,
}

pub static KINDS: &[&Kind] = &[&KIND, &template::KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    default: defaults::pod,
    prepare_create,
    prepare_update: |new, old, _| {
        crate::view::put_back(new, old, "status");
        drop_gated(new, Some(old));
    },
    validate: |pod| checked(pod, None, validate_create),
    validate_update: update::validate,
    warnings: |new, old| if old.is_none() { warnings::pod(new) } else { Vec::new() },
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: status::prepare,
        validate: status::validate,
    }),
    updates: &[
        (
            "ephemeralcontainers",
            Status {
                prepare: update::prepare_ephemeral,
                validate: update::validate_ephemeral,
            },
        ),
        (
            "resize",
            Status {
                prepare: update::prepare_resize,
                validate: update::validate_resize,
            },
        ),
    ],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: Some(grace),
    orphans_by_default: false,
    fields: &[
        ("spec.nodeName", |p| p.text("/spec/nodeName").into()),
        ("spec.restartPolicy", |p| p.text("/spec/restartPolicy").into()),
        ("spec.schedulerName", |p| p.text("/spec/schedulerName").into()),
        ("spec.serviceAccountName", |p| p.text("/spec/serviceAccountName").into()),
        ("spec.hostNetwork", |p| p.flag("/spec/hostNetwork").to_string()),
        ("status.phase", |p| p.text("/status/phase").into()),
        ("status.podIP", |p| {
            p.items("/status/podIPs").first().map_or("", |ip| ip.text("/ip")).into()
        }),
        ("status.podIPs", |p| {
            p.items("/status/podIPs").first().map_or("", |ip| ip.text("/ip")).into()
        }),
        ("status.nominatedNodeName", |p| {
            p.text("/status/nominatedNodeName").into()
        }),
        ("spec.host", |p| p.text("/spec/nodeName").into()),
    ],
    table: Some(Table {
        columns: table::COLUMNS,
        row: table::row,
        conditions: table::conditions,
    }),
    example: "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  containers:
  - name: web
    image: registry.example.com/web:1
    ports: [{name: http, containerPort: 80}]
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
    readinessProbe: {httpGet: {path: /ready, port: http}}
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 128Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - {name: data, emptyDir: {}}
",
};

fn prepare_create(pod: &mut Value, context: &Context) {
    // What the client says its class is counts: an oddity of upstream's.
    let class = match pod.text("/status/qosClass") {
        "" => quality(pod.at("/spec")).to_string(),
        said => said.to_string(),
    };
    let mut status = json!({ "phase": "Pending", "qosClass": class });
    if !pod.items("/spec/schedulingGates").is_empty() {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": context.now,
        });
        set(&mut status, "conditions", vec![condition]);
    }
    set(pod, "status", status);
    drop_gated(pod, None);
    scheduling::merge_label_keys(pod);
}

/// Takes away fields behind feature gates that are off in v1.36, unless the stored object has them.
fn drop_gated(pod: &mut Value, old: Option<&Value>) {
    if let Some(spec) = pod.get_mut("spec") {
        drop_gated_spec(spec, old.map(|o| o.at("/spec")));
    }
}

/// See [`drop_gated`]; for templates as well.
fn drop_gated_spec(spec: &mut Value, old: Option<&Value>) {
    if old.is_none_or(|o| !o.has("/schedulingGroup")) {
        remove(spec, "schedulingGroup");
    }
    for key in ["/containers", "/initContainers", "/ephemeralContainers"] {
        for container in each_mut(spec, key).filter(|c| c.has("/lifecycle/stopSignal")) {
            if let Some(lifecycle) = container.get_mut("lifecycle") {
                remove(lifecycle, "stopSignal");
            }
            if container.entries("/lifecycle").is_some_and(serde_json::Map::is_empty) {
                remove(container, "lifecycle");
            }
        }
    }
    for volume in each_mut(spec, "/volumes") {
        for source in each_mut(volume, "/projected/sources") {
            remove(source, "clusterTrustBundle");
            remove(source, "podCertificate");
        }
    }
}

/// Runs `rule` strictly; when it finds faults and the old object has faults of its own, leniently.
fn checked(new: &Value, old: Option<&Value>, rule: fn(&Value, Options) -> FieldErrors) -> FieldErrors {
    let strict = Options {
        pod: true,
        lenient: false,
        labelled: old.is_some_and(|o| o.has("/spec/securityContext/seLinuxChangePolicy")),
    };
    let errors = rule(new, strict);
    match old {
        Some(old) if !errors.is_empty() && !rule(old, strict).is_empty() => rule(
            new,
            Options {
                lenient: true,
                ..strict
            },
        ),
        _ => errors,
    }
}

fn validate_create(pod: &Value, options: Options) -> FieldErrors {
    let mut errors = metadata_and_spec(pod, options);
    let path = Path::new("spec");
    if !pod.items("/spec/ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        ));
    }
    if !pod.text("/spec/nodeName").is_empty() && !pod.items("/spec/schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), why));
    }
    errors.extend(profiles_match(pod.at("/metadata"), pod.at("/spec"), &path));
    errors
}

fn metadata_and_spec(pod: &Value, options: Options) -> FieldErrors {
    let (metadata, spec) = (pod.at("/metadata"), pod.at("/spec"));
    let path = Path::new("spec");
    let place = Path::new("metadata").child("annotations");
    let mut errors = annotations(metadata.at("/annotations"), spec, &place, options);
    errors.extend(spec::validate(spec, metadata, &path, options));
    if spec.text("/serviceAccountName").is_empty() {
        for (i, volume) in spec.items("/volumes").iter().enumerate() {
            for (j, source) in volume.items("/projected/sources").iter().enumerate() {
                if source.has("/serviceAccountToken") {
                    let at = path
                        .child("volumes")
                        .index(i)
                        .child("projected")
                        .child("sources")
                        .index(j);
                    let why = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(&at.child("serviceAccountToken"), why));
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (i, container) in spec.items(&format!("/{key}")).iter().enumerate() {
            errors.extend(containers::image_spaces(container, &path.child(key).index(i)));
        }
    }
    errors
}

/// Faults of annotations that mean something to pods.
fn annotations(map: &Value, spec: &Value, path: &Path, options: Options) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, value) in map.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let at = path.key(key);
        if key == MIRROR && spec.text("/nodeName").is_empty() {
            let why = "must set spec.nodeName if mirror pod annotation is set";
            errors.push(FieldError::invalid(&at, value, why));
        } else if key == TOLERATIONS && !value.is_empty() {
            match serde_json::from_str::<Vec<Value>>(value) {
                Ok(list) => errors.extend(scheduling::tolerations(&list, &path.child(TOLERATIONS))),
                Err(e) => errors.push(FieldError::invalid(path, TOLERATIONS, e.to_string())),
            }
        } else if key == DELETION_COST && !options.lenient {
            // Go reads a plus sign and leading zeros are refused by upstream.
            let zeros =
                value.len() > 1 && (value.starts_with('0') || value.starts_with("-0") || value.starts_with('+'));
            if zeros || value.parse::<i32>().is_err() {
                errors.push(FieldError::invalid(&at, value, "must be a 32bit integer"));
            }
        } else if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            let at = path.child(key);
            match value.strip_prefix("localhost/") {
                Some(target) => errors.extend(volumes::descending(target, &at)),
                None if matches!(value, "runtime/default" | "docker/default" | "unconfined") => {}
                None => errors.push(FieldError::invalid(&at, value, "must be a valid seccomp profile")),
            }
        } else if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !containers::all(spec, &Path::new("spec"))
                .iter()
                .any(|(c, _)| c.text("/name") == container)
            {
                errors.push(FieldError::invalid(&at, container, "container not found"));
            }
            if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
                let why = format!(
                    "invalid AppArmor profile name: {}",
                    steersman_schema::field::quote(value)
                );
                errors.push(FieldError::invalid(&at, value, why));
            }
        }
    }
    errors
}

/// Where both an annotation and a field name a seccomp or AppArmor profile, they must agree.
fn profiles_match(metadata: &Value, spec: &Value, path: &Path) -> FieldErrors {
    let Some(annotations) = metadata.entries("/annotations") else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    let mut check = |annotation: Option<&Value>, profile: &Value, what: &str, at: &Path| {
        let Some(text) = annotation.and_then(Value::as_str) else {
            return;
        };
        let local = text.strip_prefix("localhost/");
        let (agrees, field, word) = match profile.text("/type") {
            "Unconfined" => (text == "unconfined", "type", "type"),
            "RuntimeDefault" => (
                text == "runtime/default" || (what == "seccomp" && text == "docker/default"),
                "type",
                "type",
            ),
            "Localhost" if local.is_none() => (false, "type", "type"),
            "Localhost" => (
                local == profile.at("/localhostProfile").as_str(),
                "localhostProfile",
                "profile",
            ),
            _ => return,
        };
        if !agrees {
            let why = format!("{what} {word} in annotation and field must match");
            errors.push(FieldError::forbidden(&at.child(field), why));
        }
    };
    let place = path.child("securityContext");
    let pod = spec.at("/securityContext");
    check(
        annotations.get(SECCOMP_POD),
        pod.at("/seccompProfile"),
        "seccomp",
        &place.child("seccompProfile"),
    );
    let all = containers::all(spec, path);
    for (container, at) in &all {
        let annotation = annotations.get(&format!("{SECCOMP_CONTAINER}{}", container.text("/name")));
        let profile = container.at("/securityContext/seccompProfile");
        check(
            annotation,
            profile,
            "seccomp",
            &at.child("securityContext").child("seccompProfile"),
        );
    }
    if spec.text("/os/name") != "windows" {
        for (container, at) in &all {
            let own = container.at("/securityContext/appArmorProfile");
            let profile = if own.is_null() { pod.at("/appArmorProfile") } else { own };
            let annotation = annotations.get(&format!("{APP_ARMOR}{}", container.text("/name")));
            check(
                annotation,
                profile,
                "apparmor",
                &at.child("securityContext").child("appArmorProfile"),
            );
        }
    }
    errors
}

/// Seconds until the pod must be gone: what was asked for, or what its spec says; none for pods that never ran or have
/// finished.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let finished = matches!(pod.text("/status/phase"), "Failed" | "Succeeded");
    if pod.text("/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let seconds = asked.unwrap_or_else(|| pod.int("/spec/terminationGracePeriodSeconds"));
    if seconds < 0 { 1 } else { seconds }
}

/// Faults of a Binding, the object that puts a pod on a node.
pub fn binding(binding: &Value) -> FieldErrors {
    let path = Path::new("target");
    let mut errors = Vec::new();
    let kind = binding.text("/target/kind");
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding.text("/target/name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

/// Faults of a node's name where a pod mentions it.
fn node_name(text: &str, path: &Path) -> FieldErrors {
    crate::view::invalid(path, text, name::dns1123_subdomain(text))
}

#[cfg(test)]
mod tests;
