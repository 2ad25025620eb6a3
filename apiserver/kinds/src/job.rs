//! Jobs: pods that run until enough of them have succeeded.

mod indexes;
mod status;

use crate::internal;
use crate::pod::template;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, each_mut, equal, equal_as, put_back, remove, same, set, set_default, set_if_empty};
use crate::workload::{self, non_negatives};
use crate::{Column, Context, Kind, Status, Table, meta, nothing, selector};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_types::LabelSelector;

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const PARALLELISM_MAX: i64 = 100_000;
const COMPLETIONS_SOFT: i64 = 100_000;
const MANY_LIMIT: i64 = 10_000;
const RULES_MAX: usize = 20;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    default,
    prepare_create,
    prepare_update: |new, old, context| {
        put_back(new, old, "status");
        workload::prepare_template(new, context);
    },
    validate: |job| validate(job, None),
    validate_update,
    warnings: |new, old| workload::warnings(new, old, true),
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: status::validate,
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: true,
    fields: &[("status.successful", |j| j.int("/status/succeeded").to_string())],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: batch/v1
kind: Job
metadata: {name: pi, namespace: default, uid: '1'}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: 'registry.example.com/pi:1'}]
",
};

fn default(job: &mut Value) {
    default_spec(job, "/spec");
    let labels = job.at("/spec/template/metadata/labels").clone();
    let own = job.entries("/metadata/labels").is_none_or(Map::is_empty);
    if own
        && labels.is_object()
        && let Some(metadata) = child(job, "metadata")
    {
        set(metadata, "labels", labels);
    }
    let Some(spec) = child(job, "spec") else { return };
    if !spec.has("/completions") && !spec.has("/parallelism") {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if spec.has("/backoffLimitPerIndex") { i32::MAX } else { 6 };
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    let policy = if spec.has("/podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_default(spec, "podReplacementPolicy", policy);
    set_default(spec, "manualSelector", false);
}

/// What a job's spec gets also inside a CronJob.
pub fn default_spec(object: &mut Value, pointer: &str) {
    template::default(object, &format!("{pointer}/template"));
    for rule in each_mut(object, &format!("{pointer}/podFailurePolicy/rules")) {
        for pattern in each_mut(rule, "/onPodConditions") {
            set_if_empty(pattern, "status", "True");
        }
    }
}

fn prepare_create(job: &mut Value, context: &Context) {
    set(job, "status", json!({}));
    workload::prepare_template(job, context);
    if job.flag("/spec/manualSelector") {
        return;
    }
    let (own, uid) = (
        job.text("/metadata/name").to_string(),
        job.text("/metadata/uid").to_string(),
    );
    let Some(spec) = child(job, "spec") else { return };
    let labels = child(spec, "template")
        .and_then(|t| child(t, "metadata"))
        .and_then(|m| child(m, "labels"));
    if let Some(labels) = labels {
        NAME_LABELS
            .iter()
            .for_each(|key| set_default(labels, key, own.as_str()));
        UID_LABELS.iter().for_each(|key| set_default(labels, key, uid.as_str()));
    }
    let copy = labels_of(spec);
    if let Some(labels) = child(spec, "selector").and_then(|s| child(s, "matchLabels")) {
        set_default(labels, UID_LABELS[1], uid);
    }
    // Defaulting after the store gives a job without labels those of its template.
    if job.entries("/metadata/labels").is_none_or(Map::is_empty)
        && let Some(metadata) = child(job, "metadata")
    {
        set(metadata, "labels", copy);
    }
}

fn labels_of(spec: &Value) -> Value {
    spec.at("/template/metadata/labels").clone()
}

fn validate(job: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = job.at("/spec");
    let mut errors = generated_selector(job, old);
    errors.extend(validate_whole_spec(spec, old.map(|o| o.at("/spec")), &path));
    let completions = spec.int("/completions");
    if spec.text("/completionMode") == "Indexed" && completions > 0 {
        let own = job.text("/metadata/name");
        let host = format!("{own}-{}", completions - 1);
        if !name::dns1123_label(&host).is_empty() {
            let place = Path::new("metadata").child("name");
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid(&place, own, why));
        }
    }
    errors
}

/// The spec with its selector, which must match the template.
fn validate_whole_spec(spec: &Value, old: Option<&Value>, path: &Path) -> FieldErrors {
    let mut errors = validate_spec(spec, old, path);
    let value = spec.at("/selector");
    let place = path.child("selector");
    if value.is_null() {
        errors.push(FieldError::required(&place, ""));
    } else {
        let typed = LabelSelector::deserialize(value).unwrap_or_default();
        let lenient = old.is_some_and(|o| same(o.at("/selector"), value));
        errors.extend(selector::validate(&typed, lenient, &place));
    }
    errors.extend(workload::validate_match(
        value,
        spec.at("/template"),
        &path.child("template"),
    ));
    errors
}

fn generated_selector(job: &Value, old: Option<&Value>) -> FieldErrors {
    let spec = job.at("/spec");
    let mut errors = Vec::new();
    if spec.flag("/manualSelector") || !spec.has("/selector") {
        return errors;
    }
    let (own, uid) = (job.text("/metadata/name"), job.text("/metadata/uid"));
    if uid.is_empty() {
        errors.push(FieldError::required(&Path::new("metadata").child("uid"), ""));
    }
    let labels = spec.at("/template/metadata/labels");
    let prefixed = old.is_none_or(|o| {
        let before = o.at("/spec/template/metadata/labels");
        [NAME_LABELS[1], UID_LABELS[1]].iter().all(|k| before.get(*k).is_some())
    });
    let place = Path::new("spec").child("template").child("metadata").child("labels");
    let mut expected = std::collections::BTreeMap::new();
    for i in 0..if prefixed { 2 } else { 1 } {
        for (key, want) in [(UID_LABELS[i], uid), (NAME_LABELS[i], own)] {
            expected.insert(key.to_string(), want.to_string());
            match labels.get(key).and_then(Value::as_str) {
                None => errors.push(FieldError::required(&place.key(key), format!("must be '{want}'"))),
                Some(found) if found != want => {
                    let why = format!("must be '{want}'");
                    errors.push(FieldError::invalid(&place.key(key), labels, why));
                }
                Some(_) => {}
            }
        }
    }
    if let Ok(typed) = LabelSelector::deserialize(spec.at("/selector"))
        && selector::validate(&typed, false, &Path::none()).is_empty()
        && !selector::matches(&typed, &expected)
    {
        let place = Path::new("spec").child("selector");
        let shown = selector::shown(spec.at("/selector"));
        errors.push(FieldError::invalid(&place, shown, "`selector` not auto-generated"));
    }
    errors
}

/// Faults of a job's spec, as jobs and CronJobs share them.
pub fn validate_spec(spec: &Value, old: Option<&Value>, path: &Path) -> FieldErrors {
    let keys = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    let mut errors = non_negatives(spec, &keys, path);
    if spec.has("/maxFailedIndexes") && !spec.has("/backoffLimitPerIndex") {
        let why = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), why));
    }
    if let Some(manager) = spec.at("/managedBy").as_str() {
        let place = path.child("managedBy");
        errors.extend(name::domain_prefixed_path(&place, manager));
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&place, 63));
        }
    }
    match spec.at("/completionMode").as_str() {
        Some("Indexed") => errors.extend(indexed(spec, path)),
        mode => {
            if let Some(other) = mode.filter(|m| *m != "NonIndexed") {
                let known = ["NonIndexed", "Indexed"];
                errors.push(FieldError::not_supported(&path.child("completionMode"), other, &known));
            } else {
                for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                    if let Some(number) = spec.get(key).and_then(Value::as_i64) {
                        errors.push(FieldError::invalid(
                            &path.child(key),
                            number,
                            "requires indexed completion mode",
                        ));
                    }
                }
            }
        }
    }
    if spec.has("/podFailurePolicy") {
        errors.extend(failure_policy(spec, &path.child("podFailurePolicy")));
    }
    if spec.has("/successPolicy") {
        let place = path.child("successPolicy");
        if spec.text("/completionMode") == "Indexed" {
            errors.extend(success_policy(spec, &place));
        } else {
            let why = "requires indexed completion mode";
            errors.push(FieldError::invalid(
                &place,
                BadValue::Raw(internal::compact("SuccessPolicy", spec.at("/successPolicy"))),
                why,
            ));
        }
    }
    if let Some(policy) = spec.at("/podReplacementPolicy").as_str() {
        let known: &[&str] = if spec.has("/podFailurePolicy") {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        if !known.contains(&policy) {
            errors.push(FieldError::not_supported(
                &path.child("podReplacementPolicy"),
                policy,
                known,
            ));
        }
    }
    let at = path.child("template");
    errors.extend(template::validate(
        spec.at("/template"),
        old.map(|o| o.at("/template")),
        &at,
    ));
    let place = at.child("spec").child("restartPolicy");
    match spec.text("/template/spec/restartPolicy") {
        "Always" | "" => {
            errors.push(FieldError::required(&place, "valid values: \"OnFailure\", \"Never\""));
        }
        "OnFailure" if spec.has("/podFailurePolicy") => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(&place, "OnFailure", why));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&place, other, &["OnFailure", "Never"])),
    }
    errors
}

