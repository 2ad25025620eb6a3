//! Deployments: a template rolled out over ReplicaSets.

use crate::pod::template;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, put_back, set, set_default, set_if_empty};
use crate::workload::{self, amount, at_most, int_or_percent, non_negatives, up_to_all};
use crate::{Column, Context, Kind, Scale, Status, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    default,
    prepare_create: |deployment, context| {
        set(deployment, "status", json!({}));
        workload::prepare_template(deployment, context);
    },
    prepare_update: |new, old, context| {
        put_back(new, old, "status");
        workload::prepare_template(new, context);
    },
    validate: |deployment| validate(deployment, None),
    validate_update: |new, old| {
        let mut errors = validate(new, Some(old));
        errors.extend(workload::fixed_selector(new, old));
        errors
    },
    warnings: |new, old| workload::warnings(new, old, true),
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: prepare_status,
        validate: validate_status,
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: Some(Scale {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: workload::scale_selector,
    }),
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'registry.example.com/web:1'}]}
",
};

fn default(deployment: &mut Value) {
    template::default(deployment, "/spec/template");
    let Some(spec) = child(deployment, "spec") else { return };
    set_default(spec, "replicas", 1);
    if let Some(strategy) = child(spec, "strategy") {
        set_if_empty(strategy, "type", "RollingUpdate");
        if strategy.text("/type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
}

fn validate(deployment: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = deployment.at("/spec");
    let mut errors = non_negatives(spec, &["replicas"], &path);
    errors.extend(workload::validate_selector(spec, false, "deployment", &path));
    errors.extend(workload::validate_template(
        spec,
        old.map(|o| o.at("/spec")),
        "ReplicaSet",
        &path,
    ));
    errors.extend(strategy(spec.at("/strategy"), &path.child("strategy")));
    errors.extend(non_negatives(
        spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        &path,
    ));
    if let Some(deadline) = spec
        .at("/progressDeadlineSeconds")
        .as_i64()
        .filter(|d| *d <= spec.int("/minReadySeconds"))
    {
        let place = path.child("progressDeadlineSeconds");
        errors.push(FieldError::invalid(
            &place,
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
    errors
}

fn strategy(strategy: &Value, path: &Path) -> FieldErrors {
    let place = path.child("rollingUpdate");
    match strategy.text("/type") {
        "Recreate" => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            strategy
                .has("/rollingUpdate")
                .then(|| FieldError::forbidden(&place, why))
                .into_iter()
                .collect()
        }
        "RollingUpdate" if !strategy.has("/rollingUpdate") => {
            vec![FieldError::required(
                &place,
                "this should be defaulted and never be nil",
            )]
        }
        "RollingUpdate" => rolling_update(strategy.at("/rollingUpdate"), &place),
        other => {
            // Upstream prints its internal struct.
            let rolling = match strategy.get("rollingUpdate") {
                Some(r) if r.is_object() => format!(
                    "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                    go_json(r.at("/maxUnavailable")),
                    go_json(r.at("/maxSurge"))
                ),
                _ => "null".to_string(),
            };
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", go_json(&other.into()));
            vec![FieldError::not_supported(
                path,
                BadValue::Raw(shown),
                &["Recreate", "RollingUpdate"],
            )]
        }
    }
}

fn rolling_update(rolling: &Value, path: &Path) -> FieldErrors {
    let (unavailable, surge) = (rolling.at("/maxUnavailable"), rolling.at("/maxSurge"));
    let place = path.child("maxUnavailable");
    let mut errors = int_or_percent(unavailable, &place);
    errors.extend(int_or_percent(surge, &path.child("maxSurge")));
    if amount(unavailable) == 0 && amount(surge) == 0 {
        errors.push(FieldError::invalid(
            &place,
            workload::shown_amount(unavailable),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    errors.extend(up_to_all(unavailable, &place));
    errors
}

fn prepare_status(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "spec");
    if let Some(metadata) = new.get_mut("metadata") {
        put_back(metadata, old.at("/metadata"), "labels");
    }
}

fn validate_status(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status");
    let status = new.at("/status");
    let keys = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    let mut errors = non_negatives(status, &keys, &path);
    let total = "cannot be greater than status.replicas";
    let rules = [
        ("updatedReplicas", "replicas", total),
        ("readyReplicas", "replicas", total),
        ("availableReplicas", "replicas", total),
        (
            "availableReplicas",
            "readyReplicas",
            "cannot be greater than readyReplicas",
        ),
    ];
    errors.extend(at_most(status, &rules, &path));
    errors.extend(workload::collisions(new, old));
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", 0, "Number of the pod with ready state"),
    column("Up-to-date", "string", 0, "How many pods have the newest template."),
    column(
        "Available",
        "string",
        0,
        "How many pods have been ready for long enough.",
    ),
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

fn row(deployment: &Value, now: &Timestamp) -> Vec<Value> {
    let (names, images) = table::containers(deployment.at("/spec/template/spec"));
    vec![
        deployment.text("/metadata/name").into(),
        format!(
            "{}/{}",
            deployment.int("/status/readyReplicas"),
            deployment.int("/spec/replicas")
        )
        .into(),
        deployment.int("/status/updatedReplicas").into(),
        deployment.int("/status/availableReplicas").into(),
        table::age(deployment, now),
        names.into(),
        images.into(),
        workload::scale_selector(deployment).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spec: Value) -> Vec<String> {
        let mut deployment = json!({ "spec": spec });
        default(&mut deployment);
        validate(&deployment, None).iter().map(ToString::to_string).collect()
    }
    fn good() -> Value {
        json!({"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}})
    }

    #[test]
    fn faults_of_deployments_have_upstreams_words() {
        assert!(texts(good()).is_empty());
        let mut spec = good();
        spec["template"]["metadata"]["labels"] = json!({"a": "c"});
        assert_eq!(
            texts(spec),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
            ]
        );
        let mut spec = good();
        spec["selector"] = json!({});
        spec["replicas"] = json!(-1);
        assert_eq!(
            texts(spec),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment"
            ]
        );
        let mut spec = good();
        spec["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}});
        assert_eq!(
            texts(spec),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
        let mut spec = good();
        spec["strategy"] = json!({"type": "Slow"});
        assert_eq!(
            texts(spec),
            [
                "spec.strategy: Unsupported value: {\"Type\":\"Slow\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\""
            ]
        );
        let mut spec = good();
        spec["template"]["spec"]["restartPolicy"] = json!("Never");
        spec["progressDeadlineSeconds"] = json!(5);
        spec["minReadySeconds"] = json!(5);
        assert_eq!(
            texts(spec),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"
            ]
        );
    }

    #[test]
    fn values_are_shown_as_they_were_sent() {
        let mut spec = good();
        spec["template"]["metadata"]["labels"] = json!({});
        assert_eq!(
            texts(spec),
            ["spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`"]
        );
        let mut spec = good();
        spec["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "\u{200b}", "maxSurge": 1}});
        let text = texts(spec).remove(0);
        assert!(
            text.starts_with(
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"\u{200b}\": a valid percent"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_selector_stays() {
        let old = json!({ "spec": good() });
        let mut new = old.clone();
        new["spec"]["selector"] = json!({"matchLabels": {"x": "y"}});
        let errors: Vec<String> = (KIND.validate_update)(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(errors.contains(
            &"spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"y\"}}: field is immutable".to_string()
        ));
    }

    #[test]
    fn counts_in_the_status_add_up() {
        let new = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}});
        let old = json!({"status": {"collisionCount": 2}});
        let texts: Vec<String> = validate_status(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
                "status.collisionCount: Invalid value: 0: cannot be decremented",
            ]
        );
    }
}
