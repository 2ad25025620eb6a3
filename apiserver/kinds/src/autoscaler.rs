//! HorizontalPodAutoscalers: how many pods of something there should be, by what they measure. Two versions of one
//! thing: autoscaling/v2, and autoscaling/v1 that knows CPU alone ([`convert`]). All rules are v2's.

pub mod convert;

use crate::resources::{self, quantity};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, invalid, put_back, remove, set, set_default};
use crate::{Column, Context, Kind, Status, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;
/// Metrics shown by name; the rest is counted.
const SHOWN_MAX: usize = 2;
const SOURCES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

pub static KINDS: &[&Kind] = &[&KIND, &KIND_V1];

pub static KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    default,
    prepare_create: |scaler, _| remove(scaler, "status"),
    prepare_update: |new, old, _| put_back(new, old, "status"),
    validate: |scaler| validate(scaler, None),
    validate_update: |new, old| validate(new, Some(old)),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: |new, _| validate_status(new),
    }),
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 10
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
",
};

pub static KIND_V1: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    // Upstream writes the annotations itself, so that they never say anything that v2 does not.
    default: |scaler| {
        convert::to_v2(scaler);
        default(scaler);
        convert::to_v1(scaler);
    },
    prepare_create: prepare_create_v1,
    prepare_update: |new, old, _| put_back_v1(new, old, "status"),
    validate: |scaler| validate(&in_v2(scaler), None),
    validate_update: |new, old| validate(&in_v2(new), Some(&in_v2(old))),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back_v1(new, old, "spec"),
        validate: |new, _| validate_status(new),
    }),
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row: |scaler, now| row(&in_v2(scaler), now),
        conditions: nothing::conditions,
    }),
    example: "apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 10
  targetCPUUtilizationPercentage: 70
",
};

fn in_v2(scaler: &Value) -> Value {
    let mut scaler = scaler.clone();
    convert::to_v2(&mut scaler);
    scaler
}

/// Puts back a part, with what annotations say of it.
fn put_back_v1(new: &mut Value, old: &Value, part: &str) {
    convert::to_v2(new);
    put_back(new, &in_v2(old), part);
    convert::to_v1(new);
}

fn prepare_create_v1(scaler: &mut Value, _: &Context) {
    remove(scaler, "status");
    convert::drop_annotations(scaler, &convert::STATUS_ANNOTATIONS);
}

fn default(scaler: &mut Value) {
    let Some(spec) = child(scaler, "spec") else { return };
    set_default(spec, "minReplicas", 1);
    if spec.items("/metrics").is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": 80 });
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } });
        set(spec, "metrics", vec![metric]);
    }
    if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
        let policy = |kind: &str, value: i64| json!({ "type": kind, "value": value, "periodSeconds": 15 });
        let percent = policy("Percent", 100);
        if let Some(up) = child(behavior, "scaleUp") {
            set_default(up, "stabilizationWindowSeconds", 0);
            set_default(up, "selectPolicy", "Max");
            set_default(up, "policies", vec![policy("Pods", 4), percent.clone()]);
        }
        if let Some(down) = child(behavior, "scaleDown") {
            set_default(down, "selectPolicy", "Max");
            set_default(down, "policies", vec![percent]);
        }
    }
}

fn validate(scaler: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = scaler.at("/spec");
    let mut errors = Vec::new();
    let (least, most) = (spec.at("/minReplicas").as_i64(), spec.int("/maxReplicas"));
    let had_none = old.is_some_and(|o| o.at("/spec/minReplicas").as_i64() == Some(0));
    let bound = i64::from(!had_none);
    if let Some(least) = least.filter(|l| *l < bound) {
        let why = format!("must be greater than or equal to {bound}");
        errors.push(FieldError::invalid(&path.child("minReplicas"), least, why));
    }
    let place = path.child("maxReplicas");
    if most == 0 {
        errors.push(FieldError::required(&place, "must be set and greater than 0"));
    } else if most < 0 {
        errors.push(FieldError::invalid(&place, most, "must be greater than or equal to 1"));
    }
    if least.is_some_and(|l| most < l) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&place, most, why));
    }
    let target = spec.at("/scaleTargetRef");
    let unchanged = old.is_some_and(|o| {
        let was = o.at("/spec/scaleTargetRef");
        was.text("/kind") == target.text("/kind") && was.text("/apiVersion") == target.text("/apiVersion")
    });
    let version = match (unchanged, target.text("/kind")) {
        (true, _) => Version::Any,
        (false, "ReplicationController") => Version::Core,
        _ => Version::Grouped,
    };
    errors.extend(reference(target, version, &path.child("scaleTargetRef")));
    errors.extend(metrics(spec, old, &path.child("metrics")));
    for key in ["scaleUp", "scaleDown"] {
        let rules = spec.at("/behavior").get(key).unwrap_or(&Value::Null);
        errors.extend(scaling_rules(rules, &path.child("behavior").child(key)));
    }
    errors
}

