//! Events: what happened to an object. One kind in two dresses: core v1 and events.k8s.io/v1, stored as core v1.
//!
//! Only the newer dress is strict. Its faults name the fields of the core form all the same, as upstream's do.

use crate::table::{self, NAME, column};
use crate::view::{View, remove, same, set};
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const SHORT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;
/// Fields that differ: in events.k8s.io, in core.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

pub static KINDS: &[&Kind] = &[&CORE, &EVENTS];

pub static CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    default: nothing::default,
    prepare_create: nothing::prepare_create,
    prepare_update: nothing::prepare_update,
    validate: |event| legacy(event, "reportingComponent"),
    validate_update: |new, _| legacy(new, "reportingComponent"),
    warnings: nothing::warnings,
    validate_name: meta::name_path_segment,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: true,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[
        ("involvedObject.kind", |e| e.text("/involvedObject/kind").into()),
        ("involvedObject.namespace", |e| {
            e.text("/involvedObject/namespace").into()
        }),
        ("involvedObject.name", |e| e.text("/involvedObject/name").into()),
        ("involvedObject.uid", |e| e.text("/involvedObject/uid").into()),
        ("involvedObject.apiVersion", |e| {
            e.text("/involvedObject/apiVersion").into()
        }),
        ("involvedObject.resourceVersion", |e| {
            e.text("/involvedObject/resourceVersion").into()
        }),
        ("involvedObject.fieldPath", |e| {
            e.text("/involvedObject/fieldPath").into()
        }),
        ("reason", |e| e.text("/reason").into()),
        ("reportingComponent", |e| e.text("/reportingComponent").into()),
        ("source", |e| {
            either(e.text("/source/component"), e.text("/reportingComponent")).into()
        }),
        ("type", |e| e.text("/type").into()),
    ],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: Event
metadata: {name: web.1, namespace: default}
involvedObject: {kind: Pod, name: web, namespace: default}
reason: Started
message: Started container web
type: Normal
",
};

pub static EVENTS: Kind = Kind {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    default: nothing::default,
    prepare_create: nothing::prepare_create,
    prepare_update: nothing::prepare_update,
    validate: |event| strict_create(&core_form(event)),
    validate_update: |new, old| strict_update(&core_form(new), &core_form(old)),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: true,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[
        ("regarding.kind", |e| e.text("/regarding/kind").into()),
        ("regarding.namespace", |e| e.text("/regarding/namespace").into()),
        ("regarding.name", |e| e.text("/regarding/name").into()),
        ("regarding.uid", |e| e.text("/regarding/uid").into()),
        ("regarding.apiVersion", |e| e.text("/regarding/apiVersion").into()),
        ("regarding.resourceVersion", |e| {
            e.text("/regarding/resourceVersion").into()
        }),
        ("regarding.fieldPath", |e| e.text("/regarding/fieldPath").into()),
        ("reason", |e| e.text("/reason").into()),
        ("reportingController", |e| e.text("/reportingController").into()),
        ("type", |e| e.text("/type").into()),
    ],
    table: Some(Table {
        columns: COLUMNS,
        row: |event, now| row(&core_form(event), now),
        conditions: nothing::conditions,
    }),
    example: "apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: web.2, namespace: default}
eventTime: '2026-01-01T00:00:00.000000Z'
regarding: {kind: Pod, name: web, namespace: default}
reportingController: example.com/controller
reportingInstance: controller-1
action: Starting
reason: Started
note: Started container web
type: Normal
",
};

fn either<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

/// Makes an events.k8s.io Event of a core one, in place.
pub fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(new, old)| (*old, *new));
}

/// Makes a core Event of an events.k8s.io one, in place.
pub fn to_core(event: &mut Value) {
    rename(event, "v1", |(new, old)| (*new, *old));
}

fn rename(event: &mut Value, version: &str, pick: fn(&(&'static str, &'static str)) -> (&'static str, &'static str)) {
    set(event, "apiVersion", version);
    for pair in NAMES {
        let (from, to) = pick(pair);
        if let Some(value) = event.as_object_mut().and_then(|o| o.remove(from)) {
            set(event, to, value);
        }
    }
    if version == "v1" {
        // Core writes this map always.
        crate::view::set_default(event, "involvedObject", serde_json::json!({}));
    } else if event.get("deprecatedCount").and_then(Value::as_i64) == Some(0) {
        remove(event, "deprecatedCount");
    }
}

fn core_form(event: &Value) -> Value {
    let mut event = event.clone();
    to_core(&mut event);
    event
}

fn legacy(event: &Value, controller: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let namespace = event.text("/metadata/namespace");
    let about = event.text("/involvedObject/namespace");
    let mismatch = |errors: &mut FieldErrors| {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, about, "does not match event.namespace"));
    };
    if event.has("/eventTime") {
        if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch(&mut errors);
        }
        let (own, path) = (event.text("/reportingComponent"), Path::new(controller));
        if own.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        errors.extend(
            name::qualified_name(own)
                .into_iter()
                .map(|m| FieldError::invalid(&path, own, m)),
        );
        for key in ["reportingInstance", "action", "reason"] {
            let (text, path) = (event.text(&format!("/{key}")), Path::new(key));
            if text.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            if text.len() > SHORT_MAX {
                errors.push(FieldError::invalid(
                    &path,
                    "",
                    format!("can have at most {SHORT_MAX} characters"),
                ));
            }
        }
        if event.text("/message").len() > NOTE_MAX {
            let why = format!("can have at most {NOTE_MAX} characters");
            errors.push(FieldError::invalid(&Path::new("message"), "", why));
        }
    } else if about.is_empty() {
        if !matches!(namespace, "" | "default") {
            mismatch(&mut errors);
        }
    } else if about != namespace {
        mismatch(&mut errors);
    }
    let path = Path::new("namespace");
    errors.extend(
        name::dns1123_subdomain(namespace)
            .into_iter()
            .map(|m| FieldError::invalid(&path, namespace, m)),
    );
    errors
}

