//! What resources without a file of their own still decide: defaults, validation, table columns, selectable fields.
//! Looked up by `group/plural`; [`crate::fallback`] puts it into their generic kinds.

mod addresses;
mod apiservice;
mod defaults;
mod devices;
mod flow;
mod ingress;
mod networkpolicy;
mod policy;
mod rules;
mod runtimeclass;
mod slices;
mod storage;
mod tables;
mod volume;
mod volume_sources;
mod webhook;

pub use defaults::default;
pub use rules::rules;
pub use tables::table;

use crate::Context;
use crate::view::{View, remove, set};
use serde_json::{Value, json};

/// A new volume waits to be bound.
pub fn pending_volume(volume: &mut Value, context: &Context) {
    let status = json!({ "phase": "Pending", "lastPhaseTransitionTime": context.now });
    set(volume, "status", status);
}

/// A new definition has stored nothing yet but will: objects of its storage version.
pub fn stored_versions(definition: &mut Value, _: &Context) {
    let versions = definition.items("/spec/versions");
    let stored = versions.iter().find(|v| v.flag("/storage")).map(|v| v.text("/name"));
    let status = json!({
        "conditions": null,
        "acceptedNames": { "plural": "", "kind": "" },
        "storedVersions": stored.into_iter().collect::<Vec<_>>(),
    });
    set(definition, "status", status);
}

/// A CSI driver without what waits for a feature gate that is off in v1.36, unless it has it already.
pub fn drop_gated(driver: &mut Value, old: Option<&Value>) {
    let key = "preventPodSchedulingIfMissing";
    let used = old.is_some_and(|o| o.at("/spec").get(key).is_some_and(|v| !v.is_null()));
    if let Some(spec) = driver.get_mut("spec").filter(|_| !used) {
        remove(spec, key);
    }
}

type Field = (&'static str, fn(&Value) -> String);

/// Fields usable in `fieldSelector` besides name and namespace.
pub fn fields(id: &str) -> &'static [Field] {
    match id {
        "resource.k8s.io/resourceslices" => &[
            ("spec.nodeName", |s| s.text("/spec/nodeName").to_string()),
            ("spec.driver", |s| s.text("/spec/driver").to_string()),
        ],
        _ => &[],
    }
}