/// What a reference's apiVersion may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Any,
    /// Core's as well.
    Core,
    /// With a group.
    Grouped,
}

fn reference(reference: &Value, version: Version, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["kind", "name"] {
        let (place, own) = (path.child(key), reference.at("").text(&format!("/{key}")));
        if own.is_empty() {
            errors.push(FieldError::required(&place, ""));
        } else {
            errors.extend(invalid(&place, own, name::path_segment(own)));
        }
    }
    let own = reference.text("/apiVersion");
    let fault = match own.matches('/').count() {
        _ if version == Version::Any => None,
        0 | 1 if version == Version::Grouped && (!own.contains('/') || own.starts_with('/')) => {
            Some("apiVersion must specify API group".to_string())
        }
        0 | 1 => None,
        _ => Some(format!("unexpected GroupVersion string: {own}")),
    };
    errors.extend(fault.map(|f| FieldError::invalid(&path.child("apiVersion"), own, f)));
    errors
}

fn metrics(spec: &Value, old: Option<&Value>, path: &Path) -> FieldErrors {
    let list = spec.items("/metrics");
    let bad = |m: &Value| {
        !reference(m.at("/object/describedObject"), Version::Core, &Path::none())
            .iter()
            .all(|e| !e.to_string().starts_with("apiVersion"))
    };
    let lenient = old.is_some_and(|o| o.items("/spec/metrics").iter().any(|m| m.has("/object") && bad(m)));
    let version = if lenient { Version::Any } else { Version::Core };
    let mut errors: FieldErrors = list
        .iter()
        .enumerate()
        .flat_map(|(i, m)| metric(m, version, &path.index(i)))
        .collect();
    let outside = |m: &Value| matches!(m.text("/type"), "Object" | "External");
    if spec.at("/minReplicas").as_i64() == Some(0) && !list.iter().any(outside) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(path, why));
    }
    errors
}

fn metric(metric: &Value, version: Version, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let kind = metric.text("/type");
    let place = path.child("type");
    if kind.is_empty() {
        errors.push(FieldError::required(&place, "must specify a metric source type"));
    }
    let known = SOURCES.contains(&kind);
    if !known {
        errors.push(FieldError::not_supported(&place, kind, SOURCES));
    }
    let present: Vec<&str> = ["object", "external", "pods", "resource", "containerResource"]
        .into_iter()
        .filter(|key| metric.get(*key).is_some_and(|v| !v.is_null()))
        .collect();
    if let Some(first) = present.first() {
        errors.extend(source(first, &metric[*first], version, &path.child(first)));
    }
    let mut expected = kind.to_string();
    if let Some(letter) = expected.get_mut(..1) {
        letter.make_ascii_lowercase();
    }
    if !known {
        errors.push(FieldError::not_supported(&place, kind, SOURCES));
    } else if !present.contains(&expected.as_str()) {
        let why = "must populate information for the given metric source";
        errors.push(FieldError::required(&path.child(&expected), why));
    }
    if present.len() != 1 {
        let why = "must populate the given metric source only";
        let others = present.iter().filter(|key| **key != expected);
        errors.extend(others.map(|key| FieldError::forbidden(&path.child(key), why)));
    }
    errors
}

