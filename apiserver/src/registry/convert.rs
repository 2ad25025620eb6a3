//! Between the version in which an object is stored and the one in which it is served.
//!
//! Among the stable built-ins only two kinds have several: events (core/v1 is stored, events.k8s.io/v1 shows the same
//! with other names) and HorizontalPodAutoscalers (autoscaling/v2 is stored; autoscaling/v1 keeps what it cannot say in
//! annotations). Kinds that merely moved between versions without changing are renamed.

use serde_json::Value;
use steersman_kinds::autoscaler::convert as autoscaler;

use crate::resources::Resource;

/// From the stored version to the served one.
pub fn to_served(resource: &Resource, value: &mut Value) {
    match (resource.group(), resource.plural()) {
        ("events.k8s.io", "events") => rename(value, EVENT),
        ("autoscaling", "horizontalpodautoscalers") if resource.facts.version == "v1" => autoscaler::to_v1(value),
        _ => {}
    }
    value["apiVersion"] = resource.api_version.as_str().into();
}

/// From the served version to the stored one.
pub fn to_stored(resource: &Resource, value: &mut Value) {
    match (resource.group(), resource.plural()) {
        ("events.k8s.io", "events") => {
            let back: Vec<(&str, &str)> = EVENT.iter().map(|(stored, served)| (*served, *stored)).collect();
            rename(value, &back);
        }
        ("autoscaling", "horizontalpodautoscalers") if resource.facts.version == "v1" => autoscaler::to_v2(value),
        // Stored as v1 (see definition.rs): under the name of v1beta1, upstream would take what v1 leaves out for v1beta1's
        // defaults, and stop pruning.
        ("apiextensions.k8s.io", "customresourcedefinitions") => return,
        _ => {}
    }
    value["apiVersion"] = resource.stored_gvk.api_version().into();
}

/// Core's names of an event's fields, and events.k8s.io's.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(value: &mut Value, names: &[(&str, &str)]) {
    let Some(object) = value.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(field) = object.remove(*from) {
            object.insert((*to).to_owned(), field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn definitions_are_stored_under_the_version_in_which_they_are_written() {
        let resources = crate::resources::Resources::build(&Default::default(), "/registry")
            .unwrap_or_else(|faults| panic!("{faults:?}"));
        let Some(resource) = resources.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
            panic!("definitions are served")
        };
        let served = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {"versions": [{"name": "v1"}]}});
        let mut stored = served.clone();
        to_stored(&resource, &mut stored);
        assert_eq!(stored, served);
    }

    #[test]
    fn an_event_survives_the_way_through_events_k8s_io() {
        let core = json!({"involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r", "count": 2});
        let mut value = core.clone();
        rename(&mut value, EVENT);
        assert_eq!(value["regarding"]["kind"], "Pod");
        assert_eq!(value["note"], "m");
        let back: Vec<(&str, &str)> = EVENT.iter().map(|(stored, served)| (*served, *stored)).collect();
        rename(&mut value, &back);
        assert_eq!(value, core);
    }
}
