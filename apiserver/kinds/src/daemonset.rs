//! DaemonSets: one pod of a template on each node.

use crate::internal;
use crate::pod::template;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, equal_as, put_back, same, set, set_default, set_if_empty};
use crate::workload::{self, amount, int_or_percent, non_negatives, up_to_all};
use crate::{Column, Context, Kind, Status, Table, meta, nothing, selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};

/// Where v1 keeps the count that older versions had as a field.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    default,
    prepare_create,
    prepare_update,
    validate: |set_| validate(set_, None),
    validate_update: |new, old| {
        let mut errors: FieldErrors = workload::fixed_selector(new, old).into_iter().collect();
        errors.extend(validate(new, Some(old)));
        errors
    },
    warnings: |new, old| workload::warnings(new, old, false),
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| {
            put_back(new, old, "spec");
            // For upstream it is part of the spec.
            set_generation(new, generation(old));
        },
        validate: validate_status,
    }),
    updates: &[],
    generation: true,
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
    example: "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: default}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: 'registry.example.com/agent:1'}]}
",
};

fn default(daemons: &mut Value) {
    template::default(daemons, "/spec/template");
    let Some(spec) = child(daemons, "spec") else { return };
    if let Some(strategy) = child(spec, "updateStrategy") {
        set_if_empty(strategy, "type", "RollingUpdate");
        if strategy.text("/type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
    }
    set_default(spec, "revisionHistoryLimit", 10);
}

fn set_generation(daemons: &mut Value, number: i64) {
    if let Some(annotations) = child(daemons, "metadata").and_then(|m| child(m, "annotations")) {
        set(annotations, TEMPLATE_GENERATION, number.to_string());
    }
}

fn generation(daemons: &Value) -> i64 {
    let found = daemons
        .entries("/metadata/annotations")
        .and_then(|a| a.get(TEMPLATE_GENERATION));
    found
        .and_then(Value::as_str)
        .and_then(|t| t.parse().ok())
        .unwrap_or_default()
}

fn prepare_create(daemons: &mut Value, context: &Context) {
    set(daemons, "status", json!({}));
    workload::prepare_template(daemons, context);
    let number = generation(daemons).max(1);
    set_generation(daemons, number);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    put_back(new, old, "status");
    workload::prepare_template(new, context);
    let (after, before) = (new.at("/spec/template"), old.at("/spec/template"));
    let changed = !equal_as("core.v1.PodTemplateSpec", after, before);
    set_generation(new, generation(old) + i64::from(changed));
}

fn validate(daemons: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = daemons.at("/spec");
    let lenient = old.is_some_and(|o| same(o.at("/spec/selector"), spec.at("/selector")));
    let at = path.child("template");
    let pod = spec.at("/template");
    // Upstream compares labels before it says that the selector is empty, and does not ask for one.
    let mut errors: FieldErrors = Vec::new();
    if spec.has("/selector") {
        errors = workload::validate_selector(spec, lenient, "daemonset", &path);
    }
    let empty = errors.pop_if(|e| e.to_string().ends_with("for daemonset"));
    errors.extend(workload::validate_match(spec.at("/selector"), pod, &at));
    errors.extend(empty);
    errors.extend(template::validate(pod, old.map(|o| o.at("/spec/template")), &at));
    errors.extend(workload::keeps_running(pod, "DaemonSet", &at));
    errors.extend(non_negatives(spec, &["minReadySeconds"], &path));
    errors.extend(strategy(spec.at("/updateStrategy"), &path.child("updateStrategy")));
    errors.extend(non_negatives(spec, &["revisionHistoryLimit"], &path));
    errors
}

fn strategy(strategy: &Value, path: &Path) -> FieldErrors {
    let place = path.child("rollingUpdate");
    let rolling = strategy.at("/rollingUpdate");
    match strategy.text("/type") {
        "OnDelete" => Vec::new(),
        "RollingUpdate" if rolling.is_null() => vec![FieldError::required(&place, "")],
        "RollingUpdate" => rolling_update(rolling, &place),
        _ => {
            // Upstream prints its internal struct.
            let shown = internal::compact("DaemonSetUpdateStrategy", strategy);
            vec![FieldError::not_supported(
                path,
                BadValue::Raw(shown),
                &["RollingUpdate", "OnDelete"],
            )]
        }
    }
}

fn rolling_update(rolling: &Value, path: &Path) -> FieldErrors {
    let (unavailable, surge) = (rolling.at("/maxUnavailable"), rolling.at("/maxSurge"));
    let (at_unavailable, at_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
    let mut errors = int_or_percent(unavailable, &at_unavailable);
    errors.extend(int_or_percent(surge, &at_surge));
    errors.extend(up_to_all(unavailable, &at_unavailable));
    errors.extend(up_to_all(surge, &at_surge));
    match (amount(unavailable) != 0, amount(surge) != 0) {
        (true, true) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&at_surge, workload::shown_amount(surge), why));
        }
        (false, false) => {
            errors.push(FieldError::required(&at_unavailable, "cannot be 0 when maxSurge is 0"));
        }
        _ => {}
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> FieldErrors {
    let keys = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    let mut errors = non_negatives(new.at("/status"), &keys, &Path::new("status"));
    errors.extend(workload::collisions(new, old));
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", 0, "How many nodes should have a pod."),
    column("Current", "integer", 0, "How many of them have one."),
    column("Ready", "integer", 0, "How many of these are ready."),
    column("Up-to-date", "integer", 0, "How many have the newest template."),
    column("Available", "integer", 0, "How many have been ready for long enough."),
    column("Node Selector", "string", 0, "The labels of the nodes that get a pod."),
    AGE,
    column("Containers", "string", 1, "Names of each container in the template."),
    column(
        "Images",
        "string",
        1,
        "Images referenced by each container in the template.",
    ),
    column("Selector", "string", 1, "The labels of the pods that belong to it."),
];

fn row(daemons: &Value, now: &Timestamp) -> Vec<Value> {
    let (names, images) = table::containers(daemons.at("/spec/template/spec"));
    let nodes = selector::format_map(daemons.at("/spec/template/spec/nodeSelector"));
    let count = |key: &str| Value::from(daemons.int(&format!("/status/{key}")));
    vec![
        daemons.text("/metadata/name").into(),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        if nodes.is_empty() {
            "<none>".into()
        } else {
            nodes.into()
        },
        table::age(daemons, now),
        names.into(),
        images.into(),
        table::selector_cell(daemons.at("/spec/selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_template_raises_the_template_generation() {
        let mut old = json!({"spec": {"template": {"a": 1}}});
        prepare_create(&mut old, &Context::default());
        assert_eq!(generation(&old), 1);
        let mut new = json!({"spec": {"template": {"a": 2}}});
        prepare_update(&mut new, &old, &Context::default());
        assert_eq!(generation(&new), 2);
    }

    #[test]
    fn surge_and_unavailability_exclude_each_other() {
        let path = Path::new("r");
        let texts = |v: Value| {
            rolling_update(&v, &path)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts(json!({"maxUnavailable": 1, "maxSurge": 1})),
            ["r.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"]
        );
        assert_eq!(
            texts(json!({"maxUnavailable": 0, "maxSurge": "0%"})),
            ["r.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        assert_eq!(
            texts(json!({"maxUnavailable": "101%", "maxSurge": 0})),
            ["r.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
    }
}