fn source(kind: &str, source: &Value, version: Version, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let target = source.at("/target");
    let has = |key: &str| target.get(key).is_some_and(|v| !v.is_null());
    let at = path.child("target");
    match kind {
        "object" => errors.extend(reference(
            source.at("/describedObject"),
            version,
            &path.child("describedObject"),
        )),
        "resource" | "containerResource" => {
            let (own, place) = (source.text("/name"), path.child("name"));
            if own.is_empty() {
                errors.push(FieldError::required(&place, "must specify a resource name"));
            } else if kind == "containerResource" {
                errors.extend(resources::validate_container_name(own, &place));
            }
            let (own, place) = (source.text("/container"), path.child("container"));
            if kind == "containerResource" && own.is_empty() {
                errors.push(FieldError::required(&place, "must specify a container"));
            } else if kind == "containerResource" {
                errors.extend(invalid(&place, own, name::dns1123_label(own)));
            }
        }
        _ => {}
    }
    if matches!(kind, "object" | "external" | "pods") {
        let (own, place) = (source.text("/metric/name"), path.child("metric").child("name"));
        if own.is_empty() {
            errors.push(FieldError::required(&place, "must specify a metric name"));
        } else {
            errors.extend(invalid(&place, own, name::path_segment(own)));
        }
    }
    errors.extend(metric_target(target, &at));
    let missing = match kind {
        "object" if !has("value") && !has("averageValue") => {
            Some(("averageValue", "must set either a target value or averageValue"))
        }
        "external" if !has("value") && !has("averageValue") => Some((
            "averageValue",
            "must set either a target value for metric or a per-pod target",
        )),
        "pods" if !has("averageValue") => Some(("averageValue", "must specify a positive target averageValue")),
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => Some((
            "averageUtilization",
            "must set either a target raw value or a target utilization",
        )),
        _ => None,
    };
    errors.extend(missing.map(|(key, why)| FieldError::required(&at.child(key), why)));
    let both = match kind {
        "external" if has("value") && has("averageValue") => Some((
            "value",
            "may not set both a target value for metric and a per-pod target",
        )),
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => Some((
            "averageValue",
            "may not set both a target raw value and a target utilization",
        )),
        _ => None,
    };
    errors.extend(both.map(|(key, why)| FieldError::forbidden(&at.child(key), why)));
    errors
}

fn metric_target(target: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (kind, place) = (target.text("/type"), path.child("type"));
    if kind.is_empty() {
        errors.push(FieldError::required(&place, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&place, BadValue::typed(kind), why));
    }
    for key in ["value", "averageValue"] {
        if let Some(amount) = target
            .get(key)
            .and_then(Value::as_str)
            .filter(|a| quantity(a).sign() != 1)
        {
            errors.push(FieldError::invalid(&path.child(key), amount, "must be positive"));
        }
    }
    if let Some(share) = target.at("/averageUtilization").as_i64().filter(|s| *s < 1) {
        let place = path.child("averageUtilization");
        errors.push(FieldError::invalid(&place, share, "must be greater than 0"));
    }
    errors
}

