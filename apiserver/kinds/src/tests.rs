//! What must hold for every kind that has a file of its own.

use crate::{Context, Kind, meta, own};
use serde_json::Value;
use steersman_schema::codec::{MediaType, decode};

fn context() -> Context {
    Context {
        now: "2026-01-02T03:04:05Z".into(),
        user: "u".into(),
        ..Context::default()
    }
}

/// The kind's example, decoded, with static defaults and its own.
fn example(kind: &Kind) -> Value {
    let decoded = decode(MediaType::Yaml, kind.example.as_bytes(), None);
    let mut object = match decoded {
        Ok(decoded) => {
            assert!(decoded.strict.is_empty(), "{}: {:?}", kind.kind, decoded.strict);
            decoded.value
        }
        Err(e) => panic!("{}: {e}", kind.kind),
    };
    steersman_schema::defaults::apply(&mut object);
    (kind.default)(&mut object);
    object
}

#[test]
fn every_example_passes_its_own_rules() {
    for kind in own() {
        let mut object = example(kind);
        (kind.prepare_create)(&mut object, &context());
        let namespaced = object.pointer("/metadata/namespace").is_some();
        let errors = meta::validate_create(&object, namespaced, kind.validate_name);
        assert!(
            errors.is_empty(),
            "{}: {}",
            kind.kind,
            steersman_schema::field::aggregate(&errors)
        );
        let errors = (kind.validate)(&object);
        assert!(
            errors.is_empty(),
            "{}: {}",
            kind.kind,
            steersman_schema::field::aggregate(&errors)
        );
        let errors = (kind.validate_update)(&object, &object);
        assert!(
            errors.is_empty(),
            "{} update: {}",
            kind.kind,
            steersman_schema::field::aggregate(&errors)
        );
        assert!(
            (kind.warnings)(&object, None).is_empty(),
            "{}: an example should not warn",
            kind.kind
        );
    }
}

#[test]
fn defaulting_twice_changes_nothing() {
    for kind in own() {
        let once = example(kind);
        let mut twice = once.clone();
        steersman_schema::defaults::apply(&mut twice);
        (kind.default)(&mut twice);
        assert_eq!(once, twice, "{}", kind.kind);
    }
}

#[test]
fn an_object_of_nothing_is_handled_without_panic() {
    for kind in crate::all() {
        let mut object =
            serde_json::json!({"apiVersion": format!("{}/{}", kind.group, kind.version), "kind": kind.kind});
        (kind.default)(&mut object);
        (kind.prepare_create)(&mut object, &context());
        let _ = (kind.validate)(&object);
        let _ = (kind.validate_update)(&object, &object);
        let old = object.clone();
        (kind.prepare_update)(&mut object, &old, &context());
        let _ = (kind.warnings)(&object, Some(&old));
        for (_, read) in kind.fields {
            let _ = read(&object);
        }
        if let Some(table) = &kind.table {
            let row = (table.row)(&object, &jiff::Timestamp::UNIX_EPOCH);
            // Upstream gives IPAddress rows one cell more than columns.
            let more = usize::from(kind.plural == "ipaddresses");
            assert_eq!(row.len(), table.columns.len() + more, "{}", kind.kind);
        }
    }
}

#[test]
fn tables_start_with_a_name_column_and_explain_every_column() {
    for kind in crate::all() {
        let Some(table) = &kind.table else { continue };
        assert!(table.columns.iter().all(|c| !c.description.is_empty()), "{}", kind.kind);
        assert!(table.columns.iter().any(|c| c.format == "name"), "{}", kind.kind);
        let row = kind
            .example
            .is_empty()
            .then(Vec::new)
            .unwrap_or_else(|| (table.row)(&example(kind), &jiff::Timestamp::UNIX_EPOCH));
        assert!(row.is_empty() || row.len() == table.columns.len(), "{}", kind.kind);
    }
}

#[test]
fn every_resource_is_found_by_its_address() {
    for (group, version, plural) in [
        ("", "v1", "pods"),
        ("apps", "v1", "deployments"),
        ("storage.k8s.io", "v1", "csinodes"),
    ] {
        assert!(
            crate::find(group, version, plural).is_some(),
            "{group}/{version}/{plural}"
        );
    }
}
