//! The generic [`Kind`] of every resource without a file of its own, made from the table of facts.
//!
//! It knows metadata's rules, keeps `status` apart where there is such a subresource, counts generations for kinds with
//! a `spec`; [`others`] adds defaults, validation, columns and selectable fields.

use crate::view::remove;
use crate::{Context, Kind, Status, meta, nothing, others};
use serde_json::Value;
use steersman_schema::facts::facts;

/// `group/plural` of kinds whose updates must carry a resourceVersion (upstream: `AllowUnconditionalUpdate` is false).
const CONDITIONAL: &[&str] = &[
    "admissionregistration.k8s.io/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingadmissionpolicies",
    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "apiextensions.k8s.io/customresourcedefinitions",
    "apiregistration.k8s.io/apiservices",
    "coordination.k8s.io/leasecandidates",
    "node.k8s.io/runtimeclasses",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/csistoragecapacities",
    "storage.k8s.io/volumeattachments",
];
/// `group/plural` of kinds that a PUT to a missing name creates.
const CREATED_BY_PUT: &[&str] = &[
    "/limitranges",
    "coordination.k8s.io/leasecandidates",
    "node.k8s.io/runtimeclasses",
];

/// Generic kinds for all resources of the table that `own` does not have.
pub fn others(own: &[&'static Kind]) -> Vec<&'static Kind> {
    let mut list = Vec::new();
    for resource in facts().resources() {
        let known =
            |k: &&Kind| k.group == &*resource.group && k.version == &*resource.version && k.plural == &*resource.plural;
        if own.iter().any(|k| known(k)) {
            continue;
        }
        let id = format!("{}/{}", resource.group, resource.plural);
        let rules = others::rules(&id);
        let status = resource.subresources.iter().any(|s| &*s.name == "status");
        let kind = Kind {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            plural: &resource.plural,
            default: others::default(&id).unwrap_or(nothing::default),
            prepare_create: match id.as_str() {
                "/persistentvolumes" => others::pending_volume,
                "apiextensions.k8s.io/customresourcedefinitions" => others::stored_versions,
                "storage.k8s.io/csidrivers" => |driver, _| others::drop_gated(driver, None),
                _ if status => drop_status,
                _ => nothing::prepare_create,
            },
            prepare_update: match id.as_str() {
                "storage.k8s.io/csidrivers" => |new, old, _| others::drop_gated(new, Some(old)),
                _ => nothing::prepare_update,
            },
            validate: rules.map_or(nothing::validate, |r| r.validate),
            validate_update: rules.map_or(nothing::validate_update, |r| r.validate_update),
            warnings: rules.map_or(nothing::warnings, |r| r.warnings),
            validate_name: rules.map_or(meta::name_subdomain, |r| r.validate_name),
            status: status.then_some(Status {
                // The request path has put back everything but status and metadata.
                prepare: rules.map_or(nothing::prepare_update, |r| r.prepare_status),
                validate: rules.map_or(nothing::validate_update, |r| r.validate_status),
            }),
            updates: &[],
            generation: counts(&resource.group, &resource.plural),
            create_on_update: CREATED_BY_PUT.contains(&id.as_str()),
            unconditional_update: !CONDITIONAL.contains(&id.as_str()),
            scale: None,
            grace: None,
            orphans_by_default: false,
            fields: others::fields(&id),
            table: others::table(&id),
            example: "",
        };
        // Made once per process and kept for its life, like the kinds that are statics.
        list.push(&*Box::leak(Box::new(kind)));
    }
    list
}

/// Whether the kind counts generations. Upstream does so kind by kind.
fn counts(group: &str, plural: &str) -> bool {
    match group {
        "" => matches!(plural, "pods" | "podtemplates" | "replicationcontrollers"),
        "apps" => plural != "controllerrevisions",
        "batch" | "flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io" | "policy" => true,
        "networking.k8s.io" => matches!(plural, "ingresses" | "ingressclasses" | "networkpolicies"),
        "resource.k8s.io" => matches!(plural, "resourceslices" | "deviceclasses" | "devicetaintrules"),
        "scheduling.k8s.io" => plural == "priorityclasses",
        "apiextensions.k8s.io" => true,
        _ => false,
    }
}

fn drop_status(object: &mut Value, _: &Context) {
    remove(object, "status");
}
