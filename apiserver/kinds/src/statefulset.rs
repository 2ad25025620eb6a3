//! StatefulSets: pods with stable names and volumes of their own, made and removed in order.

use crate::claim;
use crate::pod::template;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, each_mut, equal_as, invalid, put_back, remove, set, set_default, set_if_empty};
use crate::workload::{self, amount, at_most, int_or_percent, non_negatives, up_to_all};
use crate::{Column, Context, Kind, Scale, Status, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

/// What an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    default,
    prepare_create: |set_, context| {
        set(set_, "status", json!({ "replicas": 0 }));
        drop_gated(set_, None);
        workload::prepare_template(set_, context);
    },
    prepare_update,
    validate: |set_| validate(set_, None),
    validate_update,
    warnings,
    validate_name: meta::name_label,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
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
kind: StatefulSet
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - {name: db, image: 'registry.example.com/db:1', volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
",
};

fn default(object: &mut Value) {
    template::default(object, "/spec/template");
    let Some(spec) = child(object, "spec") else { return };
    set_if_empty(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = child(spec, "updateStrategy") {
        if strategy.text("/type").is_empty() {
            set(strategy, "type", "RollingUpdate");
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if strategy.text("/type") == "RollingUpdate"
            && let Some(rolling) = strategy.get_mut("rollingUpdate").filter(|r| r.is_object())
        {
            set_default(rolling, "partition", 0);
        }
    }
    if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        set_if_empty(policy, "whenDeleted", "Retain");
        set_if_empty(policy, "whenScaled", "Retain");
    }
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    for claim in each_mut(spec, "/volumeClaimTemplates") {
        // Upstream does not keep what the client says here.
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        (claim::KIND.default)(claim);
    }
}

/// `maxUnavailable` is behind a gate that is off.
fn drop_gated(object: &mut Value, old: Option<&Value>) {
    let pointer = "/spec/updateStrategy/rollingUpdate";
    let used = old.is_some_and(|o| o.at(pointer).has("/maxUnavailable"));
    if let Some(rolling) = object.pointer_mut(pointer).filter(|_| !used) {
        remove(rolling, "maxUnavailable");
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    put_back(new, old, "status");
    drop_gated(new, Some(old));
    workload::prepare_template(new, context);
}

fn validate(object: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = object.at("/spec");
    let mut errors = Vec::new();
    let place = path.child("podManagementPolicy");
    match spec.text("/podManagementPolicy") {
        "" => errors.push(FieldError::required(&place, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(FieldError::invalid(
            &place,
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
    errors.extend(strategy(spec.at("/updateStrategy"), &path.child("updateStrategy")));
    for key in ["whenDeleted", "whenScaled"] {
        let policy = spec
            .at("/persistentVolumeClaimRetentionPolicy")
            .get(key)
            .and_then(Value::as_str);
        if let Some(other) = policy.filter(|p| !matches!(*p, "Retain" | "Delete")) {
            let place = path.child("persistentVolumeClaimRetentionPolicy").child(key);
            errors.push(FieldError::not_supported(&place, other, &["Retain", "Delete"]));
        }
    }
    if old.is_none() {
        for (i, claim) in spec.items("/volumeClaimTemplates").iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(i).child("spec");
            errors.extend(claim::validate_spec(claim.at("/spec"), &at));
        }
    }
    errors.extend(non_negatives(spec, &["replicas", "minReadySeconds"], &path));
    if let Some(start) = spec.at("/ordinals/start").as_i64() {
        errors.extend(crate::view::non_negative(&path.child("ordinals.start"), start));
    }
    let service = spec.text("/serviceName");
    if old.is_none() && !service.is_empty() {
        errors.extend(invalid(
            &path.child("serviceName"),
            service,
            name::dns1123_label(service),
        ));
    }
    errors.extend(workload::validate_selector(spec, false, "statefulset", &path));
    let at = path.child("template");
    let pod = with_claims(spec);
    match workload::unusable(spec.at("/selector"), "", &path) {
        Some(error) => errors.push(error),
        None => {
            errors.extend(workload::validate_match(spec.at("/selector"), &pod, &at));
            let before = old.map(|o| with_claims(o.at("/spec")));
            errors.extend(template::validate(&pod, before.as_ref(), &at));
            errors.extend(template::validate_metadata(&pod, &at));
        }
    }
    errors.extend(workload::keeps_running(spec.at("/template"), "StatefulSet", &at));
    errors
}

/// The template as its pods will be: with the volumes made from the claims, without names that each pod gets.
fn with_claims(spec: &Value) -> Value {
    let mut pod = spec.at("/template").clone();
    let mut claims: Vec<&str> = Vec::new();
    for own in spec
        .items("/volumeClaimTemplates")
        .iter()
        .map(|c| c.text("/metadata/name"))
    {
        if !claims.contains(&own) {
            claims.push(own);
        }
    }
    let own = pod
        .items("/spec/volumes")
        .iter()
        .filter(|v| !claims.contains(&v.text("/name")))
        .cloned();
    let made = claims
        .iter()
        .map(|c| json!({ "name": c, "persistentVolumeClaim": { "claimName": c } }));
    let volumes: Vec<Value> = made.chain(own).collect();
    if let Some(spec) = pod.get_mut("spec") {
        remove(spec, "subdomain");
        remove(spec, "hostname");
        if !claims.is_empty() {
            set(spec, "volumes", volumes);
        }
    }
    pod
}

fn strategy(strategy: &Value, path: &Path) -> FieldErrors {
    let rolling = strategy.at("/rollingUpdate");
    let place = path.child("rollingUpdate");
    // Upstream prints its internal structs.
    let shown = match rolling {
        Value::Object(_) => {
            let most = go_json(rolling.at("/maxUnavailable"));
            format!(
                "{{\"Partition\":{},\"MaxUnavailable\":{most}}}",
                rolling.int("/partition")
            )
        }
        _ => "null".to_string(),
    };
    match strategy.text("/type") {
        "" => vec![FieldError::required(path, "")],
        "OnDelete" if rolling.is_null() => Vec::new(),
        "OnDelete" => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            vec![FieldError::invalid(&place, BadValue::Raw(shown), why)]
        }
        "RollingUpdate" => {
            let mut errors = non_negatives(rolling, &["partition"], &place);
            let most = rolling.at("/maxUnavailable");
            let at = place.child("maxUnavailable");
            if !most.is_null() {
                errors.extend(int_or_percent(most, &at));
                if amount(most) == 0 {
                    errors.push(FieldError::invalid(&at, most, "cannot be 0"));
                }
                errors.extend(up_to_all(most, &at));
            }
            errors
        }
        other => {
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":{shown}}}", go_json(&other.into()));
            vec![FieldError::invalid(
                path,
                BadValue::Raw(shown),
                "must be 'RollingUpdate' or 'OnDelete'",
            )]
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate(new, Some(old));
    let mut munged = new.at("/spec").clone();
    for key in MUTABLE {
        put_back(&mut munged, old.at("/spec"), key);
    }
    if !equal_as("apps.v1.StatefulSetSpec", &munged, old.at("/spec")) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden(&Path::new("spec"), why));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status");
    let status = new.at("/status");
    let keys = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    let mut errors = non_negatives(status, &keys, &path);
    let total = "cannot be greater than status.replicas";
    let rules = [
        ("readyReplicas", "replicas", total),
        ("currentReplicas", "replicas", total),
        ("updatedReplicas", "replicas", total),
        ("availableReplicas", "replicas", total),
        (
            "availableReplicas",
            "readyReplicas",
            "cannot be greater than status.readyReplicas",
        ),
    ];
    errors.extend(at_most(status, &rules, &path));
    errors.extend(workload::collisions(new, old));
    errors
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = workload::warnings(new, old, false);
    if new.int("/spec/revisionHistoryLimit") < 0 {
        warnings.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .into(),
        );
    }
    warnings
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", 0, "Number of the pod with ready state"),
    AGE,
    column("Containers", "string", 1, "Names of each container in the template."),
    column(
        "Images",
        "string",
        1,
        "Images referenced by each container in the template.",
    ),
];

fn row(object: &Value, now: &Timestamp) -> Vec<Value> {
    let (names, images) = table::containers(object.at("/spec/template/spec"));
    vec![
        object.text("/metadata/name").into(),
        format!(
            "{}/{}",
            object.int("/status/readyReplicas"),
            object.int("/spec/replicas")
        )
        .into(),
        table::age(object, now),
        names.into(),
        images.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_fields_change() {
        let old = json!({"spec": {"serviceName": "a", "replicas": 1}});
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(2);
        let forbidden = |new: &Value| {
            validate_update(new, &old)
                .iter()
                .any(|e| e.detail.starts_with("updates to statefulset spec"))
        };
        assert!(!forbidden(&new));
        new["spec"]["serviceName"] = json!("b");
        assert!(forbidden(&new));
    }

    #[test]
    fn claims_stand_in_for_volumes() {
        let spec = json!({"template": {"spec": {"hostname": "h", "volumes": [{"name": "data", "emptyDir": {}}, {"name": "x", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]});
        let pod = with_claims(&spec);
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data");
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(2));
        assert!(pod["spec"].get("hostname").is_none());
    }
}