fn indexed(spec: &Value, path: &Path) -> FieldErrors {
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    let (completions, parallelism) = (number("completions"), number("parallelism"));
    let (per_index, failed) = (number("backoffLimitPerIndex"), number("maxFailedIndexes"));
    let mut errors = Vec::new();
    if completions.is_none() {
        errors.push(FieldError::required(
            &path.child("completions"),
            "when completion mode is Indexed",
        ));
    }
    let mut over = |key: &str, value: Option<i64>, limit: i64, why: String| {
        if let Some(value) = value.filter(|v| *v > limit) {
            errors.push(FieldError::invalid(&path.child(key), value, why));
        }
    };
    let why = format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed");
    over("parallelism", parallelism, PARALLELISM_MAX, why);
    if let Some(completions) = completions {
        over(
            "maxFailedIndexes",
            failed,
            completions,
            "must be less than or equal to completions".into(),
        );
    }
    let why = format!("must be less than or equal to {PARALLELISM_MAX}");
    over("maxFailedIndexes", failed, PARALLELISM_MAX, why);
    if completions.is_some_and(|c| c > COMPLETIONS_SOFT) && per_index.is_some() {
        let why = format!(
            "must be less than or equal to {MANY_LIMIT} when completions are above {COMPLETIONS_SOFT} and used with backoff limit per index"
        );
        over("parallelism", parallelism, MANY_LIMIT, why.clone());
        over("maxFailedIndexes", failed, MANY_LIMIT, why);
        if failed.is_none() {
            let why = format!("must be specified when completions is above {COMPLETIONS_SOFT}");
            errors.push(FieldError::required(&path.child("maxFailedIndexes"), why));
        }
    }
    errors
}