fn scaling_rules(rules: &Value, path: &Path) -> FieldErrors {
    if rules.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let place = path.child("stabilizationWindowSeconds");
    match rules.at("/stabilizationWindowSeconds").as_i64() {
        Some(window) if window < 0 => {
            errors.push(FieldError::invalid(
                &place,
                window,
                "must be greater than or equal to zero",
            ));
        }
        Some(window) if window > WINDOW_MAX => {
            let why = format!("must be less than or equal to {WINDOW_MAX}");
            errors.push(FieldError::invalid(&place, window, why));
        }
        _ => {}
    }
    let choices = ["Disabled", "Max", "Min"];
    if let Some(other) = rules.at("/selectPolicy").as_str().filter(|p| !choices.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("selectPolicy"), other, &choices));
    }
    let place = path.child("policies");
    let policies = rules.items("/policies");
    if policies.is_empty() {
        errors.push(FieldError::required(&place, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = place.index(i);
        let kind = policy.text("/type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(FieldError::not_supported(&at.child("type"), kind, &["Percent", "Pods"]));
        }
        for key in ["value", "periodSeconds"] {
            let number = policy.int(&format!("/{key}"));
            if number <= 0 {
                errors.push(FieldError::invalid(&at.child(key), number, resources::NOT_POSITIVE));
            } else if key == "periodSeconds" && number > PERIOD_MAX {
                let why = format!("must be less than or equal to {PERIOD_MAX}");
                errors.push(FieldError::invalid(&at.child(key), number, why));
            }
        }
    }
    if let Some(tolerance) = rules.at("/tolerance").as_str() {
        errors.extend(resources::non_negative(&quantity(tolerance), &path.child("tolerance")));
    }
    errors
}

fn validate_status(scaler: &Value) -> FieldErrors {
    let path = Path::new("status");
    crate::workload::non_negatives(scaler.at("/status"), &["currentReplicas", "desiredReplicas"], &path)
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Reference", "string", 0, "What is scaled."),
    column("Targets", "string", 0, "What is measured, and what it should be."),
    column("MinPods", "string", 0, "The fewest pods there should be."),
    column("MaxPods", "string", 0, "The most pods there should be."),
    column("Replicas", "string", 0, "How many pods there are."),
    AGE,
];

fn row(scaler: &Value, now: &Timestamp) -> Vec<Value> {
    let target = scaler.at("/spec/scaleTargetRef");
    let least = scaler.at("/spec/minReplicas").as_i64();
    vec![
        scaler.text("/metadata/name").into(),
        format!("{}/{}", target.text("/kind"), target.text("/name")).into(),
        targets(scaler.items("/spec/metrics"), scaler.items("/status/currentMetrics")).into(),
        least.map_or("<unset>".to_string(), |l| l.to_string()).into(),
        scaler.int("/spec/maxReplicas").into(),
        scaler.int("/status/currentReplicas").into(),
        table::age(scaler, now),
    ]
}

/// `cpu: 40%/70%, 3/10 (avg) + 1 more...`
fn targets(metrics: &[Value], current: &[Value]) -> String {
    if metrics.is_empty() {
        return "<none>".into();
    }
    let all: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(i, metric)| one_target(metric, current.get(i).unwrap_or(&Value::Null)))
        .collect();
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn one_target(metric: &Value, current: &Value) -> String {
    const UNKNOWN: &str = "<unknown>";
    let kind = metric.text("/type");
    let key = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let target = |field: &str| metric.at(&format!("/{key}/target/{field}"));
    let known = current.get(key).is_some_and(|c| !c.is_null());
    let now = |field: &str| current.at(&format!("/{key}/current/{field}"));
    // A quantity that should be there but is not is Go's zero.
    let amount = |value: &Value| value.as_str().unwrap_or("0").to_string();
    let own = metric.text(&format!("/{key}/name"));
    match kind {
        "Pods" => {
            let is = if known {
                amount(now("averageValue"))
            } else {
                UNKNOWN.into()
            };
            format!("{is}/{}", amount(target("averageValue")))
        }
        "External" | "Object" if target("averageValue").is_string() => {
            let is = now("averageValue").as_str().unwrap_or(UNKNOWN);
            format!("{is}/{} (avg)", amount(target("averageValue")))
        }
        "External" | "Object" => {
            let is = if known { amount(now("value")) } else { UNKNOWN.into() };
            format!("{is}/{}", amount(target("value")))
        }
        _ if target("averageValue").is_string() => {
            let is = if known {
                amount(now("averageValue"))
            } else {
                UNKNOWN.into()
            };
            format!("{own}: {is}/{}", amount(target("averageValue")))
        }
        _ => {
            let share = |value: &Value, otherwise: &str| match value.as_i64() {
                Some(percent) => format!("{percent}%"),
                None => otherwise.to_string(),
            };
            let (is, should) = (now("averageUtilization"), target("averageUtilization"));
            format!("{own}: {}/{}", share(is, UNKNOWN), share(should, "<auto>"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(spec: Value) -> Value {
        let mut scaler = json!({"metadata": {"name": "a"}, "spec": spec});
        default(&mut scaler);
        scaler
    }

    #[test]
    fn faults_have_upstreams_words() {
        let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
        for (spec, want) in [
            (json!({"scaleTargetRef": target, "maxReplicas": 3}), vec![]),
            (
                json!({"scaleTargetRef": {"kind": "Deployment", "name": "", "apiVersion": "v1"}, "minReplicas": 0}),
                vec![
                    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "spec.maxReplicas: Required value: must be set and greater than 0",
                    "spec.scaleTargetRef.name: Required value",
                    "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                ],
            ),
            (
                json!({"scaleTargetRef": target, "maxReplicas": 3, "metrics": [{"type": "Pods", "resource": {"name": "cpu", "target": {"type": "X"}}}]}),
                vec![
                    "spec.metrics[0].resource.target.type: Invalid value: \"X\": must be either Utilization, Value, or AverageValue",
                    "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                    "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                ],
            ),
        ] {
            let got: Vec<String> = validate(&scaler(spec), None).iter().map(ToString::to_string).collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_behavior_is_completed() {
        let got = scaler(json!({"maxReplicas": 1, "behavior": {"scaleUp": {"selectPolicy": "Min"}}}));
        assert_eq!(got["spec"]["behavior"]["scaleUp"]["selectPolicy"], "Min");
        assert_eq!(
            got["spec"]["behavior"]["scaleUp"]["policies"].as_array().unwrap().len(),
            2
        );
        assert_eq!(got["spec"]["behavior"]["scaleDown"]["policies"][0]["value"], 100);
    }

    #[test]
    fn targets_are_shown_beside_what_is() {
        let metric = |share: i64| json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": share}}});
        let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "3"}}});
        let now = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40}}});
        assert_eq!(
            targets(&[metric(70), pods.clone(), pods], &[now]),
            "cpu: 40%/70%, <unknown>/3 + 1 more..."
        );
    }
}
