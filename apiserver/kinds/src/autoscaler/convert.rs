//! HorizontalPodAutoscalers between autoscaling/v2, in which they are stored, and autoscaling/v1, which knows a target
//! for CPU alone and carries everything else in annotations, written as upstream writes them.

use crate::internal::compact;
use crate::view::{View, child, remove, set};
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Of the annotations that carry what v1 does not know, those about the status.
pub const STATUS_ANNOTATIONS: [&str; 2] = [CURRENT_METRICS, CONDITIONS];
const ALL_ANNOTATIONS: [&str; 6] = [
    METRICS,
    CURRENT_METRICS,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// Fields of a kind of metric: where v2 has them, and v1's name.
type Pairs = &'static [(&'static str, &'static str)];

const SPEC: &[(&str, Pairs)] = &[
    (
        "resource",
        &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
];
const STATUS: &[(&str, Pairs)] = &[
    (
        "resource",
        &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
];

/// From autoscaling/v2 to autoscaling/v1.
pub fn to_v1(scaler: &mut Value) {
    drop_annotations(scaler, &ALL_ANNOTATIONS);
    let mut carried: Vec<(&str, String)> = Vec::new();
    if let Some(spec) = scaler.get_mut("spec").filter(|s| s.is_object()) {
        let metrics = spec.items("/metrics").to_vec();
        remove(spec, "metrics");
        if let Some(cpu) = metrics.iter().find(|m| is_cpu_share(m)) {
            let share = cpu.at("/resource/target/averageUtilization").clone();
            set(spec, "targetCPUUtilizationPercentage", share);
        }
        let others: Vec<Value> = metrics
            .iter()
            .filter(|m| !is_cpu_share(m))
            .map(|m| metric_to_v1(m, SPEC))
            .collect();
        if !others.is_empty() {
            carried.push((METRICS, compact("MetricSpecV1", &others.into())));
        }
        let behavior = spec.at("/behavior").clone();
        remove(spec, "behavior");
        if !behavior.is_null() {
            carried.push((BEHAVIOR, compact("HorizontalPodAutoscalerBehavior", &behavior)));
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|s| s.is_object()) {
        let metrics = status.items("/currentMetrics").to_vec();
        remove(status, "currentMetrics");
        let share = |m: &Value| m.at("/resource/current/averageUtilization").clone();
        let is_cpu = |m: &&Value| m.text("/type") == "Resource" && m.text("/resource/name") == "cpu";
        if let Some(share) = metrics.iter().filter(is_cpu).map(share).rfind(Value::is_number) {
            set(status, "currentCPUUtilizationPercentage", share);
        }
        if !metrics.is_empty() {
            let all: Vec<Value> = metrics.iter().map(|m| metric_to_v1(m, STATUS)).collect();
            carried.push((CURRENT_METRICS, compact("MetricStatusV1", &all.into())));
        }
        let conditions = status.items("/conditions").to_vec();
        remove(status, "conditions");
        if !conditions.is_empty() {
            carried.push((CONDITIONS, compact("AutoscalerConditionV1", &conditions.into())));
        }
    }
    if !carried.is_empty()
        && let Some(annotations) = child(scaler, "metadata").and_then(|m| child(m, "annotations"))
    {
        carried.into_iter().for_each(|(key, text)| set(annotations, key, text));
    }
}

/// From autoscaling/v1 to autoscaling/v2. Annotations that are no JSON are ignored, and gone afterwards.
pub fn to_v2(scaler: &mut Value) {
    let annotations = scaler.entries("/metadata/annotations").cloned().unwrap_or_default();
    let parsed = |key: &str| -> Option<Value> { serde_json::from_str(annotations.get(key)?.as_str()?).ok() };
    let listed = |key: &str| parsed(key).and_then(|v| v.as_array().cloned());
    drop_annotations(scaler, &ALL_ANNOTATIONS);
    let cpu = |of: &str, share: Value| {
        let mut target = json!({ "averageUtilization": share });
        if of == "target" {
            set(&mut target, "type", "Utilization");
        }
        json!({ "type": "Resource", "resource": { "name": "cpu", of: target } })
    };
    if let Some(spec) = child(scaler, "spec") {
        let others = listed(METRICS).unwrap_or_default();
        let mut metrics: Vec<Value> = others.iter().map(|m| metric_to_v2(m, SPEC, "target")).collect();
        let share = spec.at("/targetCPUUtilizationPercentage").clone();
        remove(spec, "targetCPUUtilizationPercentage");
        if share.is_number() {
            metrics.push(cpu("target", share));
        }
        if metrics.is_empty() {
            metrics.push(cpu("target", 80.into()));
        }
        set(spec, "metrics", metrics);
        if let Some(behavior) = parsed(BEHAVIOR)
            .filter(Value::is_object)
            .map(from_go)
            .filter(|b| b != &json!({}))
        {
            set(spec, "behavior", behavior);
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|s| s.is_object()) {
        let share = status.at("/currentCPUUtilizationPercentage").clone();
        remove(status, "currentCPUUtilizationPercentage");
        if let Some(list) = listed(CURRENT_METRICS) {
            let all: Vec<Value> = list.iter().map(|m| metric_to_v2(m, STATUS, "current")).collect();
            set(status, "currentMetrics", all);
        } else if share.is_number() {
            set(status, "currentMetrics", vec![cpu("current", share)]);
        }
        if let Some(list) = listed(CONDITIONS) {
            set(status, "conditions", list);
        }
    }
}

/// Removes annotations, and the map with the last of them.
pub fn drop_annotations(scaler: &mut Value, keys: &[&str]) {
    let Some(metadata) = scaler.get_mut("metadata") else {
        return;
    };
    if let Some(annotations) = metadata.get_mut("annotations") {
        keys.iter().for_each(|key| remove(annotations, key));
    }
    if metadata.entries("/annotations").is_some_and(Map::is_empty) {
        remove(metadata, "annotations");
    }
}

fn is_cpu_share(metric: &Value) -> bool {
    metric.text("/type") == "Resource"
        && metric.text("/resource/name") == "cpu"
        && metric.at("/resource/target/averageUtilization").is_number()
}

fn metric_to_v1(metric: &Value, pairs: &[(&str, Pairs)]) -> Value {
    let mut out = json!({ "type": metric.at("/type") });
    for (kind, fields) in pairs
        .iter()
        .filter(|(kind, _)| metric.get(*kind).is_some_and(|m| !m.is_null()))
    {
        let mut inner = json!({});
        for (from, to) in fields.iter() {
            let value = metric[*kind].at(from);
            if !value.is_null() {
                set(&mut inner, to, value.clone());
            }
        }
        set(&mut out, kind, inner);
    }
    out
}

/// `part` is `target` or `current`, where the numbers are.
fn metric_to_v2(metric: &Value, pairs: &[(&str, Pairs)], part: &str) -> Value {
    let mut out = json!({ "type": metric.text("/type") });
    for (kind, fields) in pairs
        .iter()
        .filter(|(kind, _)| metric.get(*kind).is_some_and(|m| !m.is_null()))
    {
        let mut inner = json!({ part: {} });
        for (to, from) in fields.iter() {
            let value = metric[*kind].get(*from).unwrap_or(&Value::Null).clone();
            if value.is_null() {
                continue;
            }
            match to.trim_start_matches('/').split_once('/') {
                None => set(&mut inner, &to[1..], value),
                Some((outer, key)) => {
                    if let Some(holder) = child(&mut inner, outer) {
                        set(holder, key, value);
                    }
                }
            }
        }
        if part == "target"
            && let Some(target) = inner.get_mut("target")
        {
            let has = |key: &str| target.get(key).is_some();
            let target_type = match *kind {
                "resource" | "containerResource" if has("averageUtilization") => "Utilization",
                "object" if !has("averageValue") => "Value",
                "external" if has("value") => "Value",
                _ => "AverageValue",
            };
            set(target, "type", target_type);
            // v1 cannot leave an object's value out, only those of the others.
            if *kind == "object" && has_zero_value(target) {
                remove(target, "value");
            }
        }
        set(&mut out, kind, inner);
    }
    out
}

fn has_zero_value(target: &Value) -> bool {
    target.has("/averageValue") && target.text("/value") == "0"
}

/// Go's names of an internal struct to those of v2; what is null is left out.
fn from_go(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let lower = |key: String| key[..1].to_lowercase() + &key[1..];
            let kept = fields
                .into_iter()
                .filter(|(k, v)| !v.is_null() && k.is_ascii() && !k.is_empty());
            Value::Object(kept.map(|(k, v)| (lower(k), from_go(v))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(from_go).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_survives_the_way_through_v1() {
        let v2 = json!({
            "metadata": {"name": "a", "annotations": {"x": "y"}},
            "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}},
                "metrics": [
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "hits"},
                        "target": {"type": "Value", "value": "10k"}}},
                    {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
                        "target": {"type": "AverageValue", "averageValue": "30"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ]},
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "400m"}}}]},
        });
        let mut value = v2.clone();
        to_v1(&mut value);
        assert_eq!(value["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(value["status"]["currentCPUUtilizationPercentage"], 40);
        assert_eq!(
            value["metadata"]["annotations"][METRICS],
            r#"[{"type":"Object","object":{"target":{"kind":"Service","name":"s"},"metricName":"hits","targetValue":"10k"}},{"type":"External","external":{"metricName":"queue","metricSelector":{"matchLabels":{"q":"a"}},"targetAverageValue":"30"}}]"#
        );
        assert_eq!(
            value["metadata"]["annotations"][BEHAVIOR],
            r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":null,"Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":60}],"Tolerance":null}}"#
        );
        to_v2(&mut value);
        assert_eq!(value, v2);
    }

    #[test]
    fn zeros_of_external_metrics_survive_the_way_through_v1_those_of_objects_do_not() {
        let zeros = json!({"type": "Value", "value": "0", "averageValue": "0"});
        let mut value = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 1, "metrics": [
            {"type": "External", "external": {"metric": {"name": "queue"}, "target": zeros}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "hits"}, "target": zeros}},
        ]}});
        to_v1(&mut value);
        to_v2(&mut value);
        assert_eq!(value["spec"]["metrics"][0]["external"]["target"], zeros);
        let average = json!({"type": "AverageValue", "averageValue": "0"});
        assert_eq!(value["spec"]["metrics"][1]["object"]["target"], average);
    }

    #[test]
    fn an_autoscaler_of_v1_without_target_aims_at_80_percent() {
        let mut value = json!({"metadata": {"annotations": {METRICS: "no json"}}, "spec": {"maxReplicas": 1}});
        to_v2(&mut value);
        assert_eq!(
            value["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            80
        );
        assert!(value["metadata"].get("annotations").is_none());
    }
}