fn failure_policy(spec: &Value, path: &Path) -> FieldErrors {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = spec.items("/podFailurePolicy/rules");
    let path = path.child("rules");
    let mut errors = Vec::new();
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, rules.len(), RULES_MAX));
    }
    let named = |key: &str| spec.items(key).iter().map(|c| c.text("/name"));
    let containers: BTreeSet<&str> = named("/template/spec/containers")
        .chain(named("/template/spec/initContainers"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let (action, place) = (rule.text("/action"), at.child("action"));
        match action {
            "" => {
                errors.push(FieldError::required(
                    &place,
                    "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                ));
            }
            "FailIndex" if !spec.has("/backoffLimitPerIndex") => {
                errors.push(FieldError::invalid(
                    &place,
                    action,
                    "requires the backoffLimitPerIndex to be set",
                ));
            }
            _ if !ACTIONS.contains(&action) => errors.push(FieldError::not_supported(&place, action, ACTIONS)),
            _ => {}
        }
        if rule.has("/onExitCodes") {
            errors.extend(exit_codes(
                rule.at("/onExitCodes"),
                &containers,
                &at.child("onExitCodes"),
            ));
        }
        let patterns = rule.items("/onPodConditions");
        let place = at.child("onPodConditions");
        if patterns.len() > RULES_MAX {
            errors.push(FieldError::too_many(&place, patterns.len(), RULES_MAX));
        }
        for (j, pattern) in patterns.iter().enumerate() {
            let at = place.index(j);
            let kind = pattern.text("/type");
            errors.extend(crate::view::invalid(
                &at.child("type"),
                kind,
                name::qualified_name(kind),
            ));
            let status = pattern.text("/status");
            match status {
                "" => errors.push(FieldError::required(
                    &at.child("status"),
                    "valid values: [\"False\" \"True\" \"Unknown\"]",
                )),
                "False" | "True" | "Unknown" => {}
                _ => {
                    let known = ["False", "True", "Unknown"];
                    errors.push(FieldError::not_supported(&at.child("status"), status, &known));
                }
            }
        }
        let one = match (rule.has("/onExitCodes"), patterns.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError::invalid(&at, BadValue::Omitted, one));
    }
    errors
}

fn exit_codes(rule: &Value, containers: &BTreeSet<&str>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (operator, place) = (rule.text("/operator"), path.child("operator"));
    match operator {
        "" => errors.push(FieldError::required(&place, "valid values: [\"In\" \"NotIn\"]")),
        "In" | "NotIn" => {}
        _ => errors.push(FieldError::not_supported(&place, operator, &["In", "NotIn"])),
    }
    if let Some(own) = rule.at("/containerName").as_str().filter(|c| !containers.contains(c)) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&path.child("containerName"), own, why));
    }
    let values: Vec<i64> = rule.items("/values").iter().filter_map(Value::as_i64).collect();
    let place = path.child("values");
    if values.is_empty() {
        errors.push(FieldError::invalid(
            &place,
            rule.at("/values"),
            "at least one value is required",
        ));
    } else if values.len() > 255 {
        errors.push(FieldError::too_many(&place, values.len(), 255));
    }
    for (i, code) in values.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(
                &place.index(i),
                *code,
                "must not be 0 for the In operator",
            ));
        }
        if values[..i].contains(code) {
            errors.push(FieldError::duplicate(&place.index(i), *code));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(&place, rule.at("/values"), "must be ordered"));
    }
    errors
}

