//! Between the version in which an object is stored and the one in which it is served.
//!
//! Among the stable built-ins only two kinds have several: events (core/v1 is stored, events.k8s.io/v1 shows the same
//! with other names) and HorizontalPodAutoscalers (autoscaling/v2 is stored; autoscaling/v1 keeps what it cannot say in
//! annotations). Kinds that merely moved between versions without changing are renamed.

use serde_json::{Map, Value, json};

use crate::resources::Resource;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// From the stored version to the served one.
pub fn to_served(resource: &Resource, value: &mut Value) {
    match (resource.group(), resource.plural()) {
        ("events.k8s.io", "events") => rename(value, EVENT),
        ("autoscaling", "horizontalpodautoscalers") if resource.facts.version == "v1" => autoscaler_v1(value),
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
        ("autoscaling", "horizontalpodautoscalers") if resource.facts.version == "v1" => autoscaler_v2(value),
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

fn annotations(value: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = value
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()?;
    metadata
        .entry("annotations")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

fn drop_empty_annotations(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(Map::is_empty)
    {
        metadata.remove("annotations");
    }
}

/// v2 to v1: CPU utilisation becomes a field of its own, everything else an annotation.
fn autoscaler_v1(value: &mut Value) {
    let is_cpu = |metric: &Value| {
        metric["type"] == "Resource"
            && metric["resource"]["name"] == "cpu"
            && metric["resource"]["target"]["averageUtilization"].is_number()
    };
    let mut kept: Vec<(&str, String)> = Vec::new();
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = spec
            .remove("metrics")
            .and_then(|m| m.as_array().cloned())
            .unwrap_or_default();
        if let Some(at) = metrics.iter().position(is_cpu) {
            let cpu = metrics.remove(at);
            spec.insert(
                "targetCPUUtilizationPercentage".into(),
                cpu["resource"]["target"]["averageUtilization"].clone(),
            );
        }
        if !metrics.is_empty() {
            kept.push((METRICS, Value::Array(metrics).to_string()));
        }
        if let Some(behavior) = spec.remove("behavior") {
            kept.push((BEHAVIOR, behavior.to_string()));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let mut metrics = status
            .remove("currentMetrics")
            .and_then(|m| m.as_array().cloned())
            .unwrap_or_default();
        let is_current_cpu = |metric: &Value| {
            metric["type"] == "Resource"
                && metric["resource"]["name"] == "cpu"
                && metric["resource"]["current"]["averageUtilization"].is_number()
        };
        if let Some(at) = metrics.iter().position(is_current_cpu) {
            let cpu = metrics.remove(at);
            status.insert(
                "currentCPUUtilizationPercentage".into(),
                cpu["resource"]["current"]["averageUtilization"].clone(),
            );
        }
        if !metrics.is_empty() {
            kept.push((CURRENT_METRICS, Value::Array(metrics).to_string()));
        }
        if let Some(conditions) = status.remove("conditions") {
            kept.push((CONDITIONS, conditions.to_string()));
        }
    }
    if !kept.is_empty()
        && let Some(annotations) = annotations(value)
    {
        annotations.extend(
            kept.into_iter()
                .map(|(key, text)| (key.to_owned(), Value::String(text))),
        );
    }
}

/// v1 to v2: the inverse. Annotations that do not parse are left alone.
fn autoscaler_v2(value: &mut Value) {
    let mut take = |key: &str| {
        let annotations = value
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)?;
        let parsed: Value = serde_json::from_str(annotations.get(key)?.as_str()?).ok()?;
        annotations.remove(key);
        Some(parsed)
    };
    let (metrics, current, conditions, behavior) =
        (take(METRICS), take(CURRENT_METRICS), take(CONDITIONS), take(BEHAVIOR));
    drop_empty_annotations(value);
    let list = |found: Option<Value>| found.and_then(|m| m.as_array().cloned()).unwrap_or_default();
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all = list(metrics);
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
            all.insert(0, cpu);
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), all.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let mut all = list(current);
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage") {
            all.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
            );
        }
        if !all.is_empty() {
            status.insert("currentMetrics".into(), all.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_survives_the_way_through_v1() {
        let v2 = json!({
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {}}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}},
            ]},
            "status": {"conditions": [{"type": "AbleToScale"}]},
        });
        let mut value = v2.clone();
        autoscaler_v1(&mut value);
        assert_eq!(value["spec"]["targetCPUUtilizationPercentage"], 50);
        assert!(value["spec"].get("metrics").is_none());
        autoscaler_v2(&mut value);
        assert_eq!(value, v2);
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