fn series(event: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if event.has("/series") {
        if event.int("/series/count") < 2 {
            errors.push(FieldError::invalid(
                &Path::new("series.count"),
                "",
                "should be at least 2",
            ));
        }
        if !event.has("/series/lastObservedTime") {
            errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
        }
    }
    errors
}

fn strict_create(event: &Value) -> FieldErrors {
    let mut errors = legacy(event, "reportingController");
    errors.extend(meta::validate_create(event, true, meta::name_subdomain));
    errors.extend(meta::unqualified_finalizers(event));
    errors.extend(series(event));
    if !event.has("/eventTime") {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = event.text("/type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(
            &Path::new("type"),
            "",
            format!("has invalid value: {kind}"),
        ));
    }
    let mut unset = |key: &str, set: bool| {
        if set {
            errors.push(FieldError::invalid(&Path::new(key), "", "needs to be unset"));
        }
    };
    unset("firstTimestamp", event.has("/firstTimestamp"));
    unset("lastTimestamp", event.has("/lastTimestamp"));
    unset("count", event.int("/count") != 0);
    unset(
        "source",
        !event.text("/source/component").is_empty() || !event.text("/source/host").is_empty(),
    );
    errors
}

fn strict_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = legacy(new, "reportingController");
    errors.extend(meta::unqualified_finalizers(new));
    if !same(new.at("/series"), old.at("/series")) {
        errors.extend(series(new));
    }
    for key in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        // Upstream looks at this one twice.
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let (a, b) = (
            new.get(key).unwrap_or(&Value::Null),
            old.get(key).unwrap_or(&Value::Null),
        );
        let equal = if key == "eventTime" {
            microseconds(a) == microseconds(b)
        } else {
            same(a, b)
        };
        if !equal {
            let shown = if key == "reportingComponent" {
                "reportingController"
            } else {
                key
            };
            let value = match a {
                Value::Null if !matches!(key, "eventTime" | "firstTimestamp" | "lastTimestamp" | "related") => {
                    BadValue::from("")
                }
                a if matches!(key, "involvedObject" | "related") && !a.is_null() => {
                    BadValue::Raw(crate::internal::compact("ObjectReference", a))
                }
                a if key == "source" && !a.is_null() => BadValue::Raw(crate::internal::compact("EventSource", a)),
                other => BadValue::from(other),
            };
            errors.push(FieldError::invalid(&Path::new(shown), value, "field is immutable"));
        }
    }
    errors
}

/// The microsecond of a time: finer parts may be lost on the way.
fn microseconds(time: &Value) -> Option<i64> {
    time.as_str()
        .and_then(|t| t.parse::<Timestamp>().ok())
        .map(Timestamp::as_microsecond)
}

const COLUMNS: &[Column] = &[
    column("Last Seen", "string", 0, "When this was observed most recently."),
    column("Type", "string", 0, "Normal or Warning."),
    column("Reason", "string", 0, "Why, as one word for programs."),
    column("Object", "string", 0, "The object this is about."),
    column("Subobject", "string", 1, "The part of the object this is about."),
    column("Source", "string", 1, "Who reported it."),
    column("Message", "string", 0, "What happened, for people."),
    column("First Seen", "string", 1, "When this was observed first."),
    column("Count", "string", 1, "How often this was observed."),
    Column { priority: 1, ..NAME },
];

fn row(event: &Value, now: &Timestamp) -> Vec<Value> {
    let since = |p: &str| table::since(event.text(p), now);
    let first = if event.has("/firstTimestamp") {
        since("/firstTimestamp")
    } else {
        since("/eventTime")
    };
    let mut last = if event.has("/lastTimestamp") {
        since("/lastTimestamp")
    } else {
        first.clone()
    };
    let mut count = event.int("/count");
    if event.has("/series") {
        last = since("/series/lastObservedTime");
        count = event.int("/series/count");
    } else if count == 0 {
        count = 1;
    }
    let kind = event.text("/involvedObject/kind").to_lowercase();
    let object = match event.text("/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = either(event.text("/source/component"), event.text("/reportingComponent"));
    let source = match either(event.text("/source/host"), event.text("/reportingInstance")) {
        "" => component.to_string(),
        host => format!("{component}, {host}"),
    };
    vec![
        last.into(),
        event.text("/type").into(),
        event.text("/reason").into(),
        object.into(),
        event.text("/involvedObject/fieldPath").into(),
        source.into(),
        event.text("/message").trim().into(),
        first.into(),
        count.into(),
        event.text("/metadata/name").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_dresses_hold_the_same_event() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "message": "m",
            "involvedObject": {"kind": "Pod"}, "source": {"component": "c"}, "count": 3, "reportingComponent": "r"});
        let mut other = core.clone();
        from_core(&mut other);
        assert_eq!(other["note"], "m");
        assert_eq!(other["reportingController"], "r");
        assert_eq!(other["deprecatedCount"], 3);
        to_core(&mut other);
        assert_eq!(other, core);
    }

    #[test]
    fn the_namespace_is_the_one_of_the_object() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(
            texts(&legacy(&event, "reportingComponent")),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
    }

    #[test]
    fn the_newer_dress_is_strict() {
        let event = json!({"kind": "Event", "metadata": {"name": "e", "namespace": "default", "finalizers": ["mine"]}, "count": 1});
        assert_eq!(
            texts(&strict_create(&event)),
            [
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
                 fully qualified",
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: ",
                "count: Invalid value: \"\": needs to be unset"
            ]
        );
    }
}