fn success_policy(spec: &Value, path: &Path) -> FieldErrors {
    let rules = spec.items("/successPolicy/rules");
    let path = path.child("rules");
    let completions = spec.int("/completions");
    let mut errors = Vec::new();
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, why));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let (count, indexes) = (
            rule.at("/succeededCount").as_i64(),
            rule.at("/succeededIndexes").as_str(),
        );
        if count.is_none() && indexes.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(&at, why));
        }
        let mut total = 0;
        if let Some(text) = indexes {
            match indexes::count(text, completions) {
                Ok(number) => total = number,
                Err(why) => {
                    let why = format!("error parsing succeededIndexes: {why}");
                    errors.push(FieldError::invalid(&at.child("succeededIndexes"), text, why));
                }
            }
        }
        let Some(count) = count else { continue };
        let place = at.child("succeededCount");
        errors.extend(crate::view::non_negative(&place, count));
        if count > completions {
            let why = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(FieldError::invalid(&place, count, why));
        }
        if indexes.is_some() && count > total {
            let why = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(FieldError::invalid(&place, count, why));
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let mut errors = validate(new, Some(old));
    let (after, before) = (new.at("/spec"), old.at("/spec"));
    // Upstream looks at the spec here once more.
    errors.extend(validate_whole_spec(after, Some(before), &path));
    let fixed = |key: &str| {
        let (a, b) = (
            after.get(key).unwrap_or(&Value::Null),
            before.get(key).unwrap_or(&Value::Null),
        );
        let shown = match key {
            "podFailurePolicy" => pretty_or_null("PodFailurePolicy", a),
            "successPolicy" => pretty_or_null("SuccessPolicy", a),
            _ => a.as_str().map_or_else(|| BadValue::from(a), BadValue::typed),
        };
        (!equal(a, b)).then(|| FieldError::invalid(&path.child(key), shown, "field is immutable"))
    };
    if after.text("/completionMode") != "Indexed" {
        errors.extend(fixed("completions"));
    } else if let Some(completions) = after.at("/completions").as_i64()
        && completions != before.int("/completions")
        && completions != after.int("/parallelism")
    {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(&path.child("completions"), completions, why));
    }
    errors.extend(workload::fixed_selector(new, old));
    errors.extend(template_change(new, old, &path));
    for key in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        errors.extend(fixed(key));
    }
    errors
}

/// A suspended job may still be told where its pods should run, and what they need.
fn template_change(new: &Value, old: &Value, path: &Path) -> Option<FieldError> {
    let after = new.at("/spec/template");
    let mut before = old.at("/spec/template").clone();
    let suspended = old.flag("/spec/suspend");
    let paused = condition(old, "Suspended");
    let open = suspended && (!old.has("/status/startTime") || paused) && old.int("/status/active") == 0;
    if open {
        if let Some(metadata) = child(&mut before, "metadata") {
            put_back(metadata, after.at("/metadata"), "labels");
            put_back(metadata, after.at("/metadata"), "annotations");
        }
        if let Some(spec) = child(&mut before, "spec") {
            for key in ["nodeSelector", "tolerations", "schedulingGates"] {
                put_back(spec, after.at("/spec"), key);
            }
            // The nodes may change; an affinity that says nothing else comes and goes with them.
            let wanted = after.at("/spec/affinity");
            if (spec.has("/affinity") || !wanted.is_null())
                && let Some(affinity) = child(spec, "affinity")
            {
                put_back(affinity, wanted, "nodeAffinity");
                let emptied = affinity.as_object().is_some_and(serde_json::Map::is_empty);
                if emptied && wanted.is_null() {
                    remove(spec, "affinity");
                }
            }
            for key in ["containers", "initContainers"] {
                let wanted = after.items(&format!("/spec/{key}")).to_vec();
                for (container, wanted) in each_mut(spec, &format!("/{key}")).zip(&wanted) {
                    if container.text("/name") == wanted.text("/name") {
                        put_back(container, wanted, "resources");
                    }
                }
            }
        }
    }
    let path = path.child("template");
    let (path, after, before, name) = match open {
        true => (
            path.child("spec"),
            after.at("/spec"),
            before.at("/spec").clone(),
            "PodSpec",
        ),
        false => (path, after, before, "PodTemplateSpec"),
    };
    let shown = BadValue::Raw(internal::compact(name, after));
    let ty = format!("core.v1.{name}");
    (!equal_as(&ty, after, &before)).then(|| FieldError::invalid(&path, shown, "field is immutable"))
}

/// A pointer to one of upstream's internal structs.
fn pretty_or_null(name: &str, value: &Value) -> BadValue {
    match value {
        Value::Null => BadValue::from(value),
        _ => BadValue::Raw(internal::compact(name, value)),
    }
}

fn condition(job: &Value, kind: &str) -> bool {
    let found = job.items("/status/conditions").iter().find(|c| c.text("/type") == kind);
    found.is_some_and(|c| c.text("/status") == "True")
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", 0, "Status of the job."),
    column("Completions", "string", 0, "How many pods have succeeded."),
    column("Duration", "string", 0, "Time required to complete the job."),
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

fn row(job: &Value, now: &Timestamp) -> Vec<Value> {
    let succeeded = job.int("/status/succeeded");
    let completions = match (job.at("/spec/completions").as_i64(), job.int("/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |key: &str| job.text(&format!("/status/{key}")).parse::<Timestamp>().ok();
    let duration = match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), Some(end)) => table::human(end.as_second() - start.as_second()),
        (Some(_), None) => table::since(job.text("/status/startTime"), now),
    };
    let status = if condition(job, "Complete") {
        "Complete"
    } else if condition(job, "Failed") {
        "Failed"
    } else if job.has("/metadata/deletionTimestamp") {
        "Terminating"
    } else {
        let found = ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|k| condition(job, k));
        found.unwrap_or("Running")
    };
    let (names, images) = table::containers(job.at("/spec/template/spec"));
    vec![
        job.text("/metadata/name").into(),
        status.into(),
        completions.into(),
        duration.into(),
        table::age(job, now),
        names.into(),
        images.into(),
        table::selector_cell(job.at("/spec/selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        if let Some(spec) = child(&mut job, "spec") {
            set_default(
                spec,
                "template",
                json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}),
            );
        }
        default(&mut job);
        prepare_create(&mut job, &Context::default());
        job
    }
    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_job_finds_its_pods_by_uid() {
        let job = job(json!({}));
        assert_eq!(
            job["spec"]["selector"]["matchLabels"],
            json!({"batch.kubernetes.io/controller-uid": "u"})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert!(texts(&validate(&job, None)).is_empty());
    }

    #[test]
    fn faults_of_jobs_have_upstreams_words() {
        let mut always = job(json!({}));
        always["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        assert_eq!(
            texts(&validate(&always, None)),
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
        let indexed = job(json!({"completionMode": "Indexed", "parallelism": 1}));
        assert_eq!(
            texts(&validate(&indexed, None)),
            ["spec.completions: Required value: when completion mode is Indexed"]
        );
    }

    #[test]
    fn completions_and_template_stay() {
        let old = job(json!({}));
        let mut new = old.clone();
        new["spec"]["completions"] = json!(5);
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        let got = texts(&validate_update(&new, &old));
        assert_eq!(got[0], "spec.completions: Invalid value: 5: field is immutable");
        assert!(got[1].starts_with("spec.template: Invalid value: ") && got[1].ends_with("field is immutable"));
        let mut paused = old.clone();
        paused["spec"]["suspend"] = json!(true);
        let mut moved = paused.clone();
        moved["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert!(texts(&validate_update(&moved, &paused)).is_empty());
    }
}
